"""How far ahead of whoever reads a large file in order its bytes are to be fetched."""

from __future__ import annotations

AHEAD_BYTES = 32 * 1024 * 1024
"""How far a sequential reader of a large file is read ahead of."""

READS_BEFORE = 2
NEAR_BYTES = 1024 * 1024
"""The kernel has several reads under way, which may come in any order."""

SMALL_FILE_BYTES = 1024 * 1024


class ReadOrder:
    """Where one file was read last, and up to where it was looked ahead."""

    __slots__ = ("_ahead_to", "_read_to", "_reads_in_order")

    def __init__(self) -> None:
        self._read_to = 0
        self._reads_in_order = 0
        self._ahead_to = 0

    def plan_ahead(self, offset: int, length: int, size: int) -> range | None:
        """Note a read, and say which range of the file is to be fetched now; it counts as fetched.

        Reads come several at once, so no other one is given any of it.
        """
        if size <= SMALL_FILE_BYTES:
            return None
        is_near = abs(offset - self._read_to) <= NEAR_BYTES
        self._read_to = offset + length
        self._reads_in_order = self._reads_in_order + 1 if is_near else 0
        if not is_near:
            self._ahead_to = 0
        if self._reads_in_order < READS_BEFORE or self._ahead_to >= offset + AHEAD_BYTES // 2:
            return None
        start, self._ahead_to = max(self._ahead_to, offset), min(offset + AHEAD_BYTES, size)
        return range(start, self._ahead_to)
