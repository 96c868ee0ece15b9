"""How far ahead of whoever reads a large file in order its bytes are to be fetched, and opened."""

from __future__ import annotations

from typing import NamedTuple

FETCHED_BYTES = 96 * 1024 * 1024
"""How far a sequential reader of a large file is ahead of by what is fetched, as it is stored."""

OPENED_BYTES = 32 * 1024 * 1024
"""How far by what is decrypted and decompressed, too."""

READS_BEFORE = 2
NEAR_BYTES = 1024 * 1024
"""The kernel has several reads under way, which may come in any order."""

SMALL_FILE_BYTES = 1024 * 1024

NOTHING = range(0)


class Ahead(NamedTuple):
    """Which range of a file is to be fetched now, and which is to be opened; both may be empty."""

    fetched: range
    opened: range


class _Window:
    """A distance that is kept ahead of a reader, in steps of half of it."""

    __slots__ = ("_length", "_to")

    def __init__(self, length: int) -> None:
        self._length = length
        self._to = 0

    def reset(self) -> None:
        self._to = 0

    def advance(self, offset: int, size: int) -> range:
        """What comes into the window of a reader at `offset`, which counts as done."""
        if self._to >= min(offset + self._length // 2, size):
            return NOTHING
        start, self._to = max(self._to, offset), min(offset + self._length, size)
        return range(start, self._to)


class ReadOrder:
    """Where one file was read last, and up to where it was looked ahead."""

    __slots__ = ("_fetched", "_opened", "_read_to", "_reads_in_order")

    def __init__(self) -> None:
        self._read_to = 0
        self._reads_in_order = 0
        self._fetched = _Window(FETCHED_BYTES)
        self._opened = _Window(OPENED_BYTES)

    def plan_ahead(self, offset: int, length: int, size: int) -> Ahead | None:
        """Note a read, and say what is to be done ahead of it now; it counts as done.

        Reads come several at once, so no other one is given any of it.
        """
        if size <= SMALL_FILE_BYTES:
            return None
        is_near = abs(offset - self._read_to) <= NEAR_BYTES
        self._read_to = offset + length
        self._reads_in_order = self._reads_in_order + 1 if is_near else 0
        if not is_near:
            self._fetched.reset()
            self._opened.reset()
        if self._reads_in_order < READS_BEFORE:
            return None
        ahead = Ahead(self._fetched.advance(offset, size), self._opened.advance(offset, size))
        return ahead if ahead.fetched or ahead.opened else None
