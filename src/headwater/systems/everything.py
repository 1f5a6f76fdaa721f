"""Everything: every module in one database, so that a query can join across all of it."""

from __future__ import annotations

from headwater.kernel.module import System
from headwater.systems.abunfi import ABUNFI
from headwater.systems.construct import CONSTRUCT

EVERYTHING = System("all", [*CONSTRUCT.modules, *ABUNFI.modules], "Every module there is, in one database.")
