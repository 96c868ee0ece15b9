"""Which stored bytes only one group of backups refers to, and which several do.

Backups are walked one after the other. A node that another group has led to before is walked once
more, to mark all below it as shared, and then never again: so each distinct node is read twice at
most, however many backups there are. The file is a scratch file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from s3backfs.format.refs import Ref

SHARED = -1

_SCHEMA = """
CREATE TABLE nodes(
    pack INTEGER NOT NULL, pack_offset INTEGER NOT NULL, owner INTEGER NOT NULL,
    PRIMARY KEY (pack, pack_offset)
) WITHOUT ROWID;
CREATE TABLE pieces(
    pack INTEGER NOT NULL, pack_offset INTEGER NOT NULL, slice_offset INTEGER NOT NULL,
    stored_bytes REAL NOT NULL, plain_bytes INTEGER NOT NULL, is_meta INTEGER NOT NULL,
    first INTEGER NOT NULL, owner INTEGER NOT NULL,
    PRIMARY KEY (pack, pack_offset, slice_offset)
) WITHOUT ROWID;
"""
_CACHE_KIB = 32 * 1024


@dataclass(frozen=True, slots=True)
class Share:
    """Bytes of stored frames: those that only a group needs, and those that it was the first to."""

    unique_bytes: int = 0
    added_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Total:
    """Bytes of all that is referred to, as stored and as plaintext."""

    stored_bytes: int
    shared_bytes: int
    content_stored_bytes: int
    content_plain_bytes: int


class Shares:
    """Who refers to what; use it as a context manager, and as the memory of a walk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._database.executescript(_SCHEMA)
        self._database.execute("BEGIN")
        self._numbers: dict[bytes, int] = {}
        self.group = 0
        """The group whose backups are being walked."""

    def __enter__(self) -> Shares:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()
        self._path.unlink(missing_ok=True)

    def add(self, ref: Ref) -> bool:
        """Note a node; False where nothing new can be learned below it."""
        sql = (
            "INSERT INTO nodes VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET owner = -1"
            " WHERE owner NOT IN (-1, excluded.owner)"
        )
        row = (self._number(ref.pack_id), ref.pack_offset, self.group)
        return self._database.execute(sql, row).rowcount > 0

    def mark(self, refs: Iterable[Ref], *, is_meta: bool) -> None:
        """Note what the group refers to."""
        sql = (
            "INSERT INTO pieces VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
            " SET owner = -1 WHERE owner NOT IN (-1, excluded.owner)"
        )
        self._database.executemany(sql, [self._row(ref, is_meta) for ref in refs])

    def _row(self, ref: Ref, is_meta: bool) -> tuple[int | float, ...]:
        share = ref.slice_length / ref.chunk_length if ref.chunk_length else 1.0
        return (
            self._number(ref.pack_id),
            ref.pack_offset,
            ref.slice_offset,
            ref.frame_length * share,
            ref.slice_length,
            is_meta,
            self.group,
            self.group,
        )

    def _number(self, pack_id: bytes) -> int:
        number = self._numbers.get(pack_id)
        if number is None:
            number = self._numbers[pack_id] = len(self._numbers)
        return number

    def of_groups(self) -> dict[int, Share]:
        """What each group needs alone, and has brought."""
        unique = self._sums("SELECT owner, sum(stored_bytes) FROM pieces GROUP BY owner")
        added = self._sums("SELECT first, sum(stored_bytes) FROM pieces GROUP BY first")
        groups = (set(unique) | set(added)) - {SHARED}
        return {each: Share(unique.get(each, 0), added.get(each, 0)) for each in groups}

    def _sums(self, sql: str) -> dict[int, int]:
        return {key: round(value) for key, value in self._database.execute(sql)}

    def total(self) -> Total:
        """What all groups need together."""
        sql = (
            "SELECT total(stored_bytes), total(stored_bytes * (owner = -1)),"
            " total(stored_bytes * (1 - is_meta)), total(plain_bytes * (1 - is_meta)) FROM pieces"
        )
        row = self._database.execute(sql).fetchone()
        return Total(*(round(value) for value in row))
