"""headwater ledger: its accounts, a statement, a transfer; proof that it adds up; torture."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from headwater.cli.exits import OK, VERIFICATION_FAILED
from headwater.cli.options import emit, home_option, json_option, progress

if TYPE_CHECKING:
    from headwater.kernel.postgres import Postgres
    from headwater.modules.ledger.proof import Report


@click.group("ledger")
def command() -> None:
    """The ledger: who has what, what happened to it, and the proof that it adds up.

    \b
    Example:
      headwater ledger accounts --asset USD
      headwater ledger verify
    """


@command.command("accounts")
@click.option("--asset", metavar="CODE", help="Only accounts of this asset.")
@click.option("--owner", metavar="KIND", help="Only accounts of this kind of owner, such as user or system.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, metavar="N", help="At most.")
@click.option("--after", type=int, default=0, metavar="ID", help="Begin after this account.")
@home_option
@json_option
def accounts(asset: str | None, owner: str | None, limit: int, after: int, home: Path, as_json: bool) -> None:
    """List accounts with their balances, by id.

    \b
    Example:
      headwater ledger accounts --asset USD --owner system
      headwater ledger accounts --after 4711 --json
    """
    found = asyncio.run(_accounts(home, asset, owner, limit, after))
    lines = [
        f"{one['id']:>8}  {one['asset']:<10} {one['owner_kind']:<12} {one['owner_id']}  {one['purpose']:<10}"
        f" {one['balance']:>22,}  held {one['held']:,}" + ("  closed" if one["closed"] else "")
        for one in found
    ]
    emit(as_json, {"accounts": found}, "\n".join(lines) or "There are no such accounts.")


@command.command("statement")
@click.argument("account_id", type=int)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, metavar="N", help="At most.")
@click.option("--cursor", metavar="CURSOR", help="Go on where another page ended.")
@home_option
@json_option
def statement(account_id: int, limit: int, cursor: str | None, home: Path, as_json: bool) -> None:
    """Show what happened to an account, the newest first.

    \b
    Example:
      headwater ledger statement 17
      headwater ledger statement 17 --limit 200 --json
    """
    found = asyncio.run(_statement(home, account_id, limit, cursor))
    lines = [
        f"{e['version']:>8}  {e['created_at']}  {e['change']:>+20,}  {e['balance']:>20,}  {e['state']:<8} {e['id']}"
        + (f"  {e['reference']}" if e["reference"] else "")
        for e in found["entries"]
    ]
    if found["next"]:
        lines.append(f"More: --cursor {found['next']}")
    emit(as_json, found, "\n".join(lines) or "Nothing has happened to it.")


@command.command("transfer")
@click.argument("transfer_id", type=click.UUID)
@home_option
@json_option
def transfer(transfer_id: UUID, home: Path, as_json: bool) -> None:
    """Show a transfer: both sides, both balances after it.

    \b
    Example:
      headwater ledger transfer 019b0f6e-2b6e-7d3c-9f7e-0d7a3f0c1a2b
    """
    found = asyncio.run(_transfer(home, transfer_id))
    emit(as_json, found, "\n".join(f"{name:<22} {value}" for name, value in found.items() if value is not None))


@command.command("verify")
@click.option("--seal", "sealing", is_flag=True, help="Afterwards seal what is finished, when everything adds up.")
@click.option(
    "--export",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the digest of the newest seal: keep it where this database's owner cannot write.",
)
@click.option(
    "--digest",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="Check against a digest that was exported earlier.",
)
@click.option("--workers", type=click.IntRange(1, 16), default=2, show_default=True, metavar="N", help="Connections.")
@home_option
@json_option
def verify(sealing: bool, export: Path | None, digest: Path | None, workers: int, home: Path, as_json: bool) -> int:
    """Recompute everything: sums, versions, balances, holds, chains, seals; name the first bad row.

    Ends with exit code 6 when something does not add up. Writers are not held up.

    \b
    Example:
      headwater ledger verify
      headwater ledger verify --seal --export digest.json
      headwater ledger verify --digest digest.json --json
    """
    kept = None if digest is None else digest.read_bytes()
    report, exported = asyncio.run(_verify(home, sealing, kept, workers))
    if export is not None and exported is not None:
        export.write_text(json.dumps(exported) + "\n", encoding="utf-8")
    facts = {**report, "digest": exported}
    rate = report["transfers"] / report["seconds"] if report["seconds"] else 0.0
    lines = [f"{fault['place']}: {fault['message']} ({fault['check']})" for fault in report["faults"]]
    seen = (
        f"{report['transfers']:,} transfers of {report['accounts']:,} accounts, {report['seals']:,} seals"
        f" ({report['unsealed']:,} transfers after the last) in {report['seconds']:.2f} s: {rate:,.0f} transfers/s."
    )
    lines.append(seen if not lines else f"The ledger does NOT add up. {seen}")
    if not report["faults"]:
        lines.append("The ledger adds up.")
    if exported is not None and export is not None:
        lines.append(f"The digest of seal {exported['seal']} is in {export}.")
    emit(as_json, facts, "\n".join(lines))
    return VERIFICATION_FAILED if report["faults"] else OK


@command.command("torture")
@click.option("--kills", type=click.IntRange(1), default=1_000, show_default=True, metavar="N", help="How many.")
@click.option("--clients", type=click.IntRange(1, 32), default=6, show_default=True, metavar="N", help="Processes.")
@click.option("--pause", type=float, default=0.25, show_default=True, metavar="SECONDS", help="Between two kills.")
@click.option("--seed", type=int, default=1, show_default=True, metavar="N", help="Of the order of kills and commands.")
@home_option
@json_option
def torture(kills: int, clients: int, pause: float, seed: int, home: Path, as_json: bool) -> int:
    """Kill clients, backends and the server with -9 while money moves, and prove that nothing was lost or made.

    Runs on a database of its own in a folder inside --home, which is removed afterwards: the stores of the home are
    not touched. Each client keeps a record of what it was told outside the database. Ends with exit code 6 when an
    acknowledged transfer is missing, a refused or unasked one is there, a chain is there in part, or a sum differs.

    \b
    Example:
      headwater ledger torture --kills 1000
      headwater ledger torture --kills 12 --clients 3 --json
    """
    from headwater.cli.ledger_torture import run

    outcome = asyncio.run(run(home, kills=kills, clients=clients, pause_seconds=pause, seed=seed, tell=progress))
    lines = [f"{name:<22} {value:,}" for name, value in outcome["counts"].items()]
    lines += outcome["faults"] or ["Nothing was lost, doubled or made."]
    emit(as_json, outcome, "\n".join(lines))
    return VERIFICATION_FAILED if outcome["faults"] else OK


@asynccontextmanager
async def _postgres(home: Path) -> AsyncIterator[Postgres]:
    from headwater.cli.stores import stores
    from headwater.kernel.postgres import Postgres

    async with stores(home, make_home=False) as settings:
        postgres = await Postgres.open(settings)
        try:
            yield postgres
        finally:
            await postgres.close()


async def _accounts(home: Path, asset: str | None, owner: str | None, limit: int, after: int) -> list[dict[str, Any]]:
    from sqlalchemy import select

    from headwater.modules.ledger.models import Account, Asset

    chosen = select(Account).where(Account.id > after).order_by(Account.id).limit(limit)
    if asset is not None:
        chosen = chosen.where(Account.asset_id.in_(select(Asset.id).where(Asset.code == asset)))
    if owner is not None:
        chosen = chosen.where(Account.owner_kind == owner)
    async with _postgres(home) as postgres:
        codes = {one.id: one.code for one in await postgres.fetch(select(Asset))}
        return [
            {
                "id": one.id,
                "asset": codes[one.asset_id],
                "owner_kind": one.owner_kind,
                "owner_id": str(one.owner_id),
                "purpose": one.purpose,
                "balance": one.balance,
                "held": one.held,
                "credit_limit": one.credit_limit,
                "version": one.version,
                "closed": one.closed_at is not None,
            }
            for one in await postgres.fetch(chosen)
        ]


async def _statement(home: Path, account_id: int, limit: int, cursor: str | None) -> dict[str, Any]:
    import msgspec

    from headwater.modules.ledger.repository import LedgerRepository

    async with _postgres(home) as postgres:
        page = await LedgerRepository(postgres).statement(account_id, limit=limit, cursor=cursor)
    return {"entries": [msgspec.to_builtins(entry) for entry in page.items], "next": page.next}


async def _transfer(home: Path, transfer_id: UUID) -> dict[str, Any]:
    from headwater.kernel.rows import as_dict
    from headwater.modules.ledger.repository import LedgerRepository

    async with _postgres(home) as postgres:
        found = as_dict(await LedgerRepository(postgres).get_transfer(transfer_id))
    found["state"] = found["state"].value
    return {
        name: value if isinstance(value, (int, dict, type(None))) else str(value)
        for name, value in found.items()
        if name not in ("xid", "checksum")
    }


async def _verify(
    home: Path, sealing: bool, digest: bytes | None, workers: int
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    import msgspec

    from headwater.modules.ledger import proof

    kept = None if digest is None else proof.read_digest(digest)
    async with _postgres(home) as postgres:
        report: Report = await proof.verify(postgres, digest=kept, workers=workers)
        newest = None
        if report.sound:
            newest = await (proof.seal(postgres) if sealing else proof.newest_digest(postgres))
    return msgspec.to_builtins(report), None if newest is None else msgspec.to_builtins(newest)
