"""A new revision file from what the models say and the database does not have yet, by Alembic's autogenerate.

What comes out is a draft to read: Alembic does not see renames, changed enum labels, functions, triggers or policies.
What the models say of the change stream (`__tracked__`), and versions that are to be kept, are compared by us.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from textwrap import indent
from typing import Any, Literal

from alembic.autogenerate import produce_migrations, render_python_code
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Enum, MetaData, Table, inspect, text
from sqlalchemy.types import TypeDecorator

from headwater.kernel import migrations, revision_files
from headwater.kernel.errors import InvalidValue, PendingMigrations
from headwater.kernel.models import Model, Versioned
from headwater.kernel.module import Module, System
from headwater.kernel.revision_files import KERNEL, Revisions
from headwater.kernel.settings import Settings
from headwater.kernel.tracking import TrackedTable, call_to_track, call_to_untrack, table_name, tracked_table

_TRACKED = text('select "table", policy, keys as keys_, tags, private from headwater.tracked')

_VERSIONED = text(
    "select format('%s.%s', n.nspname, c.relname) from pg_trigger t join pg_class c on c.oid = t.tgrelid "
    "join pg_namespace n on n.oid = c.relnamespace where t.tgname = 'headwater_version'"
)

_FILE = '''"""{message}."""

from __future__ import annotations

{imports}

revision = "{revision}"
down_revision = {down}
branch_labels = {labels}
depends_on = {depends_on}


def upgrade() -> None:
{body}
'''


async def new_revision(system: System, settings: Settings, module: str, message: str) -> Path:
    """Write the next revision of a module and say where. It does nothing yet when models and database agree.

    Raises PendingMigrations while revisions wait: their difference would be written twice.
    """
    owner = next((m for m in system.modules if m.name == module), None)
    if owner is None:
        names = ", ".join(m.name for m in system.modules)
        raise InvalidValue(f"The system '{system.name}' has no module '{module}'.", remedy=f"It has: {names}.")
    for other in system.modules:
        _ = other.models  # read now, so that the tables that foreign keys refer to are known
    words = re.findall(r"[a-z0-9]+", message.lower())
    if not words:
        raise InvalidValue("A revision needs a message.", remedy='Say what it does: -m "orders get a note".')
    waiting = [p.revision for p in await migrations.plan(system, settings)]
    if waiting:
        raise PendingMigrations(
            f"These revisions wait: {', '.join(waiting)}.", remedy="Run `headwater migrate` first.", pending=waiting
        )
    revisions = revision_files.read(system)
    async with migrations.alchemy_connection(settings) as connection:
        body = await connection.run_sync(partial(_difference, owner))
    number = 1 + max((int(n[1]) for r in revisions.of(module) if (n := re.match(r"(\d+)_", r.path.name))), default=0)
    path = owner.migrations / f"{number:04}_{'_'.join(words)[:60]}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(_written(owner, message, number, revisions, body), encoding="utf-8")
    return path


def _written(module: Module, message: str, number: int, revisions: Revisions, body: str) -> str:
    imports = ["import sqlalchemy as sa"] * ("sa." in body) + ["from alembic import op"]
    imports += ["from sqlalchemy.dialects import postgresql"] * ("postgresql." in body)
    head = revisions.heads(module.name)
    return _FILE.format(
        message=message.strip().rstrip(".").replace('"', "'").replace("\\", "/"),
        imports="\n".join(imports),
        revision=f"{module.name}_{number:04}",
        down=f'"{head[0].revision}"' if head else "None",
        labels="None" if head else f'("{module.name}",)',
        depends_on=_as_source(_new_requirements(module, revisions)),
        body=indent(body or "pass", "    "),
    )


def _as_source(names: list[str]) -> str:
    quoted = [f'"{name}"' for name in names]
    return f"({', '.join(quoted)}{',' * (len(quoted) == 1)})" if quoted else "None"


def _new_requirements(module: Module, revisions: Revisions) -> list[str]:
    """The heads of the kernel and of the modules it depends on that no earlier revision of its own rests on already."""
    rests_on: set[str] = set()
    waiting = [r.revision for r in revisions.of(module.name)]
    while waiting:
        name = waiting.pop()
        if name not in rests_on:
            rests_on.add(name)
            waiting += revisions[name].requires
    return [
        head.revision
        for needed in (KERNEL, *module.depends_on)
        for head in revisions.heads(needed)
        if head.revision not in rests_on
    ]


def _difference(module: Module, connection: Connection) -> str:
    """The body of `upgrade`: what the module's models have and the database has not, or the other way round."""
    tables = [model.__table__ for model in module.models if isinstance(model.__table__, Table)]
    metadata = MetaData(naming_convention=Model.metadata.naming_convention)
    for table in _with_what_they_refer_to(tables):
        table.to_metadata(metadata)
    mine = {(table.schema or "public", table.name) for table in tables}
    schemas = {schema for schema, _ in mine}

    def is_mine(found: Any, name: str | None, kind: str, _reflected: bool, _compared: Any) -> bool:
        # A schema of its own is compared whole, so that a dropped model is seen; `public` is shared.
        if kind != "table":
            return True
        schema = found.schema or "public"
        return (schema, name) in mine or (schema != "public" and schema in schemas)

    def is_read(name: str | None, kind: str, _parents: Any) -> bool:
        return (name or "public") in schemas if kind == "schema" else True

    context = MigrationContext.configure(
        connection,
        opts={
            "include_schemas": True,
            "include_object": is_mine,
            "include_name": is_read,
            "compare_type": True,
            "compare_server_default": True,
        },
    )
    with warnings.catch_warnings():
        # SQLAlchemy cannot read a CHECK that is NOT ENFORCED, and says so. Alembic compares no CHECK anyway.
        warnings.filterwarnings("ignore", "Could not parse CHECK constraint text")
        upgrade = produce_migrations(context, metadata).upgrade_ops
    assert upgrade is not None
    drawn = render_python_code(upgrade, render_item=_render_item, migration_context=context)
    lines = [line.removeprefix("    ") for line in drawn.split("\n") if not line.lstrip().startswith("# ###")]
    inspector = inspect(connection)
    there = set(inspector.get_schema_names())
    made = [
        f"op.execute('create schema {quote}')" for s in sorted(schemas - there) if (quote := _quoted(connection, s))
    ]
    for enum in _enums(tables):
        schema = enum.schema or "public"
        known = {e["name"] for e in inspector.get_enums(schema)} if schema in there else set()  # type: ignore[attr-defined]  # PostgreSQL's inspector has it
        if enum.name not in known:
            labels = ", ".join("'" + label.replace("'", "''") + "'" for label in enum.enums)
            name = f"{_quoted(connection, schema)}.{_quoted(connection, str(enum.name))}"
            made.append(f"op.execute({f'create type {name} as enum ({labels})'!r})")
    body = "\n".join([*made, *lines]).strip()
    body = "" if body == "pass" else body.removesuffix("\npass")
    return "\n".join(line for line in (body, *_tracking(module, connection, schemas)) if line)


def _tracking(module: Module, connection: Connection, schemas: set[str]) -> Iterator[str]:
    """The calls that make the change stream track what the models declare, and no more."""
    declared = {table.name: table for model in module.models if (table := tracked_table(model))}
    mine = {table_name(model) for model in module.models}
    there = {
        row.table: TrackedTable(row.table, row.policy, tuple(row.keys_), tuple(row.tags), tuple(row.private))
        for row in connection.execute(_TRACKED)
        if row.table in mine or (row.table.partition(".")[0] in schemas - {"public"})
    }
    for name, table in declared.items():
        if there.get(name) != table:
            yield f'op.execute("{call_to_track(table)}")'
    kept = set(connection.execute(_VERSIONED).scalars())
    for model in module.models:
        if issubclass(model, Versioned) and table_name(model) not in kept:
            yield f"op.execute(\"select headwater.keep_version('{table_name(model)}')\")"
    for name in sorted(there.keys() - declared.keys()):
        yield f'op.execute("{call_to_untrack(name)}")'


def _with_what_they_refer_to(tables: list[Table]) -> Iterator[Table]:
    done: set[str] = set()
    waiting = list(tables)
    while waiting:
        table = waiting.pop(0)
        if table.key not in done:
            done.add(table.key)
            waiting += [key.column.table for key in table.foreign_keys]
            yield table


def _enums(tables: list[Table]) -> list[Enum]:
    found: dict[tuple[str | None, str | None], Enum] = {}
    for table in tables:
        for column in table.columns:
            kind = getattr(column.type, "item_type", column.type)
            if isinstance(kind, Enum) and kind.native_enum:
                found[kind.schema, kind.name] = kind
    return list(found.values())


def _quoted(connection: Connection, name: str) -> str:
    return str(connection.dialect.identifier_preparer.quote(name))


def _render_item(kind: str, item: Any, context: Any) -> str | Literal[False]:
    """How a type is written: an enum by name, for it is made beforehand; a type of ours as what PostgreSQL stores."""
    if kind != "type":
        return False
    if isinstance(item, Enum) and item.native_enum:
        labels = "".join(f"{label!r}, " for label in item.enums)
        schema = f", schema={item.schema!r}" if item.schema else ""
        return f"postgresql.ENUM({labels}name={item.name!r}{schema}, create_type=False)"
    if isinstance(item, TypeDecorator):
        stored = item.load_dialect_impl(context.dialect)
        ours = type(stored).__module__.startswith("sqlalchemy.dialects.postgresql")
        return f"{'postgresql' if ours else 'sa'}.{stored!r}"
    return False
