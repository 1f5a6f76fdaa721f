"""Process: a serving process keeps what it started with out of the garbage collector's way."""

from __future__ import annotations

import gc

from headwater.service.process import settle


def test_what_exists_is_frozen_and_the_collector_looks_less_often() -> None:
    before = gc.get_threshold()
    try:
        settle()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold() > before
        assert gc.isenabled()
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
