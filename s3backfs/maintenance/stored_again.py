"""Whether what is lost stands in other packs by now, so that a repair brings it back.

A later backup stores what is lost anew; old ones find it there once `repair pack` has told them.
"""

from __future__ import annotations

from collections.abc import Iterator

from s3backfs.errors import IntegrityError, ObjectMissingError, UnsupportedFormatError
from s3backfs.format.segment import SegmentPack, decode_segment
from s3backfs.maintenance.structure import Structure
from s3backfs.repository.index_sync import SEGMENT_PREFIX
from s3backfs.repository.packing import pack_key
from s3backfs.repository.repository import Repository

PACKS_SHOWN = 8


async def note_stored_again(repository: Repository, structure: Structure) -> list[str]:
    """Say which repair brings back what is lost, as far as the index knows of it; else nothing.

    Raises:
        StoreError: the store would not list or give.
    """
    wanted = _lost_contents(structure)
    if not wanted:
        return []
    hit = {pack_id for pack_id, _ in structure.lost}
    found: set[bytes] = set()
    async for page in repository.store.list(SEGMENT_PREFIX):
        for listed in page:
            for pack in await _load(repository, listed.key):
                if pack.pack_id in structure.packs and pack.pack_id not in hit:
                    found.update(each for each in _contents(pack) if each in wanted)
    if not found:
        return []
    keys = sorted({wanted[each] for each in found})
    shown = " ".join(keys[:PACKS_SHOWN]) + (" ..." if len(keys) > PACKS_SHOWN else "")
    return [
        f"{len(found)} of {len(wanted)} lost contents were stored again in other packs; "
        f"every backup reads them there after: s3backfs repair pack {shown} URL"
    ]


def _lost_contents(structure: Structure) -> dict[bytes, str]:
    """The ids of what is lost and referred to, and the keys of the packs that held it."""
    kinds = structure.references.packs()
    return {
        ref.id: pack_key(kinds[pack_id], pack_id)
        for pack_id in {pack_id for pack_id, _ in structure.lost} & kinds.keys()
        for ref in structure.references.refs(pack_id)
        if (pack_id, ref.pack_offset) in structure.lost
    }


async def _load(repository: Repository, key: str) -> tuple[SegmentPack, ...]:
    try:
        return decode_segment(repository.keyring, key, (await repository.store.get(key)).data)
    except (IntegrityError, UnsupportedFormatError, ObjectMissingError):
        # Without it less is known; check tells of it elsewhere.
        return ()


def _contents(pack: SegmentPack) -> Iterator[bytes]:
    for row in pack.rows:
        yield from (part.id for part in row.slices) if row.slices else (row.id,)
