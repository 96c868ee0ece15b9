"""Keeping the index segments few, and free of packs that are gone."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from s3backfs.errors import IntegrityError, ObjectMissingError, UnsupportedFormatError
from s3backfs.format.segment import SegmentPack, decode_segment
from s3backfs.maintenance.survey import list_packs
from s3backfs.repository.index_sync import SEGMENT_BYTES, SEGMENT_PREFIX, write_segment
from s3backfs.repository.repository import Repository
from s3backfs.store.base import Listed

log = logging.getLogger(__name__)

SMALL_BYTES = SEGMENT_BYTES // 4
ROWS_AT_ONCE = 50_000
MANY_SMALL = 16
"""So many small segments are worth joining."""


async def tidy_segments(repository: Repository) -> int:
    """Write segments anew that name packs that are gone, and join small ones; return how many.

    New ones are stored before old ones are removed; a mount that reads meanwhile misses nothing.

    Raises:
        StoreError: the store would not list, give or take; nothing is lost.
    """
    store = repository.store
    listed = [each async for page in store.list(SEGMENT_PREFIX) for each in page]
    # After the segments: what they name was stored before them.
    present = set(await list_packs(store))
    small = [each.key for each in listed if each.length_bytes < SMALL_BYTES]
    joined = set(small) if len(small) >= MANY_SMALL else set()
    rewriting = _Rewriting(repository)
    for each in listed:
        found = await _load(repository, each)
        kept = [pack for pack in found if pack.pack_id in present]
        if len(kept) < len(found) or each.key in joined:
            await rewriting.take(each.key, kept)
    await rewriting.flush()
    return rewriting.removed_count


class _Rewriting:
    """Collects what segments say, and stores it before it removes them."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._packs: list[SegmentPack] = []
        self._keys: list[str] = []
        self.removed_count = 0

    async def take(self, key: str, packs: Iterable[SegmentPack]) -> None:
        self._packs += packs
        self._keys.append(key)
        if sum(len(pack.rows) for pack in self._packs) >= ROWS_AT_ONCE:
            await self.flush()

    async def flush(self) -> None:
        if self._packs:
            await write_segment(self._repository.store, self._repository.keyring, self._packs)
        await self._repository.store.delete(self._keys)
        self.removed_count += len(self._keys)
        self._packs, self._keys = [], []


async def _load(repository: Repository, listed: Listed) -> tuple[SegmentPack, ...]:
    """Read a segment; one that cannot be read has nothing that could be written anew."""
    try:
        data = (await repository.store.get(listed.key)).data
        return tuple(decode_segment(repository.keyring, listed.key, data))
    except ObjectMissingError:
        return ()
    except (IntegrityError, UnsupportedFormatError) as error:
        log.warning("an index segment is left as it is: %s", error)
        return ()
