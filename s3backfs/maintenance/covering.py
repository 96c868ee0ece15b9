"""Whether the packs of a condemned set may go, and whether the set itself may.

A set stays in force as long as something refers to what is lost of its packs: otherwise writers
would refer to the loss anew, by deduplication or by a link.
"""

from __future__ import annotations

from collections.abc import Sequence

from s3backfs.errors import IntegrityError, ObjectMissingError, UnsupportedFormatError
from s3backfs.maintenance.content import PackReader
from s3backfs.maintenance.marks import Marks, Range
from s3backfs.maintenance.survey import PackListed
from s3backfs.repository.moved import MovedTables, plan_moved
from s3backfs.repository.repository import Repository
from s3backfs.repository.tables import load_pack_table


class Covering:
    """Holds what is referred to of packs against their tables, read anew each time."""

    def __init__(self, repository: Repository, marks: Marks) -> None:
        self._repository = repository
        self._tables = MovedTables(repository.store, repository.keyring)
        self._reader = PackReader(repository)
        self._marks = marks

    async def uncovered(self, pack_id: bytes) -> list[Range]:
        """What is needed of a pack, and is not said to be elsewhere by its stored table.

        Raises:
            S3backfsError: the table cannot be read.
        """
        moved = await self._tables.load(pack_id)
        ranges = () if moved is None else moved.ranges
        return [
            each
            for each in self._marks.ranges(pack_id)
            if plan_moved(ranges, each.pack_offset, each.slice_offset, each.slice_length) is None
        ]

    async def is_lost(self, pack: PackListed | None, needed: Sequence[Range]) -> bool:
        """Whether something of what is needed of a pack cannot be read there; None: it is gone.

        Raises:
            StoreError: the store did not give it.
        """
        if pack is None:
            return bool(needed)
        try:
            return await self._is_damaged(pack, {each.pack_offset for each in needed})
        except (IntegrityError, UnsupportedFormatError, ObjectMissingError):
            # Without its table nobody can tell which frames are sound.
            return True

    async def _is_damaged(self, pack: PackListed, offsets: set[int]) -> bool:
        store, keyring = self._repository.store, self._repository.keyring
        contents = await load_pack_table(store, keyring, pack.kind, pack.pack_id, pack.length_bytes)
        rows = [row for row in contents.rows if row.offset in offsets]
        found = self._reader.rows(pack, contents.epoch, rows)
        damaged_count = sum([isinstance(plain, IntegrityError) async for _, plain in found])
        return damaged_count > 0 or len(rows) < len(offsets)
