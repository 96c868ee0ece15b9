"""Which stored bytes only one group of backups refers to, and which several do.

Backups are walked one after the other, the oldest first. A node that another group has led to
before is walked once more, to mark all below it as shared, and then never again: so each distinct
node is read twice at most, however many backups there are. The file is a scratch file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
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
    walk INTEGER NOT NULL, owner INTEGER NOT NULL,
    PRIMARY KEY (pack, pack_offset, slice_offset)
) WITHOUT ROWID;
"""
_CACHE_KIB = 32 * 1024


_TAKE = """
INSERT INTO pieces VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE
    SET owner = iif(owner = excluded.owner, owner, -1), walk = min(walk, excluded.walk)
    WHERE owner NOT IN (-1, excluded.owner) OR walk > excluded.walk
"""
_FIELDS = "pack_offset, slice_offset, plain_bytes, is_meta, walk, owner"


@dataclass(frozen=True, slots=True)
class Piece:
    """A slice of a chunk that is referred to, by which walk first, and by which group."""

    pack_offset: int
    slice_offset: int
    slice_length: int
    is_meta: bool
    walk: int
    owner: int


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
        self._groups: list[int] = []
        """The group of each walk."""

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

    def begin(self, group: int) -> None:
        """Walk a backup of a group now."""
        self._groups.append(group)

    def add(self, ref: Ref) -> bool:
        """Note a node; False where nothing new can be learned below it."""
        sql = (
            "INSERT INTO nodes VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET owner = -1"
            " WHERE owner NOT IN (-1, excluded.owner)"
        )
        row = (self._number(ref.pack_id), ref.pack_offset, self._groups[-1])
        return self._database.execute(sql, row).rowcount > 0

    def mark(self, refs: Iterable[Ref], *, is_meta: bool) -> None:
        """Note what the group refers to."""
        walk, owner = len(self._groups) - 1, self._groups[-1]
        self._database.executemany(_TAKE, [self._row(ref, is_meta, walk, owner) for ref in refs])

    def packs(self) -> set[bytes]:
        """Every pack that was met."""
        return set(self._numbers)

    def pieces(self, pack_id: bytes) -> list[Piece]:
        """What of a pack is referred to."""
        sql = f"SELECT {_FIELDS} FROM pieces WHERE pack = ?"
        rows = self._database.execute(sql, (self._number(pack_id),))
        return [
            Piece(at, offset, length, bool(meta), *by) for at, offset, length, meta, *by in rows
        ]

    def move(self, pack_id: bytes, piece: Piece, places: Iterable[Ref]) -> None:
        """Count a piece where it is by now, in some places, or in none."""
        sql = "DELETE FROM pieces WHERE pack = ? AND pack_offset = ? AND slice_offset = ?"
        place = (self._number(pack_id), piece.pack_offset, piece.slice_offset)
        self._database.execute(sql, place)
        rows = [self._row(ref, piece.is_meta, piece.walk, piece.owner) for ref in places]
        self._database.executemany(_TAKE, rows)

    def _row(self, ref: Ref, is_meta: bool, walk: int, owner: int) -> tuple[int | float, ...]:
        share = ref.slice_length / ref.chunk_length if ref.chunk_length else 1.0
        return (
            self._number(ref.pack_id),
            ref.pack_offset,
            ref.slice_offset,
            ref.frame_length * share,
            ref.slice_length,
            is_meta,
            walk,
            owner,
        )

    def _number(self, pack_id: bytes) -> int:
        number = self._numbers.get(pack_id)
        if number is None:
            number = self._numbers[pack_id] = len(self._numbers)
        return number

    def of_groups(self) -> dict[int, Share]:
        """What each group needs alone, and has brought."""
        unique = dict(self._sums("SELECT owner, sum(stored_bytes) FROM pieces GROUP BY owner"))
        added: dict[int, float] = {}
        for walk, count in self._sums("SELECT walk, sum(stored_bytes) FROM pieces GROUP BY walk"):
            added[self._groups[walk]] = added.get(self._groups[walk], 0) + count
        return {
            each: Share(round(unique.get(each, 0)), round(added.get(each, 0)))
            for each in (set(unique) | set(added)) - {SHARED}
        }

    def _sums(self, sql: str) -> Iterator[tuple[int, float]]:
        return self._database.execute(sql)

    def total(self) -> Total:
        """What all groups need together."""
        sql = (
            "SELECT total(stored_bytes), total(stored_bytes * (owner = -1)),"
            " total(stored_bytes * (1 - is_meta)), total(plain_bytes * (1 - is_meta)) FROM pieces"
        )
        row = self._database.execute(sql).fetchone()
        return Total(*(round(value) for value in row))
