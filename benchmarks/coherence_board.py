"""CoherenceBoard: the rows of the coherence checker, and what its processes tell each other in shared memory."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from uuid import UUID

ROWS = 64
VICTIM_ROWS = 8
"""The last ones belong to the writer that is killed."""
PHANTOM = 10**9
"""Versions from here on are only written by transactions that roll back."""

RETURNED, ANSWERED, COMMITTED, COMMITTED_AT = range(4)
"""Of a row: the version whose call has returned, whose COMMIT PostgreSQL has answered (both of library writers), the
newest one committed by whoever, and when that was."""
WRITING, RESTING, OVER = 1, 2, 9
"""Phases."""
_FIELDS = 4
_SIZE = ROWS * _FIELDS * 8 + 64


def key_of(row: int) -> UUID:
    """The key of a row."""
    return UUID(int=0x5EED_C0DE_0000_8000_8000_0000_0000_0000 + row)


class Board:
    """One number per row and field; the phase, the turn, and which turn each writer has come to rest in."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        if create:
            path.write_bytes(b"\0" * _SIZE)
        self._file = path.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), _SIZE)

    def get(self, what: int, row: int) -> int:
        return self._at((what * ROWS + row) * 8)

    def put(self, what: int, row: int, value: int) -> None:
        struct.pack_into("<q", self._map, (what * ROWS + row) * 8, value)

    @property
    def phase(self) -> int:
        return self._at(ROWS * _FIELDS * 8)

    @phase.setter
    def phase(self, value: int) -> None:
        struct.pack_into("<q", self._map, ROWS * _FIELDS * 8, value)

    @property
    def turn(self) -> int:
        return self._at(ROWS * _FIELDS * 8 + 8)

    @turn.setter
    def turn(self, value: int) -> None:
        struct.pack_into("<q", self._map, ROWS * _FIELDS * 8 + 8, value)

    def rests(self, writer: int) -> int:
        """The last turn in which this writer had nothing under way."""
        return self._at(ROWS * _FIELDS * 8 + 16 + writer * 8)

    def rest(self, writer: int, turn: int) -> None:
        struct.pack_into("<q", self._map, ROWS * _FIELDS * 8 + 16 + writer * 8, turn)

    def _at(self, offset: int) -> int:
        value: int = struct.unpack_from("<q", self._map, offset)[0]
        return value
