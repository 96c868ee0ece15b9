"""The way of written bytes into packs: hash, deduplicate, compress, seal, verify, upload.

    add -> task per chunk: thread (id, index, zstd) -> place in a pack -> thread (seal, verify)
    add (small) -> bundle -> the same, for many small contents at once

All bytes on this way are counted in one budget; who adds waits while it is spent. Bytes in a pack
stay counted until the pack is stored. A failed upload keeps its pack; the next barrier tries again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import trio

from s3backfs.errors import S3backfsError
from s3backfs.format.frame import compress, compress_patch
from s3backfs.format.keys import Keyring
from s3backfs.format.pack import slice_ref
from s3backfs.format.refs import Kind, Ref
from s3backfs.repository.condemned import CondemnedSets
from s3backfs.repository.filling import Filling, PackSizes
from s3backfs.repository.flow import Flow
from s3backfs.repository.index import ChunkIndex, store_segment
from s3backfs.repository.learning import Learning
from s3backfs.repository.piece import Piece
from s3backfs.repository.sealing import (
    Knowledge,
    Known,
    Prepared,
    Slice,
    prepare_bundle,
    prepare_chunk,
)
from s3backfs.store.base import Store

T = TypeVar("T")

SMALL_BYTES = 128 * 1024
"""Content up to this size goes into a bundle."""

BUNDLE_BYTES = 1024 * 1024
PACKS_PER_SEGMENT = 64


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """Sizes and settings of one writer; `level` is zstd's, None stores without compression."""

    pack_bytes: int
    memory_bytes: int
    level: int | None
    epoch: int
    cpu_threads: int


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
        self._store = store
        self._keyring = keyring
        self._index = index
        self._options = options
        self._flow = Flow(options.memory_bytes, options.cpu_threads, nursery)
        sizes = PackSizes(options.pack_bytes, options.memory_bytes, options.epoch)
        self._filling = Filling(store, keyring, index, sizes, self._flow, self._note_stored)
        self._learning = Learning(store, keyring, index, self._filling, self._flow)
        self._knowledge = Knowledge(self._filling.fresh, index)
        self._bundle: list[Piece] = []
        self._bundle_bytes = 0
        self._running: set[object] = set()
        self._queue: deque[tuple[object, Callable[[Any], Awaitable[None]], Any]] = deque()
        self._workers_count = 0
        self._unsegmented: list[bytes] = []
        self._undone: list[tuple[Callable[[Any], Awaitable[None]], Any]] = []
        self.progress = self._flow.progress
        self.budget = self._flow.budget
        self.referred = self._filling.referred
        self.written = self._filling.written
        self.missing = self._learning.missing
        self.peek = self._filling.peek
        self.shun = self._learning.shun
        self.look = self._learning.look
        self.look_anew = self._learning.look_anew
        self.look_if_old = self._learning.look_if_old
        self.find_missing = self._learning.find_missing

    @property
    def failure(self) -> S3backfsError | None:
        """What has failed and keeps everything else out, until a barrier succeeds."""
        return self._flow.failure

    async def learn(self, condemned: CondemnedSets) -> None:
        """Bring the index up to date; contents wait for it, so that none is stored twice."""
        unsegmented = await self._learning.learn(condemned)
        self._unsegmented.extend(unsegmented)

    # -- the entrance ------------------------------------------------------------------------

    async def add(self, data: memoryview) -> Piece:
        """Take content over; waits while memory is spent. `data` must not change any more.

        Raises:
            S3backfsError: what failed before; nothing was taken.
        """
        self._flow.check()
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
        await self._flow.wait_until(lambda: waiting.isdisjoint(self._running))
        self._flow.check()

    async def barrier(self) -> None:
        """Wait until everything added so far is durable; uploads that failed are tried again.

        Raises:
            S3backfsError: not all of it is; all is still in memory.
        """
        self._flow.failure = None
        undone, self._undone = self._undone, []
        for work, argument in undone:
            self._start(work, argument)
        await self.drain()
        await self._filling.store_all()
        self._flow.check()

    async def store_segment(self) -> None:
        """Write an index segment of the packs stored since the last one."""
        if self._unsegmented:
            packs, self._unsegmented = self._unsegmented, []
            await store_segment(self._store, self._keyring, self._index, packs)

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
            self._flow.nursery.start_soon(self._work)

    async def _work(self) -> None:
        while self._queue:
            await self._run(*self._queue.popleft())
        self._workers_count -= 1

    async def _run(self, ticket: object, work: Callable[[T], Awaitable[None]], argument: T) -> None:
        try:
            await self._learning.wait()
            await work(argument)
        except S3backfsError as error:
            self._undone.append((work, argument))
            self._flow.fail(error)
        finally:
            self._running.discard(ticket)
            self._flow.note_change()

    def _relieve(self) -> None:
        """Memory is spent: start what will free some."""
        self._flow.check()
        if self._running:
            return
        if self._bundle:
            self._close_bundle()
        elif not self._filling.is_finishing:
            self._filling.close_all()

    # -- chunks, bundles, nodes --------------------------------------------------------------

    async def _store_chunk(self, piece: Piece) -> None:
        data = piece.data
        assert data is not None
        prepared = await self._flow.in_thread(
            prepare_chunk, self._keyring, self._knowledge, data, self._options.level
        )
        if isinstance(prepared, Prepared):
            # The same content may have come in while this one was compressed.
            prepared = self._filling.fresh.get(prepared.chunk_id) or prepared
        if isinstance(prepared, Ref):
            self._settle_known(Known(piece, prepared))
            return
        piece.settle(await self._filling.seal(Kind.DATA, prepared))
        self.budget.release(piece.length)

    async def _store_bundle(self, pieces: list[Piece]) -> None:
        prepared, known = await self._flow.in_thread(
            prepare_bundle, self._keyring, self._knowledge, pieces, self._options.level
        )
        for content in known:
            self._settle_known(content)
        if prepared is None:
            return
        chunk = await self._filling.seal(Kind.DATA, prepared)
        for part in prepared.slices:
            self._settle_slice(chunk, part)

    def _settle_slice(self, chunk: Ref, part: Slice) -> None:
        ref = slice_ref(chunk, part.row)
        self._filling.fresh[ref.id] = ref
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
        """Every known place of a manifest node, or of another content, by its id.

        Who takes one for a node calls `take_node` at once.
        """
        await self._learning.wait()
        return self._node_places(node_id)

    def _node_places(self, node_id: bytes) -> list[Ref]:
        known = self._filling.fresh.get(node_id)
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
        body = await self._flow.in_thread(compress, plain, self._options.level or 1)
        patch = None
        if base is not None and self._index.is_shunned(base.pack_id):
            base = None
        if base is not None and base_plain is not None:
            patch = await self._flow.in_thread(compress_patch, plain, base_plain)
        if patch is None or len(patch) * 4 > len(body) * 3:
            return await self._filling.seal(Kind.META, Prepared(body, plain, node_id))
        return await self._filling.seal(
            Kind.META, Prepared(patch, plain, node_id), base=base, base_plain=base_plain
        )

    # -- index segments ----------------------------------------------------------------------

    def _note_stored(self, pack_id: bytes) -> None:
        self._unsegmented.append(pack_id)
        if len(self._unsegmented) >= PACKS_PER_SEGMENT:
            ticket = object()
            self._running.add(ticket)
            # Not queued: it waits for the store, and the processors need not.
            self._flow.nursery.start_soon(self._run, ticket, self._store_segment, None)

    async def _store_segment(self, _: None) -> None:
        await self.store_segment()
