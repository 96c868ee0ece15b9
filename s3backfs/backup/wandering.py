"""Numbers that an inode away from its birthplace may have, so that no new inode gets them.

An inode's number is the hash of the path where it was made. Once it moves away, another one may be
made at that path. What has moved away is remembered as 48-bit hashes: the number itself, and for a
directory also the hash of its old prefix, which stands for all that was made below it.
Source: docs/format.md, "Roots".
"""

from __future__ import annotations

from collections.abc import Iterable

HASH_BYTES = 6
KEPT_COUNT = 8192
"""Beyond this many nothing is remembered, and every new inode gets a number that is stored."""


class Wandering:
    """The hashes of one open backup that new inodes must not get; None once they are too many."""

    __slots__ = ("_hashes",)

    def __init__(self, stored: bytes | None) -> None:
        self._hashes: set[int] | None = None
        if stored is not None:
            starts = range(0, len(stored), HASH_BYTES)
            pieces = (stored[start : start + HASH_BYTES] for start in starts)
            self._hashes = {int.from_bytes(piece, "little") for piece in pieces}

    def add(self, path_hash: int) -> None:
        """Remember what has moved away from its path."""
        if self._hashes is None:
            return
        self._hashes.add(path_hash)
        if len(self._hashes) > KEPT_COUNT:
            self._hashes = None

    def discard(self, path_hash: int) -> None:
        """Forget a number whose inode is back at its path, or gone."""
        if self._hashes:
            self._hashes.discard(path_hash)

    def may_have(self, path_hashes: Iterable[int]) -> bool:
        """Whether one of these may be taken; they are looked at only if anything has moved."""
        if self._hashes is None:
            return True
        return bool(self._hashes) and not self._hashes.isdisjoint(path_hashes)

    def stored(self) -> bytes | None:
        """Give what a root holds."""
        if self._hashes is None:
            return None
        return b"".join([one.to_bytes(HASH_BYTES, "little") for one in sorted(self._hashes)])
