"""The deduplication index: where contents with an id lie. Only a writer needs it.

It answers with packs only that this process has stored itself or has seen in a listing, with the
right length, and that are not condemned: to trust a pack that is gone would lose the next backup.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Sequence, Set
from functools import partial
from pathlib import Path

from s3backfs.format.pack import PackRow, content_refs
from s3backfs.format.refs import Kind, Ref
from s3backfs.format.segment import SegmentPack
from s3backfs.repository.index_file import IndexFile
from s3backfs.repository.index_rows import (
    Found,
    decode_ref,
    decode_rows,
    encode_place,
    encode_rows,
)
from s3backfs.repository.index_sync import refresh, store_segment

__all__ = ["ChunkIndex", "refresh", "store_segment"]

_IDS_AT_ONCE = 256
_SWEEP_SHARE = 10
"""Contents without a pack are removed when more than this part of the packs went at once."""

_LOOKUP = (
    "SELECT c.id, c.place, c.base, p.pack_id, p.epoch"
    " FROM contents c JOIN packs p ON p.number = c.pack WHERE c.id IN ({})"
)
_IS_LISTED = (
    "EXISTS (SELECT 1 FROM temp.listed l"
    " WHERE l.pack_id = packs.pack_id AND l.kind = packs.kind AND l.length = packs.length)"
)


class ChunkIndex:
    """Ids of contents and nodes, and where they lie; every method may be called in any thread.

    The methods block, `lookup` and `shun` only shortly. Nothing that happens to the file is an
    error: it costs deduplication. Without a path the index is in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = IndexFile(path)
        self._lock = threading.Lock()
        self._trusted: set[bytes] = set()
        self._added: set[bytes] = set()
        self._shunned: frozenset[bytes] = frozenset()
        self._damaged: Set[tuple[bytes, int]] = frozenset()
        self._gone: Set[bytes] = frozenset()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    # -- looking up --------------------------------------------------------------------------

    def lookup(self, ids: Sequence[bytes]) -> dict[bytes, Ref]:
        """Find contents; of several places the one in the smallest pack id is taken."""
        found: dict[bytes, Ref] = {}
        for start in range(0, len(ids), _IDS_AT_ONCE):
            for ref in self._look_up(ids[start : start + _IDS_AT_ONCE]):
                known = found.get(ref.id)
                if known is None or ref.pack_id < known.pack_id:
                    found[ref.id] = ref
        return found

    def places(self, content_id: bytes) -> list[Ref]:
        """Find every place of one content."""
        return sorted(self._look_up([content_id]), key=lambda ref: ref.pack_id)

    def _look_up(self, ids: Sequence[bytes]) -> list[Ref]:
        # Only a few lengths of statements, so that SQLite need not parse them again.
        count = 1 << (len(ids) - 1).bit_length()
        padded = [*ids, *[ids[-1]] * (count - len(ids))]
        sql = _LOOKUP.format(",".join("?" * count))

        def look_up(database: sqlite3.Connection) -> list[Ref]:
            rows: list[Found] = database.execute(sql, padded).fetchall()
            return [decode_ref(row) for row in rows if self.is_usable(row[3])]

        nothing: list[Ref] = []
        refs = self._file.read(look_up, nothing)
        return [ref for ref in refs if self._is_sound(ref)]

    def _is_sound(self, ref: Ref) -> bool:
        if (ref.pack_id, ref.pack_offset) in self._damaged:
            return False
        base = ref.base
        if base is None:
            return True
        is_damaged = (base.pack_id, base.pack_offset) in self._damaged
        return not is_damaged and self.is_usable(base.pack_id)

    def is_usable(self, pack_id: bytes) -> bool:
        """Whether contents may refer to a pack: it is there, and not condemned."""
        is_there = pack_id in self._trusted and pack_id not in self._gone
        return is_there and pack_id not in self._shunned

    def is_shunned(self, pack_id: bytes) -> bool:
        """Whether a pack is condemned."""
        return pack_id in self._shunned

    # -- packs -------------------------------------------------------------------------------

    def add_pack(
        self, pack_id: bytes, epoch: int, kind: Kind, length: int, rows: Sequence[PackRow]
    ) -> None:
        """Take in a pack that was just stored; its rows wait to be written into a segment."""
        pack = SegmentPack(pack_id, epoch, kind, length, tuple(rows))
        kept = encode_rows(pack.rows, epoch, kind, length)
        self._file.write(partial(_insert, pack, kept), None)
        with self._lock:
            self._added.add(pack_id)
            self._trusted.add(pack_id)

    def drop_pack(self, pack_id: bytes) -> None:
        """Forget a pack that is gone."""
        with self._lock:
            self._trusted.discard(pack_id)
            self._added.discard(pack_id)
        # Its contents stay behind without a pack until `end_listing` sweeps.
        self._file.write(
            lambda database: database.execute("DELETE FROM packs WHERE pack_id = ?", (pack_id,)),
            None,
        )

    def shun(self, pack_ids: Iterable[bytes]) -> None:
        """Never answer with these packs again: they are condemned."""
        with self._lock:
            self._shunned = self._shunned.union(pack_ids)

    def heed_damage(self, frames: Set[tuple[bytes, int]], packs: Set[bytes]) -> None:
        """Never answer with these frames (pack id, offset) and packs; both may grow at any time."""
        self._damaged, self._gone = frames, packs

    # -- following the store, for `refresh` ----------------------------------------------------

    def begin_listing(self) -> int:
        """Begin to note what a listing shows, and return the number of the newest pack.

        Packs with higher numbers may have been stored too late for the listing.
        """

        def begin(database: sqlite3.Connection) -> int:
            database.execute("DELETE FROM temp.listed")
            (newest,) = database.execute("SELECT coalesce(max(number), 0) FROM packs").fetchone()
            return int(newest)

        with self._lock:
            self._added = set()
        return self._file.write(begin, 0)

    def note_listed(self, rows: Iterable[tuple[bytes, Kind, int]]) -> None:
        """Note a page of a listing: pack ids, kinds, lengths in bytes."""
        sql = "INSERT OR REPLACE INTO temp.listed VALUES (?, ?, ?)"
        self._file.write(lambda database: database.executemany(sql, rows), None)

    def end_listing(self, newest: int) -> None:
        """Drop the packs that were not listed with their length, and trust those that were."""

        def end(database: sqlite3.Connection) -> set[bytes]:
            dropped_count = database.execute(
                f"DELETE FROM packs WHERE number <= ? AND NOT {_IS_LISTED}", (newest,)
            ).rowcount
            listed = database.execute(f"SELECT pack_id FROM packs WHERE {_IS_LISTED}")
            trusted = {pack_id for (pack_id,) in listed}
            if dropped_count * _SWEEP_SHARE > len(trusted):
                database.execute(
                    "DELETE FROM contents WHERE pack NOT IN (SELECT number FROM packs)"
                )
            return trusted

        nothing: set[bytes] = set()
        listed = self._file.write(end, nothing)
        with self._lock:
            self._trusted = listed | self._added

    def known_segments(self) -> set[str]:
        """The segments that were taken in."""

        def known(database: sqlite3.Connection) -> set[str]:
            return {name for (name,) in database.execute("SELECT name FROM segments")}

        return self._file.read(known, set())

    def take_segment(self, name: str, packs: Iterable[SegmentPack]) -> None:
        """Take in a segment: those of its packs that the last listing shows."""
        is_complete = True
        for pack in packs:
            is_listed = self._file.write(partial(_insert_listed, pack), None)
            if is_listed:
                with self._lock:
                    self._trusted.add(pack.pack_id)
            is_complete = is_complete and is_listed is not None
        if is_complete:
            self.note_segment(name, ())

    def note_segment(self, name: str, pack_ids: Iterable[bytes]) -> None:
        """Note that a segment is known, and that these packs are in it."""

        def note(database: sqlite3.Connection) -> None:
            database.execute("INSERT OR IGNORE INTO segments VALUES (?)", (name,))
            database.executemany(
                "UPDATE packs SET rows = NULL WHERE pack_id = ?", [(each,) for each in pack_ids]
            )

        self._file.write(note, None)

    def forget_segments(self, names: Iterable[str]) -> None:
        """Forget segments that the store has no more; their packs stay."""
        rows = [(name,) for name in names]
        sql = "DELETE FROM segments WHERE name = ?"
        self._file.write(lambda database: database.executemany(sql, rows), None)

    def listed_without_rows(self, limit: int) -> list[tuple[bytes, Kind, int]]:
        """Packs of the last listing that the index knows nothing of: id, kind, length in bytes."""

        def find(database: sqlite3.Connection) -> list[tuple[bytes, Kind, int]]:
            rows = database.execute(
                "SELECT pack_id, kind, length FROM temp.listed l WHERE NOT EXISTS"
                " (SELECT 1 FROM packs p WHERE p.pack_id = l.pack_id) LIMIT ?",
                (limit,),
            )
            return [(pack_id, Kind(kind), length) for pack_id, kind, length in rows]

        nothing: list[tuple[bytes, Kind, int]] = []
        # What was listed is known to the connection that writes.
        return self._file.write(find, nothing)

    # -- for `store_segment` -------------------------------------------------------------------

    def waiting_packs(self) -> list[bytes]:
        """The trusted packs that no segment has yet."""

        def find(database: sqlite3.Connection) -> list[bytes]:
            rows = database.execute("SELECT pack_id FROM packs WHERE rows IS NOT NULL")
            return [pack_id for (pack_id,) in rows]

        nothing: list[bytes] = []
        waiting = self._file.read(find, nothing)
        with self._lock:
            return [pack_id for pack_id in waiting if self.is_usable(pack_id)]

    def unsegmented(self, pack_id: bytes) -> tuple[SegmentPack, int] | None:
        """A pack of `add_pack` as segments describe it, and the length of its rows, encoded.

        None where it is in a segment already, or where the file was lost.
        """

        def find(database: sqlite3.Connection) -> tuple[SegmentPack, int] | None:
            row = database.execute(
                "SELECT epoch, kind, length, rows FROM packs"
                " WHERE pack_id = ? AND rows IS NOT NULL",
                (pack_id,),
            ).fetchone()
            if row is None:
                return None
            epoch, kind, length, rows = row
            decoded = decode_rows(rows, epoch, kind, length)
            return SegmentPack(pack_id, epoch, Kind(kind), length, decoded), len(rows)

        return self._file.read(find, None)


def _insert(pack: SegmentPack, kept_rows: bytes | None, database: sqlite3.Connection) -> None:
    """Insert a pack and its contents, if it is not there yet."""
    inserted = database.execute(
        "INSERT OR IGNORE INTO packs(pack_id, epoch, kind, length, rows) VALUES (?, ?, ?, ?, ?)",
        (pack.pack_id, pack.epoch, pack.kind, pack.length, kept_rows),
    )
    if not inserted.rowcount:
        return
    number = inserted.lastrowid
    refs = content_refs(pack.pack_id, pack.epoch, pack.rows)
    database.executemany(
        "INSERT OR IGNORE INTO contents VALUES (?, ?, ?, ?)",
        ((ref.id, number, *encode_place(ref)) for ref in refs),
    )


def _insert_listed(pack: SegmentPack, database: sqlite3.Connection) -> bool | None:
    """Insert a pack only if the listing shows it with the length that the segment states."""
    listed = database.execute(
        "SELECT 1 FROM temp.listed WHERE pack_id = ? AND kind = ? AND length = ?",
        (pack.pack_id, pack.kind, pack.length),
    ).fetchone()
    if listed is not None:
        _insert(pack, None, database)
    return listed is not None
