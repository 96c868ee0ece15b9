"""The way of bytes out of packs: fetch, authenticate, decompress, keep.

    read       chunk in memory? else frame (memory, disk cache, ranged GET) -> thread (open)
    read_node  decoded node in memory? else the same, then decode

Several readers of one chunk share one flight. A pack that is gone is looked up in its moved table.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import trio

from s3backfs.errors import IntegrityError, ObjectMissingError, S3backfsError
from s3backfs.format.frame import MAX_PLAIN_BYTES, open_frame
from s3backfs.format.keys import Keyring
from s3backfs.format.lease import MovedRange
from s3backfs.format.refs import Kind, Ref, is_sound
from s3backfs.repository.cache import ByteLru, DiskCache
from s3backfs.repository.fetching import FetchLimits, Frame, frame_of
from s3backfs.repository.flights import Background, Flights
from s3backfs.repository.frames import FrameSource, InFlight
from s3backfs.repository.moved import MAX_HOPS, MovedTables, Part, plan_moved
from s3backfs.repository.packing import pack_id_of, pack_key
from s3backfs.store.base import Buffer, Store

log = logging.getLogger(__name__)

T = TypeVar("T")

INLINE_BYTES = 16 * 1024
"""What is no longer than this is opened and decoded without a thread: a hop would cost more."""

DECODED_FACTOR = 8
"""About how much more memory a decoded node takes than its bytes."""

MAX_FRAME_BYTES = MAX_PLAIN_BYTES + 64
LOGGED_MAX_COUNT = 1000


@dataclass(frozen=True, slots=True)
class Caches:
    """What a reader keeps; the disk cache is for packs of nodes only."""

    chunks: ByteLru[Frame, bytes]
    nodes: ByteLru[Ref, Any]
    disk: DiskCache | None = None

    @classmethod
    def within(cls, memory_bytes: int, disk: DiskCache | None = None) -> Caches:
        """Share memory out: most of it goes to chunks."""
        nodes_bytes = memory_bytes // 4
        return cls(ByteLru(memory_bytes - nodes_bytes), ByteLru(nodes_bytes), disk)


@dataclass(frozen=True, slots=True)
class ReaderLimits:
    """How much a reader does at once."""

    cpu_threads: int = 2
    ahead_bytes: int = 32 * 1024 * 1024
    """Frames and plaintext of the chunks that are being read ahead."""
    ahead_count: int = 512
    spare_bytes: int = 16 * 1024 * 1024
    """Frames that came along with a GET and wait to be asked for."""
    fetch: FetchLimits = field(default_factory=FetchLimits)


class PackGoneError(IntegrityError):
    """Neither a pack nor what was moved out of it is there any more."""


class Reader:
    """Reads contents and nodes; works inside `async with`."""

    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        caches: Caches,
        inflight: InFlight,
        limits: ReaderLimits,
    ) -> None:
        self._keyring = keyring
        self._chunks = caches.chunks
        self._nodes = caches.nodes
        self._limits = limits
        self.spare_bytes = limits.spare_bytes
        """How much of what came along with a GET is kept until it is asked for."""
        self._cpu = trio.CapacityLimiter(limits.cpu_threads)
        self.background = Background()
        """For what goes on when whoever began it no longer waits."""
        self._frames = FrameSource(
            store, caches.disk, inflight, self.background, limits.fetch, limits.spare_bytes
        )
        self._chunk_flights: Flights[Frame, bytes] = Flights(self.background)
        self._node_flights: Flights[Ref, Any] = Flights(self.background)
        self._moved = MovedTables(store, keyring)
        self._ahead_bytes = 0
        self._ahead_count = 0
        self._logged: set[tuple[str, int]] = set()
        self.damaged: set[tuple[bytes, int]] = set()
        """Packs and offsets of frames that did not open, for whoever deduplicates."""
        self.gone: set[bytes] = set()
        """Packs that were not there, and of which something that was wanted was moved nowhere."""
        self._exit = AsyncExitStack()

    async def __aenter__(self) -> Reader:
        await self._exit.enter_async_context(self.background)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._exit.__aexit__(kind, error, traceback)

    # -- contents ----------------------------------------------------------------------------

    async def read(self, ref: Ref, offset: int, length: int) -> bytes | memoryview:
        """Read a range of a content; `offset` counts from its beginning.

        Raises:
            IntegrityError: it is damaged or gone; it names pack and offset, and was logged.
            StoreError: the store did not give it.
        """
        if offset < 0 or length < 0 or offset + length > ref.slice_length or not is_sound(ref):
            raise _damage(frame_of(Kind.DATA, ref), "something refers to bytes behind its end")
        return await self._range(Kind.DATA, ref, ref.slice_offset + offset, length)

    async def read_chunk(self, ref: Ref) -> bytes | memoryview:
        """Read the whole chunk that a content is in, see `read`."""
        return await self._range(Kind.DATA, ref, 0, ref.chunk_length)

    def peek(self, ref: Ref) -> memoryview | None:
        """A whole content, if its chunk is in memory."""
        plain = self._chunks.get(frame_of(Kind.DATA, ref))
        if plain is None:
            return None
        return memoryview(plain)[ref.slice_offset : ref.slice_offset + ref.slice_length]

    def prefetch(self, refs: Iterable[Ref]) -> None:
        """Read contents ahead in the background, in this order, as far as the limits allow.

        The rest is remembered: it comes along when something near it is read.
        """
        new = self._new_frames(refs)
        self._frames.hint(new)
        for frame in new:
            if not self._may_read_ahead(frame):
                break
            self._ahead_bytes += frame.length + frame.plain_length
            self._ahead_count += 1
            self._chunk_flights.start(frame, partial(self._load_ahead, frame))

    def fetch_ahead(self, refs: Iterable[Ref]) -> None:
        """Fetch contents that are wanted later, in this order, as far as there is room for them."""
        self._frames.fetch_ahead(self._new_frames(refs))

    def _new_frames(self, refs: Iterable[Ref]) -> list[Frame]:
        wanted = dict.fromkeys(frame_of(Kind.DATA, ref) for ref in refs)
        return [frame for frame in wanted if self._is_new(frame)]

    def is_expected(self, ref: Ref) -> bool:
        """Whether a content was read ahead and is still there, or will come along soon."""
        frame = frame_of(Kind.DATA, ref)
        return not self._is_new(frame) or self._frames.is_expected(frame)

    def _is_new(self, frame: Frame) -> bool:
        is_known = frame in self._chunks or self._chunk_flights.find(frame) is not None
        return not is_known and _is_possible(frame)

    def _may_read_ahead(self, frame: Frame) -> bool:
        # What is read ahead must not push out what was read ahead before it.
        limit_bytes = min(self._limits.ahead_bytes, self._chunks.limit_bytes // 2)
        wanted_bytes = self._ahead_bytes + frame.length + frame.plain_length
        return self._ahead_count < self._limits.ahead_count and wanted_bytes <= limit_bytes

    async def _load_ahead(self, frame: Frame) -> bytes:
        try:
            return await self._load_chunk(frame)
        finally:
            self._ahead_bytes -= frame.length + frame.plain_length
            self._ahead_count -= 1

    # -- nodes -------------------------------------------------------------------------------

    async def read_node(self, ref: Ref, decode: Callable[[bytes], T]) -> T:
        """Read a manifest node and decode it; a decoded one may come from memory.

        Raises:
            IntegrityError: it is damaged or gone; it names pack and offset, and was logged.
            StoreError: the store did not give it.
        """
        known = self._nodes.get(ref)
        if known is None:
            flight = self._node_flights.find(ref)
            if flight is None:
                flight = self._node_flights.start(ref, partial(self._load_node, ref, decode))
            known = await flight.wait()
        # The same ref is always decoded by the same kind of tree.
        node: T = known
        return node

    def has_node(self, ref: Ref) -> bool:
        """Whether `read_node` would find a node decoded."""
        return ref in self._nodes

    async def read_node_bytes(self, ref: Ref) -> bytes:
        """Read a manifest node as it was before it was compressed, see `read_node`."""
        return bytes(await self._range(Kind.META, ref, 0, ref.chunk_length))

    def prefetch_nodes(self, refs: Iterable[Ref]) -> None:
        """Say which nodes will be read soon: they come along when one of them is."""
        self._frames.hint(
            frame
            for ref in refs
            if ref not in self._nodes
            for frame in _frames_of_node(ref)
            if frame not in self._chunks
        )

    async def _load_node(self, ref: Ref, decode: Callable[[bytes], T]) -> T:
        plain = await self.read_node_bytes(ref)
        try:
            if len(plain) <= INLINE_BYTES:
                node = decode(plain)
            else:
                node = await self._in_thread(decode, plain)
        except IntegrityError as error:
            damage = _damage(frame_of(Kind.META, ref), error.message)
            self._note_damage(ref, damage)
            self._log_once(damage)
            raise damage from error
        self._nodes.put(ref, node, len(plain) * DECODED_FACTOR)
        return node

    # -- chunks of both kinds ----------------------------------------------------------------

    async def _range(self, kind: Kind, ref: Ref, offset: int, length: int) -> bytes | memoryview:
        """Read a range of a ref's chunk, and log damage."""
        try:
            return await self._hop(kind, ref, offset, length, 0)
        except IntegrityError as error:
            self._note_damage(ref, error)
            self._log_once(error)
            raise

    def _note_damage(self, ref: Ref, error: IntegrityError) -> None:
        # It may be the base of a patch, or the place that a content was moved to.
        pack_id = pack_id_of(error.key)
        if isinstance(error, PackGoneError):
            self.gone.update({ref.pack_id, pack_id or ref.pack_id})
            return
        self.damaged.add((ref.pack_id, ref.pack_offset))
        if pack_id is not None:
            self.damaged.add((pack_id, error.offset))

    def _log_once(self, error: IntegrityError) -> None:
        place = (error.key, error.offset)
        if place not in self._logged and len(self._logged) < LOGGED_MAX_COUNT:
            self._logged.add(place)
            log.error("%s", error)

    async def _hop(
        self, kind: Kind, ref: Ref, offset: int, length: int, hops: int
    ) -> bytes | memoryview:
        """Read a range of a ref's chunk, wherever it is by now."""
        try:
            plain = await self._plain(kind, ref)
        except ObjectMissingError:
            return await self._moved_range(kind, ref, offset, length, hops)
        except IntegrityError as error:
            return await self._mended_range(error, kind, ref, offset, length, hops)
        if length == len(plain):
            return plain
        return memoryview(plain)[offset : offset + length]

    async def _plain(self, kind: Kind, ref: Ref) -> bytes:
        frame = frame_of(kind, ref)
        if ref.base is not None:
            return await self._load_patch(frame, ref, ref.base)
        known = self._chunks.get(frame)
        if known is not None:
            return known
        flight = self._chunk_flights.find(frame)
        if flight is None:
            flight = self._chunk_flights.start(frame, partial(self._load_chunk, frame))
        return await flight.wait()

    async def _load_chunk(self, frame: Frame) -> bytes:
        plain = await self._load(frame, None)
        self._chunks.put(frame, plain, len(plain))
        return plain

    async def _load_patch(self, frame: Frame, ref: Ref, base: Ref) -> bytes:
        """Read a patch and its base: by one GET if they lie near, else by two at once."""
        base_frame = frame_of(frame.kind, base)
        if not (is_sound(ref) and _is_possible(frame) and _is_possible(base_frame)):
            raise _damage(frame, "a patch or its base states what none can have")
        if base_frame not in self._chunks:
            self._frames.hint([base_frame])
        self._frames.begin(frame)
        base_plain = await self._hop(frame.kind, base, 0, base.chunk_length, 0)
        return await self._load(frame, base_plain)

    async def _load(self, frame: Frame, base: Buffer | None) -> bytes:
        if not _is_possible(frame):
            raise _damage(frame, "a frame states a length that none can have")
        data = await self._frames.get(frame)
        try:
            return await self._open(frame, data, base)
        except IntegrityError as error:
            fresh = await self._frames.get_anew(frame)
            if fresh is None:
                raise _damage(frame, error.message) from error
        try:
            return await self._open(frame, fresh, base)
        except IntegrityError as error:
            raise _damage(frame, error.message) from error

    async def _open(self, frame: Frame, data: Buffer, base: Buffer | None) -> bytes:
        cipher = self._keyring.pack_cipher(frame.kind, frame.pack_id, frame.epoch)
        work = partial(open_frame, cipher, frame.offset, data, frame.plain_length, base)
        if frame.length <= INLINE_BYTES and frame.plain_length <= INLINE_BYTES:
            return work()
        return await self._in_thread(work)

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await trio.to_thread.run_sync(work, *arguments, limiter=self._cpu)

    # -- packs that are gone, or damaged ------------------------------------------------------

    async def _mended_range(
        self, error: IntegrityError, kind: Kind, ref: Ref, offset: int, length: int, hops: int
    ) -> bytes | memoryview:
        """Read a range of a damaged chunk from where a repair has put it, if one has."""
        if not (is_sound(ref) and _is_possible(frame_of(kind, ref))):
            raise error
        try:
            return await self._moved_range(kind, ref, offset, length, hops)
        except S3backfsError:
            raise error from None

    async def _moved_range(
        self, kind: Kind, ref: Ref, offset: int, length: int, hops: int
    ) -> bytes | memoryview:
        """Read a range of a chunk whose pack is gone from where it was moved to."""
        table = self._moved.known(ref.pack_id)
        if table is not None:
            try:
                return await self._parts(kind, ref, table.ranges, offset, length, hops)
            except PackGoneError:
                # What the table says was moved on meanwhile; a newer table says where.
                pass
        table = await self._moved.load(ref.pack_id)
        if table is None:
            raise _gone(kind, ref)
        return await self._parts(kind, ref, table.ranges, offset, length, hops)

    async def _parts(
        self,
        kind: Kind,
        ref: Ref,
        ranges: Sequence[MovedRange],
        offset: int,
        length: int,
        hops: int,
    ) -> bytes | memoryview:
        parts = plan_moved(ranges, ref.pack_offset, offset, length)
        if parts is None:
            raise _gone(kind, ref)
        if hops >= MAX_HOPS:
            raise _damage(frame_of(kind, ref), "its content was moved on too often")
        found = [await self._part(kind, part, hops + 1) for part in parts]
        return found[0] if len(found) == 1 else b"".join(found)

    async def _part(self, kind: Kind, part: Part, hops: int) -> bytes | memoryview:
        return await self._hop(kind, part.target, part.offset, part.length, hops)


def _gone(kind: Kind, ref: Ref) -> PackGoneError:
    key = pack_key(kind, ref.pack_id)
    return PackGoneError("the pack is gone", key=key, offset=ref.pack_offset)


def _damage(frame: Frame, message: str) -> IntegrityError:
    key = pack_key(frame.kind, frame.pack_id)
    return IntegrityError(message, key=key, offset=frame.offset)


def _is_possible(frame: Frame) -> bool:
    """Whether a frame can be so long; what is forged must not make anybody allocate."""
    return 0 < frame.length <= MAX_FRAME_BYTES and 0 <= frame.plain_length <= MAX_PLAIN_BYTES


def _frames_of_node(ref: Ref) -> list[Frame]:
    refs = [ref] if ref.base is None else [ref.base, ref]
    return [frame_of(Kind.META, each) for each in refs]
