"""Which parts of which packs are referred to, kept on disk: memory does not grow with them.

A mark is a pack with an offset of a frame, and the slice in its chunk. The file is a scratch file:
it is made anew by each run and removed at its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from s3backfs.format.refs import Ref
from s3backfs.maintenance.scratch import Scratch

_SCHEMA = """
CREATE TABLE packs(
    number INTEGER PRIMARY KEY,
    pack_id BLOB NOT NULL UNIQUE,
    epoch INTEGER NOT NULL
);
CREATE TABLE marks(
    pack INTEGER NOT NULL,
    pack_offset INTEGER NOT NULL,
    slice_offset INTEGER NOT NULL,
    slice_length INTEGER NOT NULL,
    frame_length INTEGER NOT NULL,
    chunk_length INTEGER NOT NULL,
    PRIMARY KEY (pack, pack_offset, slice_offset, slice_length)
) WITHOUT ROWID;
CREATE TABLE nodes(
    pack INTEGER NOT NULL,
    pack_offset INTEGER NOT NULL,
    PRIMARY KEY (pack, pack_offset)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Range:
    """A slice of a chunk that something refers to; bytes of plaintext, the frame's are sealed."""

    pack_offset: int
    frame_length: int
    chunk_length: int
    slice_offset: int
    slice_length: int


class Marks(Scratch):
    """References found so far; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SCHEMA)
        self._numbers: dict[bytes, int] = {}
        self.count = 0

    def add(self, ref: Ref) -> bool:
        """Note a node that is to be visited; False where it was noted before."""
        row = (self._number(ref), ref.pack_offset)
        return self.database.execute("INSERT OR IGNORE INTO nodes VALUES (?, ?)", row).rowcount > 0

    def mark(self, refs: Iterable[Ref]) -> None:
        """Note references, and those to the bases of patches."""
        rows = [self._row(ref) for ref in _with_bases(refs)]
        sql = "INSERT OR IGNORE INTO marks VALUES (?, ?, ?, ?, ?, ?)"
        self.count += max(0, self.database.executemany(sql, rows).rowcount)

    def _row(self, ref: Ref) -> tuple[int, ...]:
        return (
            self._number(ref),
            ref.pack_offset,
            ref.slice_offset,
            ref.slice_length,
            ref.frame_length,
            ref.chunk_length,
        )

    def _number(self, ref: Ref) -> int:
        number = self._numbers.get(ref.pack_id)
        if number is None:
            number = self._numbers[ref.pack_id] = len(self._numbers)
            row = (number, ref.pack_id, ref.epoch)
            self.database.execute("INSERT INTO packs VALUES (?, ?, ?)", row)
        return number

    def packs(self) -> set[bytes]:
        """Every pack that something refers to."""
        return {
            pack_id
            for (pack_id,) in self.database.execute(
                "SELECT pack_id FROM packs WHERE EXISTS"
                " (SELECT 1 FROM marks WHERE marks.pack = packs.number)"
            )
        }

    def epochs(self) -> dict[bytes, int]:
        """The key epoch of every pack that was met, as those say who refer to it."""
        return dict(self.database.execute("SELECT pack_id, epoch FROM packs"))

    def ranges(self, pack_id: bytes) -> Iterator[Range]:
        """What of a pack is referred to, in order of the places."""
        number = self._numbers.get(pack_id, -1)
        sql = (
            "SELECT pack_offset, frame_length, chunk_length, slice_offset, slice_length"
            " FROM marks WHERE pack = ? ORDER BY pack_offset, slice_offset"
        )
        for row in self.database.execute(sql, (number,)):
            yield Range(*row)


def live_bytes(ranges: Iterable[Range]) -> int:
    """About how many stored bytes some ranges are, in order: of a bundle the slices' share.

    It is 0 only without any range.
    """
    live, frame, end = 0, -1, 0
    for found in ranges:
        if found.pack_offset != frame:
            frame, end = found.pack_offset, 0
        fresh = max(0, found.slice_offset + found.slice_length - max(end, found.slice_offset))
        end = max(end, found.slice_offset + found.slice_length)
        live += max(1, found.frame_length * fresh // max(1, found.chunk_length))
    return live


def _with_bases(refs: Iterable[Ref]) -> Iterator[Ref]:
    for ref in refs:
        yield ref
        if ref.base is not None:
            yield ref.base
