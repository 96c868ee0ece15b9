"""All references that were found, kept on disk: what is needed of each pack, with its id.

The file is a scratch file: it is made anew by each run and removed at its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from s3backfs.format.refs import Kind, Ref
from s3backfs.maintenance.scratch import Scratch

_SCHEMA = """
CREATE TABLE packs(number INTEGER PRIMARY KEY, pack_id BLOB NOT NULL UNIQUE, kind INTEGER NOT NULL);
CREATE TABLE refs(
    pack INTEGER NOT NULL,
    pack_offset INTEGER NOT NULL,
    slice_offset INTEGER NOT NULL,
    slice_length INTEGER NOT NULL,
    frame_end INTEGER NOT NULL,
    ref BLOB NOT NULL,
    PRIMARY KEY (pack, pack_offset, slice_offset, slice_length)
) WITHOUT ROWID;
CREATE TABLE nodes(
    pack INTEGER NOT NULL,
    pack_offset INTEGER NOT NULL,
    PRIMARY KEY (pack, pack_offset)
) WITHOUT ROWID;
"""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Ref)


class References(Scratch):
    """References found so far; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SCHEMA)
        self._numbers: dict[bytes, int] = {}
        self.nodes_count = 0

    def add(self, ref: Ref) -> bool:
        """Note a node that is to be visited; False where it was noted before."""
        row = (self._number(ref.pack_id, Kind.META), ref.pack_offset)
        sql = "INSERT OR IGNORE INTO nodes VALUES (?, ?)"
        is_new = self.database.execute(sql, row).rowcount > 0
        self.nodes_count += is_new
        return is_new

    def has_node(self, ref: Ref) -> bool:
        """Whether a node was noted."""
        row = (self._numbers.get(ref.pack_id, -1), ref.pack_offset)
        sql = "SELECT 1 FROM nodes WHERE pack = ? AND pack_offset = ?"
        return self.database.execute(sql, row).fetchone() is not None

    def mark(self, refs: Iterable[Ref], kind: Kind = Kind.DATA) -> None:
        """Note references, and those to the bases of patches, which are nodes."""
        rows = []
        for ref in refs:
            rows.append(self._row(ref, kind))
            if ref.base is not None:
                rows.append(self._row(ref.base, Kind.META))
        self.database.executemany("INSERT OR IGNORE INTO refs VALUES (?, ?, ?, ?, ?, ?)", rows)

    def _row(self, ref: Ref, kind: Kind) -> tuple[int | bytes, ...]:
        return (
            self._number(ref.pack_id, kind),
            ref.pack_offset,
            ref.slice_offset,
            ref.slice_length,
            ref.pack_offset + ref.frame_length,
            _encoder.encode(ref),
        )

    def _number(self, pack_id: bytes, kind: Kind) -> int:
        number = self._numbers.get(pack_id)
        if number is None:
            number = self._numbers[pack_id] = len(self._numbers)
            self.database.execute("INSERT INTO packs VALUES (?, ?, ?)", (number, pack_id, kind))
        return number

    def packs(self) -> dict[bytes, Kind]:
        """Every pack that something refers to."""
        rows = self.database.execute("SELECT pack_id, kind FROM packs")
        return {pack_id: Kind(kind) for pack_id, kind in rows}

    def refs(self, pack_id: bytes) -> Iterator[Ref]:
        """What of a pack is referred to, in order of the places."""
        number = self._numbers.get(pack_id, -1)
        sql = "SELECT ref FROM refs WHERE pack = ? ORDER BY pack_offset, slice_offset"
        for (ref,) in self.database.execute(sql, (number,)):
            yield _decoder.decode(ref)

    def end_bytes(self, pack_id: bytes) -> int:
        """Where the last frame of a pack ends that is referred to."""
        number = self._numbers.get(pack_id, -1)
        sql = "SELECT coalesce(max(frame_end), 0) FROM refs WHERE pack = ?"
        return int(self.database.execute(sql, (number,)).fetchone()[0])
