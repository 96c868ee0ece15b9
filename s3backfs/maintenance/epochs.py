"""How many packs each key epoch still holds: what `prune --rewrap` has left to do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from s3backfs.errors import IntegrityError, ObjectMissingError, UnsupportedFormatError
from s3backfs.format.keys import Keyring
from s3backfs.format.pack import FOOTER_BYTES, decode_footer
from s3backfs.format.segment import decode_segment
from s3backfs.maintenance.survey import PackListed, list_packs
from s3backfs.repository.index_sync import SEGMENT_PREFIX
from s3backfs.store.base import Store
from s3backfs.store.together import open_together

FOOTERS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class EpochUse:
    """The packs under the keys of one epoch, also those that nothing refers to."""

    epoch: int
    packs: int
    packs_bytes: int


async def measure_epochs(store: Store, keyring: Keyring) -> tuple[EpochUse, ...]:
    """Count packs by epoch; packs of which it cannot be told are left out.

    Raises:
        StoreError: the store would not list or give.
    """
    packs = await list_packs(store)
    known = dict.fromkeys(packs, 0) if not keyring.epoch else await _learn(store, keyring, packs)
    counts = {epoch: [0, 0] for epoch in {*known.values(), keyring.epoch}}
    for pack_id, epoch in known.items():
        counts[epoch][0] += 1
        counts[epoch][1] += packs[pack_id].length_bytes
    return tuple(EpochUse(epoch, *counts[epoch]) for epoch in sorted(counts))


async def _learn(
    store: Store, keyring: Keyring, packs: Mapping[bytes, PackListed]
) -> dict[bytes, int]:
    """The epochs of packs, by the index segments, and by the packs themselves."""
    known: dict[bytes, int] = {}
    async for page in store.list(SEGMENT_PREFIX):
        for listed in page:
            try:
                data = (await store.get(listed.key)).data
                segment = decode_segment(keyring, listed.key, data)
            except (ObjectMissingError, IntegrityError, UnsupportedFormatError):
                continue
            known |= {pack.pack_id: pack.epoch for pack in segment if pack.pack_id in packs}
    missing = [pack for pack_id, pack in packs.items() if pack_id not in known]
    return known | await _read_footers(store, missing)


async def _read_footers(store: Store, packs: Collection[PackListed]) -> dict[bytes, int]:
    waiting = iter(packs)
    found: dict[bytes, int] = {}

    async def work() -> None:
        for pack in waiting:
            try:
                tail = (await store.get(pack.key, offset=-FOOTER_BYTES)).data
                found[pack.pack_id] = decode_footer(tail, pack.length_bytes).epoch
            except (ObjectMissingError, IntegrityError, UnsupportedFormatError):
                continue

    async with open_together() as nursery:
        for _ in range(min(FOOTERS_AT_ONCE, len(packs))):
            nursery.start_soon(work)
    return found
