"""The way of written bytes into packs: hash, deduplicate, compress, seal, verify, upload.

    add -> task per chunk: thread (id, index, zstd) -> place in a pack -> thread (seal, verify)
    add (small) -> bundle -> the same, for many small contents at once

All bytes on this way are counted in one budget; who adds waits while it is spent. Bytes in a pack
stay counted until the pack is stored. A failed upload keeps its pack; the next barrier tries again.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar, TypeVarTuple

import trio

from s3backfs.errors import S3backfsError
from s3backfs.format.frame import compress, compress_patch, frame_length
from s3backfs.format.keys import Keyring
from s3backfs.format.pack import PackRow, content_refs, slice_ref
from s3backfs.format.refs import ID_BYTES, Kind, Ref
from s3backfs.repository.budget import ByteBudget
from s3backfs.repository.condemned import CondemnedSets
from s3backfs.repository.index import ChunkIndex, refresh, store_segment
from s3backfs.repository.packing import OpenPack
from s3backfs.repository.piece import Piece
from s3backfs.repository.progress import Progress
from s3backfs.repository.sealing import (
    Knowledge,
    Known,
    Prepared,
    Slice,
    pack_row,
    prepare_bundle,
    prepare_chunk,
    seal_and_verify,
)
from s3backfs.repository.uploading import PackUpload
from s3backfs.store.base import Store

log = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SMALL_BYTES = 128 * 1024
"""Content up to this size goes into a bundle."""

BUNDLE_BYTES = 1024 * 1024
META_PACK_BYTES = 16 * 1024 * 1024
PACKS_PER_SEGMENT = 64
LOOK_EVERY_S = 600.0
"""How old the last listing of packs may be when a backup begins."""


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """Sizes and settings of one writer; `level` is zstd's, None stores without compression."""

    pack_bytes: int
    memory_bytes: int
    level: int | None
    epoch: int
    cpu_threads: int

    def capacity(self, kind: Kind) -> int:
        """How long a pack grows before it is closed; two must fit into memory."""
        wanted = self.pack_bytes if kind == Kind.DATA else META_PACK_BYTES
        return min(wanted, self.memory_bytes // 2)


class Writer:
    """Takes contents and gives pieces whose places become known."""

    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        index: ChunkIndex,
        options: WriterOptions,
        nursery: trio.Nursery,
    ) -> None:
        self.progress = Progress()
        self.referred: set[bytes] = set()
        """The packs that contents were given places in, for whoever clears it."""
        self.written: set[bytes] = set()
        """The packs that this mount has begun."""
        self.missing: set[bytes] = set()
        """Packs of `written` and `referred` that a listing did not show."""
        self.budget = ByteBudget(options.memory_bytes)
        self.failure: S3backfsError | None = None
        self._store = store
        self._keyring = keyring
        self._index = index
        self._options = options
        self._nursery = nursery
        self._cpu = trio.CapacityLimiter(options.cpu_threads)
        self._fresh: dict[bytes, Ref] = {}
        self._knowledge = Knowledge(self._fresh, index)
        self._packs: dict[bytes, PackUpload] = {}
        self._current: dict[Kind, PackUpload] = {}
        self._bundle: list[Piece] = []
        self._bundle_bytes = 0
        self._running: set[object] = set()
        self._queue: deque[tuple[object, Callable[[Any], Awaitable[None]], Any]] = deque()
        self._workers_count = 0
        self._finishing = 0
        self._changed = trio.Event()
        self._has_learned = trio.Event()
        self._refreshing = trio.Lock()
        self._looked_s = 0.0
        self._unsegmented: list[bytes] = []
        self._undone: list[tuple[Callable[[Any], Awaitable[None]], Any]] = []

    async def learn(self, condemned: CondemnedSets) -> None:
        """Bring the index up to date; contents wait for it, so that none is stored twice."""
        try:
            # Sets first: what is condemned after that waits for this writer's lease.
            _, packs = await condemned.refresh()
            self.shun(packs)
            await self._refresh_index()
            # Those of a writer that died before it wrote their segment are among them.
            self._unsegmented += await self._in_thread(self._index.waiting_packs)
        except S3backfsError as error:
            log.warning("the index cannot be brought up to date, less is deduplicated: %s", error)
        self._has_learned.set()

    def look_anew(self) -> None:
        """List the packs again before a backup begins; contents wait for it.

        In a mount that lives for weeks packs can have been lost, and with them the next backup
        that took its contents from there.
        """
        now_s = trio.current_time()
        if self._has_learned.is_set() and now_s - self._looked_s >= LOOK_EVERY_S:
            self._has_learned = trio.Event()
            self._nursery.start_soon(self.look)

    async def look(self) -> None:
        """List the packs; that it cannot be done is logged only."""
        try:
            await self._refresh_index()
        except S3backfsError as error:
            log.warning("the packs cannot be listed anew: %s", error)
        self._has_learned.set()

    async def _refresh_index(self) -> None:
        async with self._refreshing:
            under_way = set(self._packs)
            await refresh(self._store, self._keyring, self._index)
            self._looked_s = trio.current_time()
            used = (self.written | self.referred) - under_way - set(self._packs)
            self.missing.update(
                pack_id
                for pack_id in used
                if not (self._index.is_shunned(pack_id) or self._index.is_usable(pack_id))
            )

    async def look_if_old(self) -> None:
        """List the packs again if the last listing is old, so that `missing` is of now."""
        if trio.current_time() - self._looked_s >= LOOK_EVERY_S:
            await self.look()

    def shun(self, pack_ids: Collection[bytes]) -> None:
        """Give nothing a place in these packs any more: they are condemned."""
        self._index.shun(pack_ids)
        for content_id, ref in list(self._fresh.items()):
            if ref.pack_id in pack_ids:
                del self._fresh[content_id]

    async def find_missing(self) -> set[bytes]:
        """List the packs anew, and return those of `referred` that are gone or condemned.

        Raises:
            StoreError: the store would not list.
        """
        finishing = [u for u in self._packs.values() if u.is_finishing and not u.has_failed]
        await self._wait_until(
            lambda: all(self._is_taken_in(upload) or upload.has_failed for upload in finishing)
        )
        # These nobody else has seen, or they will be sent again as they are.
        under_way = set(self._packs)
        await self._refresh_index()
        return {
            pack_id
            for pack_id in self.referred
            if self._index.is_shunned(pack_id)
            or not (pack_id in under_way or self._index.is_usable(pack_id))
        }

    # -- the entrance ------------------------------------------------------------------------

    async def add(self, data: memoryview) -> Piece:
        """Take content over; waits while memory is spent. `data` must not change any more.

        Raises:
            S3backfsError: what failed before; nothing was taken.
        """
        if self.failure is not None:
            raise self.failure
        await self.budget.acquire(len(data), self._relieve)
        return self._accept(data)

    def add_at_once(self, data: memoryview) -> Piece | None:
        """Take content over; None, and nothing is taken, where that would have to wait or fail."""
        if self.failure is not None or self.budget.is_spent(len(data)):
            return None
        self.budget.take(len(data))
        return self._accept(data)

    def _accept(self, data: memoryview) -> Piece:
        if len(data) > SMALL_BYTES:
            piece = Piece(data)
            self._start(self._store_chunk, piece)
            return piece
        piece = Piece(bytes(data))
        self._bundle.append(piece)
        self._bundle_bytes += len(data)
        if self._bundle_bytes >= BUNDLE_BYTES:
            self._close_bundle()
        return piece

    async def drain(self) -> None:
        """Wait until every piece added so far has its place.

        Raises:
            S3backfsError: one of them got none.
        """
        self._close_bundle()
        # Only what is under way now: others may add without end.
        waiting = set(self._running)
        await self._wait_until(lambda: waiting.isdisjoint(self._running))
        if self.failure is not None:
            raise self.failure

    async def barrier(self) -> None:
        """Wait until everything added so far is durable; uploads that failed are tried again.

        Raises:
            S3backfsError: not all of it is; all is still in memory.
        """
        self.failure = None
        undone, self._undone = self._undone, []
        for work, argument in undone:
            self._start(work, argument)
        await self.drain()
        for upload in list(self._current.values()):
            self._close_pack(upload)
        waiting = list(self._packs.values())
        for upload in waiting:
            if upload.has_failed:
                self._start_finish(upload)
        await self._wait_until(
            lambda: all(self._is_taken_in(upload) or upload.has_failed for upload in waiting)
        )
        if self.failure is not None:
            raise self.failure

    def _is_taken_in(self, upload: PackUpload) -> bool:
        """Whether a pack is stored, known to the index, and out of memory."""
        return upload.pack.pack_id not in self._packs

    def peek(self, pack_id: bytes, pack_offset: int, frame_length: int) -> bytes | None:
        """A frame of a pack that is still in memory."""
        upload = self._packs.get(pack_id)
        return upload.pack.frame(pack_offset, frame_length) if upload else None

    async def store_segment(self) -> None:
        """Write an index segment of the packs stored since the last one."""
        if self._unsegmented:
            packs, self._unsegmented = self._unsegmented, []
            await store_segment(self._store, self._keyring, self._index, packs)

    async def _wait_until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._changed.wait()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        self.budget.wake()

    def _close_bundle(self) -> None:
        if self._bundle:
            pieces, self._bundle, self._bundle_bytes = self._bundle, [], 0
            self._start(self._store_bundle, pieces)

    def _start(self, work: Callable[[T], Awaitable[None]], argument: T) -> None:
        """Queue work; few tasks take it in order, so that a file's chunks lie in order too."""
        ticket = object()
        self._running.add(ticket)
        self._queue.append((ticket, work, argument))
        if self._workers_count <= self._options.cpu_threads:
            self._workers_count += 1
            self._nursery.start_soon(self._work)

    async def _work(self) -> None:
        while self._queue:
            await self._run(*self._queue.popleft())
        self._workers_count -= 1

    async def _run(self, ticket: object, work: Callable[[T], Awaitable[None]], argument: T) -> None:
        try:
            await self._has_learned.wait()
            await work(argument)
        except S3backfsError as error:
            self._undone.append((work, argument))
            self._fail(error)
        finally:
            self._running.discard(ticket)
            self._note_change()

    def _fail(self, error: S3backfsError) -> None:
        """Remember what went wrong for good: adding raises it until a barrier succeeds."""
        if self.failure is None:
            log.error("storing failed: %s", error)
        self.failure = error

    def _relieve(self) -> None:
        """Memory is spent: start what will free some."""
        if self.failure is not None:
            raise self.failure
        if self._running:
            return
        if self._bundle:
            self._close_bundle()
        elif not self._finishing:
            for upload in list(self._current.values()):
                self._close_pack(upload)

    async def _in_thread(self, work: Callable[[*Ts], T], *arguments: *Ts) -> T:
        return await trio.to_thread.run_sync(work, *arguments, limiter=self._cpu)

    # -- chunks, bundles, nodes --------------------------------------------------------------

    async def _store_chunk(self, piece: Piece) -> None:
        data = piece.data
        assert data is not None
        prepared = await self._in_thread(
            prepare_chunk, self._keyring, self._knowledge, data, self._options.level
        )
        if isinstance(prepared, Prepared):
            # The same content may have come in while this one was compressed.
            prepared = self._fresh.get(prepared.chunk_id) or prepared
        if isinstance(prepared, Ref):
            self._settle_known(Known(piece, prepared))
            return
        piece.settle(await self._seal(Kind.DATA, prepared))
        self.budget.release(piece.length)

    async def _store_bundle(self, pieces: list[Piece]) -> None:
        prepared, known = await self._in_thread(
            prepare_bundle, self._keyring, self._knowledge, pieces, self._options.level
        )
        for content in known:
            self._settle_known(content)
        if prepared is None:
            return
        chunk = await self._seal(Kind.DATA, prepared)
        for part in prepared.slices:
            self._settle_slice(chunk, part)

    def _settle_slice(self, chunk: Ref, part: Slice) -> None:
        ref = slice_ref(chunk, part.row)
        self._fresh[ref.id] = ref
        first, *others = part.pieces
        first.settle(ref)
        self.budget.release(first.length)
        for piece in others:
            self._settle_known(Known(piece, ref))

    def _settle_known(self, known: Known) -> None:
        self.referred.add(known.ref.pack_id)
        known.piece.settle(known.ref)
        self.progress.deduplicated_bytes += known.piece.length
        self.budget.release(known.piece.length)

    async def find_node(self, node_id: bytes) -> list[Ref]:
        """Every known place of a manifest node; who takes one calls `take_node` at once."""
        await self._has_learned.wait()
        return self._node_places(node_id)

    def _node_places(self, node_id: bytes) -> list[Ref]:
        known = self._fresh.get(node_id)
        return self._index.places(node_id) if known is None else [known]

    def take_node(self, node_id: bytes, place: Ref) -> bool:
        """Refer to a known place of a node; False where that may not be done any more."""
        if place not in self._node_places(node_id):
            return False
        self.referred.add(place.pack_id)
        return True

    async def store_node(
        self, node_id: bytes, plain: bytes, base: Ref | None, base_plain: bytes | None
    ) -> Ref:
        """Store a manifest node, as a patch of its base where that is smaller; return its place."""
        body = await self._in_thread(compress, plain, self._options.level or 1)
        patch = None
        if base is not None and self._index.is_shunned(base.pack_id):
            base = None
        if base is not None and base_plain is not None:
            patch = await self._in_thread(compress_patch, plain, base_plain)
        if patch is None or len(patch) * 4 > len(body) * 3:
            return await self._seal(Kind.META, Prepared(body, plain, node_id))
        return await self._seal(
            Kind.META, Prepared(patch, plain, node_id), base=base, base_plain=base_plain
        )

    # -- packs -------------------------------------------------------------------------------

    async def _seal(
        self,
        kind: Kind,
        prepared: Prepared,
        *,
        base: Ref | None = None,
        base_plain: bytes | None = None,
    ) -> Ref:
        """Give a body its place in a pack, and seal it there."""
        upload = self._pack_with_room(kind, len(prepared.body))
        pack = upload.pack
        length = frame_length(pack.cipher.encryption, len(prepared.body))
        offset = pack.reserve(length)
        self.budget.take(length)
        ref = Ref(
            pack_id=pack.pack_id,
            epoch=self._options.epoch,
            pack_offset=offset,
            frame_length=length,
            chunk_length=len(prepared.plain),
            slice_offset=0,
            slice_length=len(prepared.plain),
            id=prepared.chunk_id,
            base=base,
        )
        target = pack.view[offset : offset + length]
        row = None
        try:
            await self._in_thread(
                seal_and_verify,
                pack.cipher,
                offset,
                prepared.body,
                prepared.plain,
                target,
                base_plain,
            )
            row = pack_row(ref, prepared)
        finally:
            # A place that could not be sealed stays unused, so that the pack can be finished.
            pack.sealed(offset, length, row)
        if not prepared.slices:
            self._fresh[prepared.chunk_id] = ref
        self.progress.stored_bytes += length
        upload.advance()
        self._finish_if_closed(upload)
        return ref

    def _pack_with_room(self, kind: Kind, body_length: int) -> PackUpload:
        upload = self._current.get(kind)
        if upload is not None:
            length = frame_length(upload.pack.cipher.encryption, body_length)
            if upload.pack.has_room(length):
                return upload
            self._close_pack(upload)
        pack_id = secrets.token_bytes(ID_BYTES)
        cipher = self._keyring.pack_cipher(kind, pack_id, self._options.epoch)
        capacity = max(self._options.capacity(kind), frame_length(cipher.encryption, body_length))
        upload = PackUpload(self._store, OpenPack(kind, pack_id, cipher, capacity), self._nursery)
        self._packs[pack_id] = self._current[kind] = upload
        self.referred.add(pack_id)
        self.written.add(pack_id)
        return upload

    def _close_pack(self, upload: PackUpload) -> None:
        """Take no more frames; the pack is finished when those under way are sealed."""
        if self._current.get(upload.pack.kind) is upload:
            del self._current[upload.pack.kind]
        upload.is_closed = True
        self._finish_if_closed(upload)

    def _finish_if_closed(self, upload: PackUpload) -> None:
        if upload.is_closed and not upload.is_finishing and not upload.pack.sealing_count:
            self._start_finish(upload)

    def _start_finish(self, upload: PackUpload) -> None:
        upload.is_finishing, upload.has_failed = True, False
        self._finishing += 1
        self._nursery.start_soon(self._finish, upload)

    async def _finish(self, upload: PackUpload) -> None:
        try:
            await upload.finish()
            await self._take_in(upload)
        except S3backfsError as error:
            upload.has_failed = True
            self._fail(error)
        finally:
            self._finishing -= 1
            self._note_change()

    async def _take_in(self, upload: PackUpload) -> None:
        """A pack is durable: the index may know it, and its memory is free."""
        pack = upload.pack
        whole_length = pack.used_bytes
        rows: list[PackRow] = pack.rows
        await self._in_thread(
            self._index.add_pack, pack.pack_id, self._options.epoch, pack.kind, whole_length, rows
        )
        # No await from here: the pack leaves memory at once.
        for ref in content_refs(pack.pack_id, self._options.epoch, rows):
            known = self._fresh.get(ref.id)
            if known is not None and known.pack_id == pack.pack_id:
                del self._fresh[ref.id]
        del self._packs[pack.pack_id]
        self.progress.durable_bytes += whole_length
        self.progress.packs_count += 1
        self.budget.release(sum(row.frame_length for row in rows))
        self._unsegmented.append(pack.pack_id)
        if len(self._unsegmented) >= PACKS_PER_SEGMENT:
            ticket = object()
            self._running.add(ticket)
            # Not queued: it waits for the store, and the processors need not.
            self._nursery.start_soon(self._run, ticket, self._store_segment, None)

    async def _store_segment(self, _: None) -> None:
        await self.store_segment()
