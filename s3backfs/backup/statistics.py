"""Counting what is in a backup while it changes."""

from __future__ import annotations

import stat
from dataclasses import dataclass

import msgspec

from s3backfs.format.root import Statistics
from s3backfs.manifest.entry import Entry

COUNT_MAX = 2**63 - 1
"""A root holds no larger number; a few sparse files may well add up to more."""


@dataclass(slots=True)
class Tally:
    """Inodes and bytes in an open backup: changed with every name, stored with every root."""

    files: int = 0
    directories: int = 0
    symlinks: int = 0
    others: int = 0
    size_bytes: int = 0
    hard_links: int = 0

    @classmethod
    def of(cls, statistics: Statistics) -> Tally:
        """Go on from a stored root."""
        return cls(
            statistics.files,
            statistics.directories,
            statistics.symlinks,
            statistics.others,
            statistics.logical_bytes,
            statistics.hard_links,
        )

    def add(self, entry: Entry, sign: int = 1) -> None:
        """Count an inode that came, or with -1 one that went."""
        if stat.S_ISREG(entry.mode):
            self.files += sign
            self.size_bytes += sign * entry.size
        elif stat.S_ISDIR(entry.mode):
            self.directories += sign
        elif stat.S_ISLNK(entry.mode):
            self.symlinks += sign
        else:
            self.others += sign

    def stored(
        self, statistics: Statistics, *, entries: int, new_bytes: tuple[int, int, int]
    ) -> Statistics:
        """The statistics for the next root; `new_bytes` are written, deduplicated and stored."""
        written, deduplicated, stored = new_bytes
        return msgspec.structs.replace(
            statistics,
            entries=entries,
            files=self.files,
            directories=self.directories,
            symlinks=self.symlinks,
            others=self.others,
            hard_links=self.hard_links,
            logical_bytes=self.size_bytes,
            written_bytes=statistics.written_bytes + written,
            deduplicated_bytes=statistics.deduplicated_bytes + deduplicated,
            stored_bytes=statistics.stored_bytes + stored,
        )
