"""Keeping the local index and the store's segments alike.

refresh         list index/, data/ and meta/; drop what is gone; take new segments in, and the
                tables of packs that are in none
store_segment   write the tables of one's own packs for other machines
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from s3backfs.errors import IntegrityError, ObjectMissingError, StoreError, UnsupportedFormatError
from s3backfs.format.keys import Keyring
from s3backfs.format.refs import ID_BYTES, Kind
from s3backfs.format.segment import SegmentPack, decode_segment, encode_segment
from s3backfs.repository.packing import pack_key
from s3backfs.repository.tables import load_pack_table
from s3backfs.store.base import Listed, Store
from s3backfs.store.creating import create

if TYPE_CHECKING:
    from s3backfs.repository.index import ChunkIndex

log = logging.getLogger(__name__)

SEGMENT_PREFIX = "index/"
SEGMENTS_AT_ONCE = 4
PACKS_LEARNED_MAX_COUNT = 1024
"""More packs without a segment than this are left to maintenance."""

SEGMENT_BYTES = 4 * 1024 * 1024
"""A segment is closed at this length of its rows, so that taking it in needs little memory."""


async def refresh(store: Store, keyring: Keyring, index: ChunkIndex) -> None:
    """Bring the index to what the store has now; one call at a time.

    A segment that cannot be read is logged and costs deduplication only.

    Raises:
        StoreError: the store would not list or give; packs seen before are still trusted.
    """
    # Segments first: the packs that a listed segment names were there before it.
    names = [listed.key async for page in store.list(SEGMENT_PREFIX) for listed in page]
    newest = await trio.to_thread.run_sync(index.begin_listing)
    for kind in (Kind.DATA, Kind.META):
        prefix = pack_key(kind, b"")
        async for page in store.list(prefix):
            found = (_listed_pack(prefix, kind, listed) for listed in page)
            rows = [row for row in found if row is not None]
            await trio.to_thread.run_sync(index.note_listed, rows)
    await trio.to_thread.run_sync(index.end_listing, newest)
    known = await trio.to_thread.run_sync(index.known_segments)
    await trio.to_thread.run_sync(index.forget_segments, known.difference(names))
    await _take_in(store, keyring, index, [name for name in names if name not in known])
    await _learn_from_packs(store, keyring, index)


async def _learn_from_packs(store: Store, keyring: Keyring, index: ChunkIndex) -> None:
    """Read the tables of packs that no segment names: a writer died before it wrote one."""
    unknown = await trio.to_thread.run_sync(index.listed_without_rows, PACKS_LEARNED_MAX_COUNT)
    waiting = iter(unknown)

    async def work() -> None:
        for pack_id, kind, length in waiting:
            try:
                await _learn_from_pack(store, keyring, index, pack_id, kind, length)
            except (IntegrityError, UnsupportedFormatError, StoreError) as error:
                log.warning("%s is left out of the index: %s", pack_key(kind, pack_id), error)

    async with trio.open_nursery() as nursery:
        for _ in range(min(SEGMENTS_AT_ONCE, len(unknown))):
            nursery.start_soon(work)


async def _learn_from_pack(
    store: Store, keyring: Keyring, index: ChunkIndex, pack_id: bytes, kind: Kind, length: int
) -> None:
    found = await load_pack_table(store, keyring, kind, pack_id, length)
    await trio.to_thread.run_sync(index.add_pack, pack_id, found.epoch, kind, length, found.rows)


def _listed_pack(prefix: str, kind: Kind, listed: Listed) -> tuple[bytes, Kind, int] | None:
    try:
        pack_id = bytes.fromhex(listed.key[len(prefix) :])
    except ValueError:
        return None
    return (pack_id, kind, listed.length_bytes) if len(pack_id) == ID_BYTES else None


async def _take_in(store: Store, keyring: Keyring, index: ChunkIndex, names: Sequence[str]) -> None:
    """Fetch several segments at a time, and take in one at a time: decoded they are large."""
    waiting = iter(names)
    turn = trio.Lock()
    failures: list[StoreError] = []

    async def work() -> None:
        for name in waiting:
            try:
                data = (await store.get(name)).data
            except ObjectMissingError:
                continue
            except StoreError as error:
                failures.append(error)
                return
            async with turn:
                await trio.to_thread.run_sync(_take_in_one, keyring, index, name, data)

    async with trio.open_nursery() as nursery:
        for _ in range(min(SEGMENTS_AT_ONCE, len(names))):
            nursery.start_soon(work)
    if failures:
        raise failures[0]


def _take_in_one(keyring: Keyring, index: ChunkIndex, name: str, data: bytes) -> None:
    try:
        index.take_segment(name, decode_segment(keyring, name, data))
    except (IntegrityError, UnsupportedFormatError) as error:
        log.warning("an index segment is left out, so less is deduplicated: %s", error)


async def store_segment(
    store: Store, keyring: Keyring, index: ChunkIndex, pack_ids: Sequence[bytes]
) -> None:
    """Write what the index knows of one's own packs under `index/`, in one or several objects.

    Raises:
        StoreError: it could not be stored; calling again writes what is missing.
    """
    packs: list[SegmentPack] = []
    total_bytes = 0
    for pack_id in pack_ids:
        found = await trio.to_thread.run_sync(index.unsegmented, pack_id)
        if found is None:
            continue
        pack, rows_bytes = found
        if packs and total_bytes + rows_bytes > SEGMENT_BYTES:
            await _store_one(store, keyring, index, packs)
            packs, total_bytes = [], 0
        packs.append(pack)
        total_bytes += rows_bytes
    if packs:
        await _store_one(store, keyring, index, packs)


async def _store_one(
    store: Store, keyring: Keyring, index: ChunkIndex, packs: Sequence[SegmentPack]
) -> None:
    name = await write_segment(store, keyring, packs)
    pack_ids = [pack.pack_id for pack in packs]
    await trio.to_thread.run_sync(index.note_segment, name, pack_ids)


async def write_segment(store: Store, keyring: Keyring, packs: Sequence[SegmentPack]) -> str:
    """Store one segment, and return its key.

    Raises:
        StoreError: it could not be stored.
    """
    name = SEGMENT_PREFIX + secrets.token_hex(ID_BYTES)
    data = await trio.to_thread.run_sync(encode_segment, keyring, name, packs)
    await create(store, name, data)
    return name
