"""Bringing what is alive in poor packs into new ones.

    read live contents -> new packs stored -> moved tables stored -> old packs may go

References stay as they are: readers find the old pack gone and look into its table.
Source: docs/design.md, "Compaction"; docs/format.md, "Moved tables".
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import msgspec

from s3backfs.errors import (
    IntegrityError,
    ObjectMissingError,
    PreconditionFailedError,
    RepositoryBusyError,
)
from s3backfs.format.lease import Moved, MovedRange, encode_moved
from s3backfs.format.pack import PackRow, chunk_ref
from s3backfs.format.refs import Kind, Ref
from s3backfs.maintenance.marks import Marks, Range
from s3backfs.maintenance.survey import PackListed
from s3backfs.repository.moved import MovedTables, plan_moved
from s3backfs.repository.piece import Piece
from s3backfs.repository.repository import Repository
from s3backfs.repository.tables import PackContents, load_pack_table
from s3backfs.store.base import Condition, IfAbsent, IfMatch

log = logging.getLogger(__name__)

AHEAD_COUNT = 32
"""So many contents are read ahead, which lie near each other: few requests for them."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A live range of the old pack, and what it is copied to."""

    pack_offset: int
    offset: int
    length: int
    copy: Piece | Ref


class Compaction:
    """Copies live contents of packs that are condemned, so that nobody refers to them anew."""

    def __init__(self, repository: Repository, marks: Marks) -> None:
        self._repository = repository
        self._marks = marks

    async def run(self, packs: Sequence[PackListed]) -> None:
        """Copy what is alive in some packs, and store their tables; they may be deleted then.

        Raises:
            LeaseLapsedError, RepositoryBusyError: the packs must stay.
            S3backfsError: something could not be read or stored; the packs must stay.
        """
        copied = [(pack, await self._copy(pack)) for pack in packs]
        await self._repository.writer.barrier()
        for pack, parts in copied:
            await store_table(self._repository, self._table(pack, parts))
        await self._make_sure()

    async def _copy(self, pack: PackListed) -> list[_Part]:
        repository = self._repository
        contents = await load_pack_table(
            repository.store, repository.keyring, pack.kind, pack.pack_id, pack.length_bytes
        )
        wanted = list(self._wanted(pack, contents))
        parts: list[_Part] = []
        for number, (row, found) in enumerate(wanted):
            if contents.kind == Kind.DATA and number % (AHEAD_COUNT // 2) == 0:
                ahead = wanted[number : number + AHEAD_COUNT]
                repository.prefetch([_ref(contents, *each) for each in ahead])
            parts.append(await self._copy_range(contents, row, found))
        return parts

    def _wanted(self, pack: PackListed, contents: PackContents) -> Iterator[tuple[PackRow, Range]]:
        """What of a pack is alive, in the order of the places, with the rows of its table."""
        rows = {row.offset: row for row in contents.rows}
        marked = groupby(self._marks.ranges(pack.pack_id), key=lambda found: found.pack_offset)
        for offset, ranges in marked:
            row = rows.get(offset)
            if row is None:
                raise IntegrityError("the pack's table lacks a frame", key=pack.key, offset=offset)
            yield from ((row, found) for found in _disjoint(ranges))

    async def _copy_range(self, contents: PackContents, row: PackRow, found: Range) -> _Part:
        ref = _ref(contents, row, found)
        copy: Piece | Ref
        if contents.kind == Kind.META:
            plain = await self._repository.reader.read_node_bytes(ref)
            copy = await self._repository.store_node(row.id, plain, None)
        else:
            data = await self._repository.reader.read(ref, 0, ref.slice_length)
            copy = await self._repository.writer.add(memoryview(data))
        return _Part(row.offset, found.slice_offset, found.slice_length, copy)

    def _table(self, pack: PackListed, parts: Iterable[_Part]) -> Moved:
        ranges = []
        for part in parts:
            target = part.copy.ref if isinstance(part.copy, Piece) else part.copy
            assert target is not None
            ranges.append(MovedRange(part.pack_offset, part.offset, part.length, target))
        return Moved(
            repository_id=self._repository.keyring.repository_id,
            pack_id=pack.pack_id,
            ranges=tuple(ranges),
        )

    async def _make_sure(self) -> None:
        """Make sure that no other prune took the copies for garbage before the tables were there.

        From now on it follows the tables; before, it waited for this writer's lease.
        """
        lease = self._repository.lease
        assert lease is not None
        if not lease.is_sure:
            await lease.renew()
        lease.check()


async def uncopied(
    tables: MovedTables, marks: Marks, pack_id: bytes, present: Container[bytes]
) -> Iterator[Range]:
    """What is needed of a pack, and is in none of those that its table leads to and are `present`.

    A table was stored by a run that ended early, or what was copied came back into use.

    Raises:
        IntegrityError: the table is damaged.
    """
    moved = await tables.load(pack_id)
    ranges = () if moved is None else moved.ranges
    return (found for found in marks.ranges(pack_id) if not _is_copied(ranges, found, present))


def _is_copied(ranges: Sequence[MovedRange], found: Range, present: Container[bytes]) -> bool:
    plan = plan_moved(ranges, found.pack_offset, found.slice_offset, found.slice_length)
    return plan is not None and all(_is_there(part.target, present) for part in plan)


def _is_there(ref: Ref, present: Container[bytes]) -> bool:
    return ref.pack_id in present and (ref.base is None or ref.base.pack_id in present)


async def store_table(repository: Repository, moved: Moved) -> None:
    """Store where the contents of a pack went, in the place of what was said before.

    Raises:
        RepositoryBusyError: another prune has just stored another one.
    """
    store, key = repository.store, moved_key(moved.pack_id)
    condition: Condition = None
    if await repository.proof.is_given():
        try:
            condition = IfMatch((await store.head(key)).etag)
        except ObjectMissingError:
            condition = IfAbsent()
    data = encode_moved(repository.keyring, key, moved)
    try:
        await store.put(key, data, condition=condition)
    except PreconditionFailedError as error:
        if (await store.get(key)).data != data:
            text = "another prune is at work on the same packs; run it again later"
            raise RepositoryBusyError(text) from error


def moved_key(pack_id: bytes) -> str:
    """The key of a moved table."""
    return f"moved/{pack_id.hex()}"


def _ref(contents: PackContents, row: PackRow, found: Range) -> Ref:
    ref: Ref = msgspec.structs.replace(
        chunk_ref(contents.pack_id, contents.epoch, row),
        slice_offset=found.slice_offset,
        slice_length=found.slice_length,
    )
    return ref


def _disjoint(ranges: Iterable[Range]) -> Iterator[Range]:
    """Join ranges of one chunk that overlap; they come in order."""
    joined: Range | None = None
    for found in ranges:
        if joined is None:
            joined = found
            continue
        end = joined.slice_offset + joined.slice_length
        if found.slice_offset >= end:
            yield joined
            joined = found
        else:
            length = max(end, found.slice_offset + found.slice_length) - joined.slice_offset
            joined = Range(
                joined.pack_offset,
                joined.frame_length,
                joined.chunk_length,
                joined.slice_offset,
                length,
            )
    if joined is not None:
        yield joined
