"""Admin: what an operator does over HTTP. The same kernel functions as the command line calls, and the same reports."""

from __future__ import annotations

from typing import Annotated

import msgspec

from headwater.kernel import seeds
from headwater.kernel.errors import ConflictError, InvalidValue, LockNotAvailable, MigrationError, UnavailableError
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.routes import Route

PROFILE_PATTERN = r"^(demo|load:[1-9][0-9]{0,3})$"


class AppliedRevision(msgspec.Struct, frozen=True, kw_only=True):
    """One revision that was applied just now."""

    module: str
    revision: str
    name: str
    duration_ms: int


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What `migrate` did: the revisions it applied, in order. None when there was nothing to do."""

    applied: list[AppliedRevision]


class ModuleState(msgspec.Struct, frozen=True, kw_only=True):
    """One module: its newest applied revision, the newest there is, and those that wait."""

    module: str
    current: str | None
    head: str | None
    applied: int
    pending: list[str]


class MigrationState(msgspec.Struct, frozen=True, kw_only=True):
    """Where the schema is. `drifted`: something differs from what was applied; `headwater validate` says what."""

    system: str
    pending: int
    drifted: bool
    modules: list[ModuleState]


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What to seed: `demo`, or `load:N` for at most 9,999 rows; more is for the command line."""

    profile: Annotated[str, msgspec.Meta(pattern=PROFILE_PATTERN)] = "demo"


class Seeded(msgspec.Struct, frozen=True, kw_only=True):
    """What seeding added: rows by table. All zero when everything was there."""

    profile: str
    added: dict[str, int]


async def migrate(headwater: Headwater) -> Applied:
    from headwater.kernel import migrations  # Alembic is loaded by the first who asks

    report = await migrations.migrate(headwater.system, headwater.settings)
    return Applied(
        applied=[
            AppliedRevision(module=one.module, revision=one.revision, name=one.name, duration_ms=one.duration_ms)
            for one in report.applied
        ]
    )


async def migration_status(headwater: Headwater) -> MigrationState:
    from headwater.kernel import migrations  # Alembic is loaded by the first who asks

    found = await migrations.status(headwater.system, headwater.settings)
    return MigrationState(
        system=found.system,
        pending=len(found.pending),
        drifted=found.drifted,
        modules=[
            ModuleState(
                module=one.module,
                current=one.current,
                head=one.head,
                applied=one.applied,
                pending=[planned.revision for planned in one.pending],
            )
            for one in found.modules
        ],
    )


async def seed(body: Profile, headwater: Headwater) -> Seeded:
    report = await seeds.seed(headwater, body.profile)
    return Seeded(profile=report.profile, added=dict(report.added))


def admin_routes() -> tuple[Route, ...]:
    """The operations every service has."""
    return (
        Route(
            method="POST",
            path="/api/admin/migrate",
            handler=migrate,
            summary="Apply the pending revisions",
            description="Safe to repeat: when nothing is pending, nothing happens.",
            scope="admin:migrations:admin",
            raises=(MigrationError, LockNotAvailable, UnavailableError),
            answer_example={"applied": []},
            tag="admin",
        ),
        Route(
            method="GET",
            path="/api/admin/migration-status",
            handler=migration_status,
            summary="Which revisions are applied and which wait",
            scope="admin:migrations:admin",
            raises=(UnavailableError,),
            answer_example={
                "system": "construct",
                "pending": 0,
                "drifted": False,
                "modules": [
                    {
                        "module": "identity",
                        "current": "identity_0001",
                        "head": "identity_0001",
                        "applied": 1,
                        "pending": [],
                    }
                ],
            },
            tag="admin",
        ),
        Route(
            method="POST",
            path="/api/admin/seed",
            handler=seed,
            summary="Plant the seeds of every module",
            description="Deterministic and safe to repeat: what is there already stays as it is.",
            scope="admin:seeds:admin",
            raises=(InvalidValue, ConflictError, UnavailableError),
            body_example={"profile": "demo"},
            answer_example={"profile": "demo", "added": {"public.users": 0}},
            tag="admin",
        ),
    )
