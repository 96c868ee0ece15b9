"""Encrypted frames, from wherever they are nearest: memory, the disk cache, the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import trio

from s3backfs.errors import IntegrityError
from s3backfs.format.refs import Kind
from s3backfs.repository.cache import ByteLru, DiskCache
from s3backfs.repository.fetching import Fetch, FetchLimits, Frame, plan_fetch
from s3backfs.repository.flights import Background, Flights, Promise
from s3backfs.repository.packing import pack_key
from s3backfs.store.base import Buffer, Store

AHEAD_SHARE = 0.375
"""So much of what may be spare is for frames that were fetched ahead."""

HINTS_MAX_COUNT = 2048
"""Above this many, all are forgotten: they only save requests."""


class InFlight(Protocol):
    """Knows the packs that are not stored yet."""

    def peek(self, pack_id: bytes, pack_offset: int, frame_length: int) -> Buffer | None:
        """A sealed frame of such a pack."""


class NothingInFlight:
    """What a mount that only reads has in flight."""

    def peek(self, pack_id: bytes, pack_offset: int, frame_length: int) -> Buffer | None:
        return None


class FrameSource:
    """Gets frames; one GET brings neighbours that were hinted at, and serves all who want them.

    Frames are kept `spare`, up to a limit, whether they came along or were asked for.
    """

    def __init__(
        self,
        store: Store,
        disk: DiskCache | None,
        inflight: InFlight,
        background: Background,
        limits: FetchLimits,
        spare_bytes: int,
    ) -> None:
        self._store = store
        self._disk = disk
        self._inflight = inflight
        self._limits = limits
        self._flights: Flights[Frame, Buffer] = Flights(background)
        self._spare: ByteLru[Frame, bytes] = ByteLru(spare_bytes)
        self._ahead: dict[Frame, None] = {}
        """What was fetched ahead, or is under way, and was not asked for yet."""
        self._ahead_bytes = 0
        self._hints: dict[bytes, dict[Frame, None]] = {}
        self._hints_count = 0

    def hint(self, frames: Iterable[Frame]) -> None:
        """Say what will be wanted soon; it comes along with a GET near it."""
        if self._hints_count > HINTS_MAX_COUNT:
            self._hints.clear()
            self._hints_count = 0
        for frame in frames:
            hints = self._hints.setdefault(frame.pack_id, {})
            if frame in hints or self._is_there(frame):
                continue
            hints[frame] = None
            self._hints_count += 1

    def fetch_ahead(self, frames: Sequence[Frame]) -> None:
        """Fetch frames that are wanted later, in order; what there is no room for is hinted at.

        Those that are used stay spare for a while, too: room is for less than half of all.
        """
        self.hint(frames)
        for frame in frames:
            if not self._is_there(frame) and self._peek(frame) is None:
                if not self._has_room_ahead():
                    break
                self._promised(frame)
            if frame not in self._ahead:
                self._ahead[frame] = None
                self._ahead_bytes += frame.length

    def _has_room_ahead(self) -> bool:
        """Whether one more GET may be made for what is wanted later."""
        limit_bytes = self._spare.limit_bytes * AHEAD_SHARE - self._limits.total_bytes
        if self._ahead_bytes > limit_bytes:
            for frame in [each for each in self._ahead if not self._is_there(each)]:
                self._note_used(frame)
        return self._ahead_bytes <= limit_bytes

    def _is_there(self, frame: Frame) -> bool:
        return frame in self._spare or self._flights.find(frame) is not None

    def _note_used(self, frame: Frame) -> None:
        if frame in self._ahead:
            del self._ahead[frame]
            self._ahead_bytes -= frame.length

    def is_expected(self, frame: Frame) -> bool:
        """Whether a frame has come along with a GET, or will with the next one near it."""
        return self._is_there(frame) or frame in self._hints.get(frame.pack_id, {})

    async def get(self, frame: Frame) -> Buffer:
        """Return a frame, not authenticated yet.

        Raises:
            ObjectMissingError: its pack is gone.
            IntegrityError: its pack ends before it.
        """
        self._note_used(frame)
        known = self._at_hand(frame)
        if known is not None:
            return known
        return await self._promised(frame).wait()

    def begin(self, frame: Frame) -> None:
        """Start to get a frame that `get` will be called for soon."""
        if frame not in self._spare and self._peek(frame) is None:
            self._promised(frame)

    async def get_anew(self, frame: Frame) -> Buffer | None:
        """Return a frame from the store after what the disk cache had did not open.

        None where there is no disk cache, so that the first answer was the store's already.
        """
        if self._disk is None or frame.kind is not Kind.META or self._peek(frame) is not None:
            return None
        await trio.to_thread.run_sync(self._disk.drop, _name(frame))
        fetch = plan_fetch(frame, (), self._limits)
        answer = await self._fetch(fetch)
        await trio.to_thread.run_sync(_keep_all, self._disk, fetch, answer)
        return _cut(frame, fetch, answer)

    def _peek(self, frame: Frame) -> Buffer | None:
        return self._inflight.peek(frame.pack_id, frame.offset, frame.length)

    def _at_hand(self, frame: Frame) -> Buffer | None:
        return self._spare.get(frame) or self._peek(frame)

    def _promised(self, frame: Frame) -> Promise[Buffer]:
        return self._flights.find(frame) or self._start(frame)

    def _start(self, frame: Frame) -> Promise[Buffer]:
        hints = self._hints.get(frame.pack_id, {})
        fetch = plan_fetch(frame, hints, self._limits)
        for taken in fetch.frames:
            if taken in hints:
                del hints[taken]
                self._hints_count -= 1
        if not hints:
            self._hints.pop(frame.pack_id, None)
        new = [taken for taken in fetch.frames if self._flights.find(taken) is None]

        async def carry_out(promises: Mapping[Frame, Promise[Buffer]]) -> None:
            await self._carry_out(fetch, promises)

        return self._flights.start_many(new, carry_out)[frame]

    async def _carry_out(self, fetch: Fetch, promises: Mapping[Frame, Promise[Buffer]]) -> None:
        if self._disk is not None and fetch.frames[0].kind is Kind.META:
            await self._carry_out_by_disk(self._disk, fetch, promises)
            return
        answer = await self._fetch(fetch)
        for frame, promise in promises.items():
            self._deliver(frame, promise, fetch, answer)

    async def _carry_out_by_disk(
        self, disk: DiskCache, fetch: Fetch, promises: Mapping[Frame, Promise[Buffer]]
    ) -> None:
        found = await trio.to_thread.run_sync(_look_up, disk, list(promises))
        for frame, data in found.items():
            self._hand_over(frame, promises[frame], data)
        missing = [frame for frame in promises if frame not in found]
        while missing:
            rest = plan_fetch(missing[0], missing[1:], self._limits)
            missing = [frame for frame in missing if frame not in rest.frames]
            answer = await self._fetch(rest)
            for frame in rest.frames:
                self._deliver(frame, promises[frame], rest, answer)
            await trio.to_thread.run_sync(_keep_all, disk, rest, answer)

    async def _fetch(self, fetch: Fetch) -> memoryview:
        first = fetch.frames[0]
        key = pack_key(first.kind, first.pack_id)
        fetched = await self._store.get(key, offset=fetch.offset, length=fetch.length)
        return memoryview(fetched.data)

    def _deliver(
        self, frame: Frame, promise: Promise[Buffer], fetch: Fetch, answer: memoryview
    ) -> None:
        try:
            data = _cut(frame, fetch, answer)
        except IntegrityError as error:
            promise.fail(error)
        else:
            self._hand_over(frame, promise, data)

    def _hand_over(self, frame: Frame, promise: Promise[Buffer], data: Buffer) -> None:
        # A copy: a view would keep the whole answer in memory. It stays for those who want the
        # frame again when its plaintext, several times as long, has left the cache of chunks.
        self._spare.put(frame, bytes(data), frame.length)
        promise.keep(data)


def _cut(frame: Frame, fetch: Fetch, answer: memoryview) -> memoryview:
    start = frame.offset - fetch.offset
    data = answer[start : start + frame.length]
    if len(data) != frame.length:
        raise IntegrityError(
            "the object ends before this frame does",
            key=pack_key(frame.kind, frame.pack_id),
            offset=frame.offset,
        )
    return data


def _name(frame: Frame) -> str:
    return f"{frame.pack_id.hex()}-{frame.offset}-{frame.length}"


def _look_up(disk: DiskCache, frames: Iterable[Frame]) -> dict[Frame, bytes]:
    found = {frame: disk.get(_name(frame)) for frame in frames}
    return {
        frame: data
        for frame, data in found.items()
        if data is not None and len(data) == frame.length
    }


def _keep_all(disk: DiskCache, fetch: Fetch, answer: memoryview) -> None:
    for frame in fetch.frames:
        start = frame.offset - fetch.offset
        data = answer[start : start + frame.length]
        if len(data) == frame.length:
            disk.put(_name(frame), data)
