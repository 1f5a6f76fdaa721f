"""headwater new: the package of a new module, ready to migrate, seed and serve."""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from pathlib import Path
from string import Template

import click

from headwater.cli.exits import CommandError
from headwater.cli.options import emit, home_option, json_option
from headwater.kernel.errors import InvalidValue, RefusedError

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_ENTITY = re.compile(r"[A-Z][A-Za-z0-9]{0,39}")
_TAKEN = ("headwater", "kernel", "public", "information_schema", "identity")
_FILES = {
    "__init__.py.txt": "__init__.py",
    "models.py.txt": "models.py",
    "cache.py.txt": "cache.py",
    "repository.py.txt": "repository.py",
    "queries.sql.txt": "queries.sql",
    "routes.py.txt": "routes.py",
    "seeds.py.txt": "seeds.py",
    "system.py.txt": "system.py",
    "migration.py.txt": "migrations/0001_$table.py",
}


@click.command("new")
@click.argument("what", type=click.Choice(["module"]))
@click.argument("name")
@click.option("--entity", default="Item", show_default=True, metavar="NAME", help="The first entity of the module.")
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    metavar="DIR",
    help="The folder that the package is made in; the current one by default.",
)
@home_option
@json_option
def command(what: str, name: str, entity: str, into: Path, home: Path, as_json: bool) -> None:
    """Make the package of a module of your own: models, migration, repository, cache policy, routes,
    seeds, and a system to run it.

    It touches no database. What it prints says how to start the new system; --home goes into that line.

    \b
    Example:
      headwater new module shop --entity Product
      headwater up --system shop.system:SHOP
    """
    written = write_module(name, entity, into)
    start = f"headwater up --system {name}.system:{name.upper()}"
    if home != Path(".headwater"):
        start += f" --home {home}"
    lines = [f"Made the module '{name}':", *(f"  {path}" for path in written), "", "Start it:", f"  {start}"]
    emit(as_json, {"module": name, "files": [str(path) for path in written], "start": start}, "\n".join(lines))


def write_module(name: str, entity: str, into: Path) -> list[Path]:
    """Write the package. Raises InvalidValue for a name that cannot be one, RefusedError where something is already."""
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or name in _TAKEN or name.startswith("pg_"):
        raise InvalidValue(
            f"'{name}' cannot name a module.",
            remedy="Use a word in lower case letters, digits and underscores that nothing of ours has.",
        )
    if not _ENTITY.fullmatch(entity) or keyword.iskeyword(_snake(entity)):
        raise InvalidValue(
            f"'{entity}' cannot name an entity.", remedy="Use letters and digits, the first one a capital: Product."
        )
    folder = into / name
    if folder.exists():
        raise RefusedError(f"There is {folder} already.", remedy="Choose another name, or another folder with --into.")
    words = _words(name, entity)
    texts = files("headwater.cli") / "new_module"
    written = []
    try:
        for source, target in _FILES.items():
            path = folder / Template(target).substitute(words)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template((texts / source).read_text(encoding="utf-8")).substitute(words), encoding="utf-8")
            written.append(path)
    except OSError as why:
        raise CommandError(
            f"{why.filename} cannot be written: {why.strerror}.", remedy="Name another folder with --into."
        ) from None
    return sorted(written)


def _words(name: str, entity: str) -> dict[str, str]:
    """What stands in the templates for the names that were given."""
    singular = _snake(entity)
    plural = _plural(singular)
    return {
        "module": name,
        "Module": name.capitalize(),
        "SYSTEM": name.upper(),
        "Entity": entity,
        "entity": singular,
        "table": plural,
        "things": plural.replace("_", " "),
        "Things": plural.replace("_", " ").capitalize(),
    }


def _snake(entity: str) -> str:
    """OrderItem is order_item."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", entity).lower()


def _plural(word: str) -> str:
    """Near enough; a table that should be called otherwise is renamed in three files."""
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith(("s", "x", "ch", "sh")) else f"{word}s"
