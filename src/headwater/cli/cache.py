"""headwater cache: what the cache does, whether it says what PostgreSQL says, and how to empty it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headwater.cli.exits import OK, UNREACHABLE, VERIFICATION_FAILED, CommandError
from headwater.cli.options import emit, home_option, json_option, system_option

if TYPE_CHECKING:
    from headwater.kernel.cache import Cache
    from headwater.kernel.cached import Remade
    from headwater.kernel.cached_rows import Entity
    from headwater.kernel.lifecycle import Headwater

_LOOKS_SECONDS = (0.0, 1.0, 10.0)
_FIGURES_SECONDS_MAX = 10.0
_COHERENCE_SECONDS = 24 * 3600


@click.group("cache")
def command() -> None:
    """The cache in Valkey: coherent with PostgreSQL, or not believed.

    \b
    Example:
      headwater cache stats
      headwater cache verify
    """


@command.command("stats")
@home_option
@json_option
def stats(home: Path, as_json: bool) -> None:
    """Tell hits, misses, fills refused and bypasses by kind, summed over the processes that run.

    \b
    Example:
      headwater cache stats
      headwater cache stats --json
    """
    found = asyncio.run(_stats(home))
    many = f"{found['processes']} process{'' if found['processes'] == 1 else 'es'}"
    lines = [f"{many}; the relay {'keeps up' if found['trusted'] else 'is NOT running'}."]
    for kind, figures in sorted(found["kinds"].items()):
        lines.append(f"{kind:<24} " + "  ".join(f"{name} {count:,}" for name, count in figures.items()))
    emit(as_json, found, "\n".join(lines))


@command.command("verify")
@click.option("--sample", type=click.IntRange(min=1), default=1000, show_default=True, help="Entries per kind.")
@click.option("--quick", is_flag=True, help="Leave out the look after 10 seconds.")
@system_option
@home_option
@json_option
def verify(sample: int, quick: bool, system_name: str, home: Path, as_json: bool) -> int:
    """Compare sampled rows and results with PostgreSQL now, after 1 s and after 10 s.

    An entry may differ for the moment its invalidation takes. One that differs at every look is stale: exit code 6.
    What was found stands in /metrics as headwater_cache_coherent_percent, for a day.

    \b
    Example:
      headwater cache verify
      headwater cache verify --sample 100 --quick --json
    """
    found = asyncio.run(_verify(home, system_name, sample, _LOOKS_SECONDS[:2] if quick else _LOOKS_SECONDS))
    lines = [f"{found['entries']} entries, {found['coherent_percent']:.4f} % coherent."]
    lines += [f"after {look['after_seconds']:g} s: {look['differing']} differ" for look in found["looks"]]
    lines += [f"stale: {name}" for name in found["stale"]]
    emit(as_json, found, "\n".join(lines))
    return VERIFICATION_FAILED if found["stale"] else OK


@command.command("flush")
@home_option
@json_option
def flush(home: Path, as_json: bool) -> None:
    """Make every entry invalid at once. The relay begins a new generation; sessions and the like stay.

    \b
    Example:
      headwater cache flush
    """
    asyncio.run(_flush(home))
    emit(as_json, {"flushed": True}, "Every entry is invalid.")


@asynccontextmanager
async def _opened(home: Path, system_name: str | None = None) -> AsyncIterator[tuple[Headwater, Cache]]:
    from headwater.cli.health import _settings
    from headwater.kernel.lifecycle import Headwater
    from headwater.kernel.module import System
    from headwater.systems import find

    system = System("stores", ()) if system_name is None else find(system_name)
    async with Headwater.open(system, _settings(home)) as headwater:
        cache = headwater.postgres.cache
        if cache is None or not cache.wire.up:
            raise CommandError(
                "No Valkey answers.",
                remedy="Set HEADWATER_VALKEY_URL, or see `headwater health`.",
                exit_code=UNREACHABLE,
            )
        yield headwater, cache


async def _stats(home: Path) -> dict[str, Any]:
    import msgspec

    kinds: dict[str, dict[str, int]] = {}
    processes = 0
    async with _opened(home) as (_, cache):
        reports = await cache.wire.send(b"HGETALL", cache.figures_name)
        for written in reports.values():
            said = msgspec.json.decode(written)
            if time.time() - said["at"] > _FIGURES_SECONDS_MAX:
                continue
            processes += 1
            for kind, figures in said["kinds"].items():
                total = kinds.setdefault(kind, {})
                for name, count in figures.items():
                    total[name] = total.get(name, 0) + count
        return {"processes": processes, "trusted": cache.good_until > 0, "kinds": kinds}


async def _verify(home: Path, system_name: str, sample: int, looks: tuple[float, ...]) -> dict[str, Any]:
    import msgspec

    from headwater.kernel.cache import Coherence
    from headwater.kernel.cached import remade

    async with _opened(home, system_name) as (headwater, cache):
        for module in headwater.system.modules:
            _ = module.routes  # they say which results are also kept as JSON
        kinds: list[Entity | Remade] = [*cache.entities.values(), *remade(cache, headwater.repository)]
        await cache.look()
        sampled: list[tuple[Entity | Remade, bytes]] = []
        for kind in kinds:
            names = await _names(cache, kind, sample)
            sampled.extend((kind, name) for name in names)
        began, told = time.monotonic(), []
        differing = sampled
        for after in looks:
            await asyncio.sleep(max(0.0, began + after - time.monotonic()))
            found = [(one, await one[0].differs(one[1])) for one in differing]
            if differing is sampled:
                sampled = [one for one, differs in found if differs is not None]
            differing = [one for one, differs in found if differs]
            told.append({"after_seconds": after, "differing": len(differing)})
        # An entry that differed at once and not later was on its way; only what stays is stale.
        stale = [name.decode() for _, name in differing]
        figure = Coherence(time.time(), len(sampled), len(stale))
        await cache.wire.send(b"SET", cache.coherence_name, msgspec.json.encode(figure), b"EX", _COHERENCE_SECONDS)
        by_kind = {kind.name: sum(of is kind for of, _ in sampled) for kind in kinds}
        return {
            "entries": len(sampled),
            "by_kind": by_kind,
            "coherent_percent": figure.percent,
            "looks": told,
            "stale": stale,
        }


async def _names(cache: Cache, kind: Entity | Remade, sample: int) -> list[bytes]:
    names: list[bytes] = []
    place: Any = 0
    while True:
        place, found = await cache.wire.send(b"SCAN", place, b"MATCH", kind.name_of("*"), b"COUNT", 500)
        names += found
        if int(place) == 0 or len(names) >= sample:
            return names[:sample]


async def _flush(home: Path) -> None:
    async with _opened(home) as (_, cache):
        await cache.wire.send(b"DEL", cache.cursor_name, cache.guard_name)
