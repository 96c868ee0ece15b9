"""The tables at the front of a node that say where its content lies.

The body of a node names content by row number only, so that the same entries have the same body
wherever their chunks are.
Source: docs/format.md, "Nodes".
"""

from __future__ import annotations

from collections.abc import Sequence

from s3backfs.errors import IntegrityError
from s3backfs.format.refs import Ref
from s3backfs.manifest.wire import PackRow, SourceRow


class SourceWriter:
    """Numbers sources in the order of their first use, and then makes the tables.

    One id has one row: of several places, that in the smallest pack id is taken.
    """

    __slots__ = ("_numbers", "_refs")

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._refs: list[Ref] = []

    def number(self, ref: Ref) -> int:
        """Return the row number of a source."""
        number = self._numbers.get(ref.id)
        if number is None:
            number = self._numbers[ref.id] = len(self._refs)
            self._refs.append(ref)
        elif _place(ref) < _place(self._refs[number]):
            self._refs[number] = ref
        return number

    def ids(self) -> tuple[bytes, ...]:
        """Return the ids of all rows that the body uses, in order."""
        return tuple(self._numbers)

    def tables(self) -> tuple[tuple[PackRow, ...], tuple[SourceRow, ...]]:
        """Return packs and rows; the bases of patches that no body uses come last."""
        refs = list(self._refs)
        bases = [ref.base for ref in refs if ref.base is not None]
        at: dict[tuple[bytes, int, int], int] = {}
        if bases:
            at = {_place(ref): number for number, ref in enumerate(refs) if ref.base is None}
        for base in bases:
            if _place(base) not in at:
                at[_place(base)] = len(refs)
                refs.append(base)
        packs: dict[PackRow, int] = {}
        rows = []
        for ref in refs:
            pack_ix = packs.setdefault((ref.pack_id, ref.epoch), len(packs))
            rows.append(_row(ref, pack_ix, -1 if ref.base is None else at[_place(ref.base)]))
        return tuple(packs), tuple(rows)


def _place(ref: Ref) -> tuple[bytes, int, int]:
    return ref.pack_id, ref.pack_offset, ref.slice_offset


def _row(ref: Ref, pack_ix: int, base_ix: int) -> SourceRow:
    return SourceRow(
        pack_ix,
        ref.pack_offset,
        ref.frame_length,
        ref.chunk_length,
        ref.slice_offset,
        ref.slice_length,
        ref.id,
        base_ix,
    )


class SourceTable:
    """The tables of a decoded node; refs are made when they are asked for."""

    __slots__ = ("_packs", "_refs", "_rows")

    def __init__(self, packs: Sequence[PackRow], rows: Sequence[SourceRow]) -> None:
        """Take decoded tables.

        Raises:
            IntegrityError: a row points outside of the tables or of its chunk.
        """
        for row in rows:
            if row.pack_ix >= len(packs) or row.slice_offset + row.slice_length > row.chunk_length:
                raise IntegrityError("a source points outside of its pack table or chunk")
            if row.base_ix >= 0 and (row.base_ix >= len(rows) or rows[row.base_ix].base_ix >= 0):
                raise IntegrityError("a patch has no base that is whole")
        self._packs = packs
        self._rows = rows
        self._refs: list[Ref | None] = [None] * len(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def length(self, number: int) -> int:
        """Return the length in bytes of a source's content.

        Raises:
            IndexError: there is no such row.
        """
        return self._rows[number].slice_length

    def ref(self, number: int) -> Ref:
        """Return where a source lies."""
        found = self._refs[number]
        if found is None:
            found = self._refs[number] = self._make(self._rows[number])
        return found

    def _make(self, row: SourceRow) -> Ref:
        pack_id, epoch = self._packs[row.pack_ix]
        return Ref(
            pack_id=pack_id,
            epoch=epoch,
            pack_offset=row.pack_offset,
            frame_length=row.frame_length,
            chunk_length=row.chunk_length,
            slice_offset=row.slice_offset,
            slice_length=row.slice_length,
            id=row.id,
            base=None if row.base_ix < 0 else self.ref(row.base_ix),
        )
