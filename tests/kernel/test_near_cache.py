"""The near cache: bounded, not washed out, and never keeping what was invalidated while it was being read."""

from __future__ import annotations

import random

from headwater.kernel.near_cache import NearCache


def keep(cache: NearCache, key: int, deadline: float = 10.0) -> bool:
    return cache.store(key, cache.begin(key), f"value {key}", deadline)


def test_it_keeps_no_more_than_it_may() -> None:
    cache = NearCache(3)
    for key in range(100):
        keep(cache, key)
    assert len(cache) == 3


def test_a_value_ends_at_its_time() -> None:
    cache = NearCache(3)
    keep(cache, 1, deadline=5)
    assert cache.get(1, 4.9) == "value 1"
    assert cache.get(1, 5) is None


def test_what_was_invalidated_while_it_was_read_is_not_kept() -> None:
    cache = NearCache(3)
    ticket = cache.begin(1)
    cache.discard(1)
    assert not cache.store(1, ticket, "old", 10)
    assert cache.get(1, 0) is None


def test_what_was_cleared_while_it_was_read_is_not_kept() -> None:
    cache = NearCache(3)
    ticket = cache.begin(1)
    cache.clear()
    assert not cache.store(1, ticket, "old", 10)


def test_of_two_reads_the_one_that_began_later_is_kept() -> None:
    cache = NearCache(3)
    early, late = cache.begin(1), cache.begin(1)
    assert cache.store(1, late, "new", 10)
    assert not cache.store(1, early, "old", 10)
    assert cache.get(1, 0) == "new"


def test_a_read_that_gave_nothing_leaves_nothing() -> None:
    cache = NearCache(3)
    cache.abandon(1, cache.begin(1))
    assert not cache._reading


def test_a_scan_does_not_wash_out_what_is_read_again() -> None:
    cache = NearCache(10)
    for key in range(5):
        keep(cache, key)
    for scanned in range(1_000, 1_200):
        for key in range(5):
            assert cache.get(key, 0) == f"value {key}"
        keep(cache, scanned)


def test_it_stays_whole_under_random_use() -> None:
    lot, cache, truth = random.Random(7), NearCache(8), {}
    for step in range(20_000):
        key = lot.randrange(24)
        match lot.randrange(4):
            case 0:
                keep(cache, key)
                truth[key] = f"value {key}"
            case 1:
                cache.discard(key)
                truth.pop(key, None)
            case _:
                assert cache.get(key, 0) in (None, truth.get(key))
        assert len(cache) <= 8
        if step % 1_000 == 0:
            chain, node = [], cache._newest
            while node is not None:
                chain.append(node.key)
                node = node.older
            assert sorted(chain) == sorted(cache.entries)
