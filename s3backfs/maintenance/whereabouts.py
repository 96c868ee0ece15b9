"""Counting contents where they lie by now: tables of moved packs lead from old places to new ones.

Backups that were made before a compaction or a repair refer to the old place of what newer ones
refer to at its new place: it is stored once.
"""

from __future__ import annotations

from collections.abc import Container

import msgspec

from s3backfs.errors import IntegrityError
from s3backfs.format.lease import MovedRange
from s3backfs.format.refs import Ref
from s3backfs.maintenance.marking import MOVED_PREFIX
from s3backfs.maintenance.shares import Piece, Shares
from s3backfs.maintenance.survey import list_ids
from s3backfs.repository.moved import MAX_HOPS, MovedTables, Part, plan_moved
from s3backfs.repository.repository import Repository


async def follow_moved(repository: Repository, shares: Shares, present: Container[bytes]) -> None:
    """Let pieces count in the packs where they are; `present` are the packs that are there.

    What is in no pack any more counts nowhere.

    Raises:
        StoreError: the store would not list or give.
    """
    tables = MovedTables(repository.store, repository.keyring)
    moved = set(await list_ids(repository.store, MOVED_PREFIX))
    # Where contents went may have been moved itself.
    for _ in range(MAX_HOPS):
        moved_count = 0
        for pack_id in [each for each in shares.packs() if each in moved or each not in present]:
            ranges = await _ranges(tables, pack_id) if pack_id in moved else ()
            for piece in shares.pieces(pack_id):
                moved_count += _follow(shares, pack_id, piece, ranges, present, moved)
        if not moved_count:
            break


async def _ranges(tables: MovedTables, pack_id: bytes) -> tuple[MovedRange, ...]:
    try:
        table = tables.known(pack_id) or await tables.load(pack_id)
    except IntegrityError:
        # Check says so; here it leads nowhere.
        return ()
    return table.ranges if table is not None else ()


def _follow(
    shares: Shares,
    pack_id: bytes,
    piece: Piece,
    ranges: tuple[MovedRange, ...],
    present: Container[bytes],
    moved: Container[bytes],
) -> bool:
    """Move a piece by a table; True if it has left the pack."""
    plan = plan_moved(ranges, piece.pack_offset, piece.slice_offset, piece.slice_length)
    places = [place for part in plan or () for place in _places(part)]
    if plan is not None and all(ref.pack_id in present or ref.pack_id in moved for ref in places):
        shares.move(pack_id, piece, places)
    elif pack_id not in present:
        shares.move(pack_id, piece, ())
    else:
        return False
    return True


def _places(part: Part) -> list[Ref]:
    target: Ref = msgspec.structs.replace(
        part.target, slice_offset=part.offset, slice_length=part.length
    )
    return [target] if target.base is None else [target, target.base]
