"""Snapshots as versions: checked against PostgreSQL's own arithmetic and against a history in order."""

from __future__ import annotations

import random

import asyncpg

from headwater.kernel.snapshots import covers, fulfilled, parse, seen


def history(steps: int, seed: int) -> list[str]:
    """Snapshots of one primary in the order they were taken, transactions beginning and ending in between."""
    lot, running, upcoming, taken = random.Random(seed), set[int](), 100, []
    highest = 99
    for _ in range(steps):
        if lot.random() < 0.5:
            running.add(upcoming)
            upcoming += 1
        elif running:
            ended = lot.choice(sorted(running))
            running.discard(ended)
            highest = max(highest, ended)
        xmax = highest + 1
        listed = sorted(xid for xid in running if xid < xmax)
        taken.append(f"{listed[0] if listed else xmax}:{xmax}:{','.join(map(str, listed))}")
    return taken


def test_a_later_snapshot_covers_every_earlier_one_and_an_earlier_one_none_that_saw_more() -> None:
    for seed in range(20):
        taken = history(60, seed)
        for i, early in enumerate(taken):
            for late in taken[i:]:
                assert covers(late, early)
                saw_as_much = all(
                    seen(xid, parse(early)) or not seen(xid, parse(late)) for xid in range(90, parse(late).xmax)
                )
                assert covers(early, late) == saw_as_much


async def test_what_is_seen_is_what_postgresql_says(empty_database: str) -> None:
    connection = await asyncpg.connect(empty_database)
    for text in ("100:100:", "100:105:", "100:105:100,103", "7:9:8"):
        for xid in range(5, 110):
            said = await connection.fetchval(
                "select pg_visible_in_snapshot($1::text::xid8, $2::text::pg_snapshot)", str(xid), text
            )
            assert said == seen(xid, parse(text)), (text, xid)
    await connection.close()


def test_needs_are_met_by_a_snapshot_that_saw_them_all() -> None:
    assert fulfilled(b"0;", "5:5:")
    assert fulfilled(b"0;3,4", "5:9:6")
    assert not fulfilled(b"0;3,6", "5:9:6")
    assert not fulfilled(b"5;", "5:9:")
    assert fulfilled(b"4;", "5:9:")
