"""Shortening the way to contents that were moved several times: readers follow few tables only."""

from __future__ import annotations

import msgspec

from s3backfs.format.lease import Moved, MovedRange
from s3backfs.maintenance.compaction import store_table
from s3backfs.repository.moved import MAX_HOPS, MovedTables, plan_moved
from s3backfs.repository.repository import Repository


async def collapse_tables(
    repository: Repository, needed: set[bytes], moved_packs: set[bytes], present: set[bytes]
) -> int:
    """Let tables of needed packs lead past packs that are gone, too; return how many changed.

    Raises:
        S3backfsError: a table cannot be read or stored; nothing is lost.
    """
    tables = MovedTables(repository.store, repository.keyring)
    gone = moved_packs - present
    changed_count = 0
    for pack_id in sorted(moved_packs & needed):
        moved = await tables.load(pack_id)
        if moved is None or not any(part.target.pack_id in gone for part in moved.ranges):
            continue
        ranges = tuple([await _shortened(tables, part, gone) for part in moved.ranges])
        if ranges != moved.ranges:
            await store_table(repository, msgspec.structs.replace(moved, ranges=ranges))
            changed_count += 1
    return changed_count


async def _shortened(tables: MovedTables, part: MovedRange, gone: set[bytes]) -> MovedRange:
    """A range that leads to where its content is, if that is in one piece."""
    target = part.target
    for _ in range(MAX_HOPS):
        if target.pack_id not in gone:
            break
        moved: Moved | None = await tables.load(target.pack_id)
        if moved is None:
            break
        plan = plan_moved(
            moved.ranges, target.pack_offset, target.slice_offset, target.slice_length
        )
        if plan is None or len(plan) != 1:
            break
        (found,) = plan
        target = msgspec.structs.replace(
            found.target, slice_offset=found.offset, slice_length=found.length, id=target.id
        )
    else:
        # What leads round in a circle is lost: the table stays as it is.
        return part
    return part if target is part.target else msgspec.structs.replace(part, target=target)
