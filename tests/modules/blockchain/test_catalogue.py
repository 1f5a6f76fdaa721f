"""The catalogue: every part could be issued as an asset, and parts of a type can be compared."""

from __future__ import annotations

from collections import defaultdict

from headwater.modules.blockchain import formats
from headwater.modules.blockchain.catalogue import CATALOGUE, Part


def test_every_part_would_be_accepted_at_the_edge() -> None:
    for part in CATALOGUE:
        assert formats.checked_symbol(part.symbol) == part.symbol
        formats.checked("asset_type", part.asset_type, formats.ASSET_TYPE_PATTERN, "")
        formats.checked_name(part.name)
        formats.checked_description(part.description)
        formats.checked_specifications(dict(part.specifications))
        assert part.price_usd > 0


def test_no_symbol_is_used_twice() -> None:
    assert len({part.symbol for part in CATALOGUE}) == len(CATALOGUE)


def test_parts_of_a_type_state_the_same_figures_and_differ_in_them() -> None:
    types: dict[str, list[Part]] = defaultdict(list)
    for part in CATALOGUE:
        types[part.asset_type].append(part)
    assert len(types) == 12
    for parts in types.values():
        assert len(parts) == 4
        assert len({frozenset(part.specifications) for part in parts}) == 1
        assert len({str(part.specifications) for part in parts}) == 4
