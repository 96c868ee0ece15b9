"""What can still be had of a damaged pack, copied into new packs.

A table under `moved/` says where everything went, so that references stay as they are: a reader
who finds the pack damaged, or gone, looks into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import msgspec

from s3backfs.errors import IntegrityError, ObjectMissingError
from s3backfs.format.lease import Moved, MovedRange
from s3backfs.format.pack import PackRow, SliceRow
from s3backfs.format.refs import Kind, Ref
from s3backfs.maintenance.content import PackReader
from s3backfs.maintenance.elsewhere import Elsewhere
from s3backfs.maintenance.pack_rows import PackRows
from s3backfs.maintenance.survey import PackListed
from s3backfs.repository.moved import MovedTables, Part, plan_moved
from s3backfs.repository.piece import Piece
from s3backfs.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class LostPart:
    """A content that could not be read; `offset` and `length` count in the chunk."""

    epoch: int
    row: PackRow
    part: SliceRow

    def is_in(self, moved: MovedRange) -> bool:
        """Whether a moved range has bytes of it."""
        is_before = self.part.offset < moved.offset + moved.length
        is_behind = moved.offset < self.part.offset + self.part.length
        return self.row.offset == moved.pack_offset and is_before and is_behind


@dataclass(slots=True)
class Salvaged:
    """What became of one pack."""

    pack: PackListed
    is_table_readable: bool
    copies: list[tuple[int, int, Piece | Ref]] = field(default_factory=list)
    """Offset of the frame, offset in its chunk, and what stands for it now."""
    lost: list[LostPart] = field(default_factory=list)
    known: Moved | None = None
    """Where contents went before."""

    def table(self, repository_id: bytes) -> Moved:
        """Say where everything is; the writer's barrier has been passed."""
        known = () if self.known is None else self.known.ranges
        # What an older table says may lead to packs that are gone by now, or back to this one.
        still_known = [each for each in known if not any(lost.is_in(each) for lost in self.lost)]
        fresh = [_range(*copy) for copy in self.copies]
        return Moved(
            repository_id=repository_id,
            pack_id=self.pack.pack_id,
            ranges=tuple(_disjoint([*fresh, *still_known])),
        )


class Salvage:
    """Copies contents out of damaged packs."""

    def __init__(
        self, repository: Repository, rows: PackRows, elsewhere: Sequence[Elsewhere]
    ) -> None:
        self._repository = repository
        self._rows = rows
        self._elsewhere = elsewhere
        self._reader = PackReader(repository)
        self._tables = MovedTables(repository.store, repository.keyring)

    async def read(self, pack: PackListed) -> Salvaged:
        """Copy all that can be read; the copies are durable after the writer's next barrier.

        Raises:
            S3backfsError: the store did not give or take something.
        """
        tables = await self._rows.own_table(pack)
        salvaged = Salvaged(pack, tables is not None)
        salvaged.known = await self._known_table(pack)
        for epoch, rows in tables or await self._rows.from_elsewhere(pack):
            await self._read_rows(salvaged, epoch, rows)
        return salvaged

    async def _known_table(self, pack: PackListed) -> Moved | None:
        try:
            return await self._tables.load(pack.pack_id)
        except IntegrityError:
            # It is of no use to anybody; the new one takes its place.
            return None

    async def _read_rows(self, into: Salvaged, epoch: int, rows: Sequence[PackRow]) -> None:
        pack = into.pack
        present = [row for row in rows if row.offset + row.frame_length <= pack.length_bytes]
        absent = rows[len(present) :]
        async with aclosing(self._reader.rows(pack, epoch, present)) as found:
            async for row, plain in found:
                if isinstance(plain, IntegrityError):
                    # It may have been damaged on its way only.
                    plain = await self._read_again(pack, epoch, row)
                if isinstance(plain, IntegrityError):
                    absent = [*absent, row]
                else:
                    await self._copy_all(into, row, plain)
        for row in absent:
            into.lost += [LostPart(epoch, row, part) for part in _parts(row)]

    async def _read_again(
        self, pack: PackListed, epoch: int, row: PackRow
    ) -> bytes | IntegrityError:
        ((_, plain),) = [found async for found in self._reader.rows(pack, epoch, [row])]
        return plain

    async def _copy_all(self, into: Salvaged, row: PackRow, plain: bytes) -> None:
        for part in _parts(row):
            data = plain[part.offset : part.offset + part.length]
            await self._copy(into, row, part, data)

    async def _copy(self, into: Salvaged, row: PackRow, part: SliceRow, data: bytes) -> None:
        copy: Piece | Ref
        if into.pack.kind == Kind.META:
            copy = await self._repository.store_node(row.id, data, None)
        else:
            copy = await self._repository.writer.add(memoryview(data))
        into.copies.append((row.offset, part.offset, copy))

    # -- what is somewhere else --------------------------------------------------------------

    async def recreate(self, all_salvaged: Iterable[Salvaged]) -> int:
        """Look elsewhere for what was lost, and copy it; return how many contents were found.

        Raises:
            S3backfsError: the store did not give or take something.
        """
        damaged = [each for each in all_salvaged if each.lost]
        for each in damaged:
            each.lost = [lost for lost in each.lost if not await self._copy_known(each, lost)]
        for place in self._elsewhere:
            wanted = {lost.part.id: lost.part.length for each in damaged for lost in each.lost}
            if wanted:
                await place.look_for(wanted)
        return sum([await self._recreate(each) for each in damaged])

    async def _recreate(self, salvaged: Salvaged) -> int:
        still_lost = []
        for lost in salvaged.lost:
            data = await self._find(salvaged.pack, lost)
            if data:
                await self._copy(salvaged, lost.row, lost.part, data)
            else:
                still_lost.append(lost)
        found_count = len(salvaged.lost) - len(still_lost)
        salvaged.lost = still_lost
        return found_count

    async def _copy_known(self, salvaged: Salvaged, lost: LostPart) -> bool:
        """Copy a content from where it went before, if it is still there."""
        known = () if salvaged.known is None else salvaged.known.ranges
        plan = plan_moved(known, lost.row.offset, lost.part.offset, lost.part.length)
        if plan is None:
            return False
        try:
            data = b"".join([await self._read_moved(salvaged.pack.kind, part) for part in plan])
        except IntegrityError:
            return False
        await self._copy(salvaged, lost.row, lost.part, data)
        return True

    async def _read_moved(self, kind: Kind, part: Part) -> bytes:
        reader = self._repository.reader
        if kind == Kind.META:
            return await reader.read_node_bytes(part.target)
        offset = part.offset - part.target.slice_offset
        return bytes(await reader.read(part.target, offset, part.length))

    async def _find(self, pack: PackListed, lost: LostPart) -> bytes:
        for place in self._elsewhere:
            try:
                data = await place.find(pack, lost.epoch, lost.row, lost.part)
            except ObjectMissingError:
                continue
            if data:
                return data
        return b""


def _parts(row: PackRow) -> tuple[SliceRow, ...]:
    """What of a frame is referred to: the slices of a bundle, else the whole chunk."""
    return row.slices or (SliceRow(row.id, 0, row.chunk_length),)


def _range(pack_offset: int, offset: int, copy: Piece | Ref) -> MovedRange:
    target = copy.ref if isinstance(copy, Piece) else copy
    assert target is not None
    whole: Ref = msgspec.structs.replace(target)
    return MovedRange(pack_offset, offset, whole.slice_length, whole)


def _disjoint(ranges: Iterable[MovedRange]) -> list[MovedRange]:
    """Sort ranges; of those that overlap the first in the sorted order stays."""
    kept: list[MovedRange] = []
    # The sort is stable: of two at one place the first that was given stays.
    for each in sorted(ranges, key=lambda found: (found.pack_offset, found.offset)):
        last = kept[-1] if kept else None
        is_behind = last is None or (each.pack_offset, each.offset) >= (
            last.pack_offset,
            last.offset + last.length,
        )
        if is_behind:
            kept.append(each)
    return kept
