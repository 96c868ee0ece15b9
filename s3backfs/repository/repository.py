"""A repository that is open: everything above reads and writes contents through it."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from s3backfs.format.keys import Keyring
from s3backfs.format.parameters import ChunkBounds
from s3backfs.format.refs import ID_BYTES, Ref
from s3backfs.repository.cache import DiskCache
from s3backfs.repository.condemned import CondemnedSets
from s3backfs.repository.conditions import ConditionMemory, Proof
from s3backfs.repository.index import ChunkIndex
from s3backfs.repository.leases import LEASE_S, LEASES_PREFIX, WriterLease, boot_time_s
from s3backfs.repository.local_state import (
    WriterIdentity,
    check_epoch,
    check_pin,
    is_one_finishing,
)
from s3backfs.repository.losses import Losses
from s3backfs.repository.opening import OpenedRepository
from s3backfs.repository.piece import Piece
from s3backfs.repository.pins import place_name
from s3backfs.repository.reader import Caches, Reader, ReaderLimits
from s3backfs.repository.root_memory import RootMemory
from s3backfs.repository.upload_notes import UploadNotes
from s3backfs.repository.writer import Writer, WriterOptions
from s3backfs.store.around import WrappedStore
from s3backfs.store.base import Store

log = logging.getLogger(__name__)

FINISHING_POLL_S = 0.2

LOOK_AHEAD_S = 1.0
"""So long a reader waits until it is known what to fetch along with what it wants."""


@dataclass(frozen=True, slots=True)
class RepositoryOptions:
    """Where this machine keeps its side, and how much memory and cache it may take."""

    state_dir: Path
    cache_dir: Path
    cache_bytes: int
    memory_bytes: int
    is_read_only: bool
    level: int | None
    """zstd's level for what this mount writes; None stores without compression."""
    takes_dead: bool = True
    """Whether to go on with what dead mounts of this machine have left."""
    lease_s: float = LEASE_S
    clock: Callable[[], float] = boot_time_s
    """Seconds that go on while this machine is suspended."""


class Repository:
    """Store, keys, reader and writer of one open repository; see `open_for_mount`."""

    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        chunk_bounds: ChunkBounds,
        reader: Reader,
        writer: Writer,
        identity: WriterIdentity | None,
        lease: WriterLease | None,
        condemned: CondemnedSets,
        index: ChunkIndex,
        proof: Proof,
        root_memory: RootMemory,
    ) -> None:
        self.store = store
        self.keyring = keyring
        self.chunk_bounds = chunk_bounds
        self.reader = reader
        self.writer = writer
        self._identity = identity
        self.lease = lease
        self.condemned = condemned
        self._index = index
        self.proof = proof
        self.root_memory = root_memory
        self.losses = Losses(
            store, keyring, frames=reader.damaged, packs=(reader.gone, writer.missing)
        )

    async def end_lease(self) -> None:
        """Say that this writer is gone; call it when everything is stored."""
        if self.lease is not None:
            await self.lease.end()

    def retire_dead_writers(self) -> None:
        """Forget dead writers of this machine, whose open backups were all taken over."""
        if self._identity is not None:
            self._identity.retire_dead()

    def retire_writer(self) -> None:
        """Say that no open backup of this mount is left: nobody will take over from it."""
        if self._identity is not None:
            self._identity.retire()

    def hold_dead_maintenance(self) -> list[bytes]:
        """Hold the writer ids of verbs of maintenance that were killed on this machine."""
        return [] if self._identity is None else self._identity.hold_dead_maintenance()

    def forget_dead(self, writer_ids: Iterable[bytes]) -> None:
        """Forget such writers, of which nothing is left."""
        if self._identity is not None:
            self._identity.forget_dead(writer_ids)

    def note_finishing(self) -> None:
        """Let the next mount of this machine wait for this one to end."""
        if self._identity is not None:
            self._identity.note_finishing()

    @property
    def writer_id(self) -> bytes:
        """Who this mount writes as."""
        assert self._identity is not None
        return self._identity.writer_id

    def is_own_writer(self, writer_id: bytes) -> bool:
        """Whether a writer is this mount, or a dead one of this machine."""
        return self._identity is not None and self._identity.is_own(writer_id)

    def forget_packs(self, pack_ids: Iterable[bytes]) -> None:
        """Deduplicate against some packs no more: they are gone."""
        for pack_id in pack_ids:
            self._index.drop_pack(pack_id)

    async def read(self, content: Ref | Piece, offset: int, length: int) -> bytes | memoryview:
        """Read a range of a content, from memory if it is still there."""
        if isinstance(content, Piece):
            if content.data is not None:
                return content.data[offset : offset + length]
            assert content.ref is not None
            content = content.ref
        return await self.reader.read(content, offset, length)

    async def store_node(
        self,
        node_id: bytes,
        plain: bytes,
        base: Ref | None,
        may_stand: Callable[[Sequence[Ref]], Awaitable[Ref | None]] | None = None,
    ) -> Ref:
        """Store a manifest node once, as a patch of `base` where that is smaller.

        `may_stand` chooses among the known places of an equal node; without it any is taken.

        Raises:
            S3backfsError: it could not be stored.
        """
        places = await self.writer.find_node(node_id)
        if places:
            known = places[0] if may_stand is None else await may_stand(places)
            if known is not None and self.writer.take_node(node_id, known):
                return known
        base_plain = None
        if base is not None:
            base_plain = await self.reader.read_node_bytes(base)
        return await self.writer.store_node(node_id, plain, base, base_plain)

    async def look_ahead(self, look: Callable[[], Awaitable[None]]) -> bool:
        """Let `look` find out what will be read soon; say whether it has ended.

        What it meets is nothing to whoever reads now: no error of it, and no long wait.
        """
        return await self.reader.background.try_for(LOOK_AHEAD_S, look)

    def cut_bytes(self, wanted_bytes: int) -> int:
        """How much one open file may hold back before it is cut: less where memory is small."""
        return min(wanted_bytes, max(1 << 20, self.writer.budget.limit_bytes // 16))

    def prefetch(self, contents: Sequence[Ref | Piece]) -> None:
        """Say what will be read soon, in order."""
        self.reader.prefetch(_refs(contents))

    def fetch_ahead(self, contents: Sequence[Ref | Piece]) -> None:
        """Say what will be read after that, in order: it is fetched, and waits as it is stored."""
        self.reader.fetch_ahead(_refs(contents))


def _refs(contents: Sequence[Ref | Piece]) -> list[Ref]:
    refs = [content.ref if isinstance(content, Piece) else content for content in contents]
    return [ref for ref in refs if ref is not None]


@asynccontextmanager
async def open_for_mount(
    store: Store, opened: OpenedRepository, options: RepositoryOptions
) -> AsyncIterator[Repository]:
    """Hold a repository open, with its caches, its index and this machine's writer id.

    Raises:
        RepositoryError: it is not what this machine has seen before.
    """
    keyring = opened.keyring
    own_name = keyring.repository_id.hex()
    state_dir, cache_dir = options.state_dir / own_name, options.cache_dir / own_name
    check_pin(state_dir, str(keyring.encryption))
    check_epoch(state_dir, keyring)
    cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    identity = notes = None
    if not options.is_read_only:
        if options.takes_dead:
            await _wait_for_finishing(state_dir)
        identity = WriterIdentity(state_dir, takes_dead=options.takes_dead)
        notes = UploadNotes(state_dir)
        store = WrappedStore(store, notes)
    index = ChunkIndex(cache_dir / "index.sqlite")
    condemned = CondemnedSets(store, keyring)
    try:
        async with trio.open_nursery() as nursery:
            writer = Writer(store, keyring, index, _writer_options(opened, options), nursery)
            disk = DiskCache(cache_dir / "frames", options.cache_bytes)
            caches = Caches.within(options.memory_bytes // 4, disk)
            async with Reader(store, keyring, caches, writer, _reader_limits(options)) as reader:
                index.heed_damage(reader.damaged, reader.gone)
                lease, writer_id = None, bytes(ID_BYTES)
                if identity is not None:
                    writer_id = identity.writer_id
                    lease = await _begin_lease(store, keyring, writer_id, options)
                    nursery.start_soon(lease.keep)
                    nursery.start_soon(writer.learn, condemned)
                if notes is not None:
                    nursery.start_soon(notes.abort_left, store)
                memory = ConditionMemory(state_dir / "conditions")
                yield Repository(
                    store,
                    keyring,
                    opened.parameters.chunk_bounds,
                    reader,
                    writer,
                    identity,
                    lease,
                    condemned,
                    index,
                    Proof(store, lease, memory, f"{LEASES_PREFIX}{writer_id.hex()}/probe"),
                    RootMemory(state_dir / "open" / place_name(store)),
                )
                nursery.cancel_scope.cancel()
    finally:
        index.close()
        if identity is not None:
            identity.close()
        if notes is not None:
            notes.close()


async def _begin_lease(
    store: Store, keyring: Keyring, writer_id: bytes, options: RepositoryOptions
) -> WriterLease:
    """Store a writer's lease, before anything is listed that the writer refers to."""
    lease = WriterLease(store, keyring, writer_id, duration_s=options.lease_s, clock=options.clock)
    await lease.begin()
    return lease


def _writer_options(opened: OpenedRepository, options: RepositoryOptions) -> WriterOptions:
    return WriterOptions(
        pack_bytes=opened.parameters.pack_bytes,
        memory_bytes=options.memory_bytes // 2,
        level=options.level,
        epoch=opened.keyring.epoch,
        cpu_threads=_threads_count(),
    )


def _reader_limits(options: RepositoryOptions) -> ReaderLimits:
    # Where nothing is written there is more room.
    spare_bytes = options.memory_bytes // (3 if options.is_read_only else 4)
    return ReaderLimits(
        cpu_threads=_threads_count(),
        ahead_bytes=options.memory_bytes // 8,
        spare_bytes=spare_bytes,
    )


def _threads_count() -> int:
    return os.cpu_count() or 1


async def _wait_for_finishing(state_dir: Path) -> None:
    """Wait for a mount process of this machine that is storing what is left."""
    if is_one_finishing(state_dir):
        log.info("waiting for a mount process of this machine that is still storing")
    while is_one_finishing(state_dir):  # noqa: ASYNC110  (another process, no event)
        await trio.sleep(FINISHING_POLL_S)


def content_length(content: Ref | Piece) -> int:
    """How many bytes a content has."""
    return content.length if isinstance(content, Piece) else content.slice_length
