"""A store that remembers when each write was begun, took effect and was acknowledged.

From that it makes the stores that a crash at any moment may leave: every acknowledged write is
there, and each of the others is there, or not, or lands after those that were begun later.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

from s3backfs.errors import PreconditionFailedError
from s3backfs.store.base import (
    Buffer,
    Condition,
    Conditions,
    Fetched,
    Listed,
    PendingUpload,
    Stored,
    Upload,
)
from s3backfs.store.memory import MemoryStore

LONGEST_WAIT = 12
"""So many times at most the scheduler goes round while a request is on its way."""


@dataclass(slots=True)
class Write:
    """One object that was to be written, or with None removed; moments count events."""

    key: str
    data: bytes | None
    condition: Condition
    begun: int
    applied: int | None = None
    ended: int | None = None


class Journal:
    """Passes everything on to a store in memory, with random delays, and keeps all writes."""

    def __init__(
        self, objects: Mapping[str, bytes], randomness: random.Random, *, enforce_conditions: bool
    ) -> None:
        self.memory = _store(objects, enforce_conditions)
        self.writes: list[Write] = []
        self._enforce_conditions = enforce_conditions
        self._before = self.memory.objects
        self._random = randomness
        self._moments = itertools.count(1)
        self._now = 0

    @property
    def now(self) -> int:
        """The moment of the last event."""
        return self._now

    def tick(self) -> int:
        """Count one event, and return its moment."""
        self._now = next(self._moments)
        return self._now

    # -- what a crash leaves -----------------------------------------------------------------

    async def crashed(self, moment: int, randomness: random.Random) -> MemoryStore:
        """Make the store as a crash at `moment` may leave it."""
        done, late = [], []
        for write in self.writes:
            if write.begun > moment:
                break
            if write.ended is not None and write.ended <= moment:
                if write.applied is not None:
                    done.append(write)
                continue
            fate = randomness.choice(("lost", "in time", "late"))
            if fate == "in time" and write.applied is not None and write.applied <= moment:
                done.append(write)
            elif fate != "lost":
                late.append(write)
        objects = dict(self._before)
        for write in sorted(done, key=lambda write: write.applied or 0):
            _apply(objects, write)
        store = _store(objects, self._enforce_conditions)
        randomness.shuffle(late)
        for write in late:
            await _land(store, write)
        return store

    async def duplicate(self, moment: int, store: MemoryStore, randomness: random.Random) -> None:
        """Let one acknowledged write of an open root land once more, as a lost packet does."""
        roots = [
            write
            for write in self.writes
            if write.ended is not None
            and write.ended <= moment
            and write.applied is not None
            and write.data is not None
            and write.key.startswith(("open/", "leases/"))
        ]
        if roots:
            await _land(store, randomness.choice(roots))

    # -- the store ---------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return self.memory.url

    @property
    def place(self) -> str:
        return self.memory.place

    @property
    def has_conditional_put(self) -> bool | None:
        return self.memory.has_conditional_put

    async def _travel(self) -> None:
        for _ in range(self._random.randrange(LONGEST_WAIT)):
            await trio.lowlevel.checkpoint()

    def _begin(self, key: str, data: bytes | None, condition: Condition) -> Write:
        write = Write(key, data, condition, self.tick())
        self.writes.append(write)
        return write

    @property
    def conditions(self) -> Conditions | None:
        return self.memory.conditions

    async def confirm(self, key: str, data: Buffer, known: Conditions) -> bool:
        return await self.memory.confirm(key, data, known)

    async def probe(self, key: str) -> None:
        await self.memory.probe(key)

    async def get(self, key: str, *, offset: int = 0, length: int | None = None) -> Fetched:
        await self._travel()
        return await self.memory.get(key, offset=offset, length=length)

    async def put(self, key: str, data: Buffer, *, condition: Condition = None) -> Stored:
        write = self._begin(key, bytes(data), condition)
        await self._travel()
        try:
            stored = await self.memory.put(key, data, condition=condition)
            write.applied = self.tick()
            await self._travel()
        finally:
            write.ended = self.tick()
        return stored

    async def begin_upload(self, key: str) -> Upload:
        await self._travel()
        return _JournalUpload(self, key, await self.memory.begin_upload(key))

    async def complete(self, key: str, upload: Upload) -> Stored:
        """Complete an upload; only `_JournalUpload` calls this."""
        # What it will hold is known only when it is there; until then a crash loses it.
        begun = self.tick()
        await self._travel()
        stored = await upload.complete()
        write = Write(key, self.memory.objects[key], None, begun, self.tick())
        self.writes.append(write)
        self.writes.sort(key=lambda write: write.begun)
        await self._travel()
        write.ended = self.tick()
        return stored

    def list(self, prefix: str, *, after: str = "") -> AsyncIterator[Sequence[Listed]]:
        return self.memory.list(prefix, after=after)

    async def head(self, key: str) -> Listed:
        await self._travel()
        return await self.memory.head(key)

    async def copy(self, source_key: str, key: str) -> Stored:
        return await self.put(key, self.memory.objects[source_key])

    async def delete(self, keys: Sequence[str]) -> None:
        writes = [self._begin(key, None, None) for key in keys]
        await self._travel()
        await self.memory.delete(keys)
        moment = self.tick()
        for write in writes:
            write.applied = moment
        await self._travel()
        for write in writes:
            write.ended = self.tick()

    def list_uploads(self, prefix: str) -> AsyncIterator[Sequence[PendingUpload]]:
        return self.memory.list_uploads(prefix)

    async def abort_upload(self, upload: PendingUpload) -> None:
        await self.memory.abort_upload(upload)

    async def aclose(self) -> None:
        await self.memory.aclose()


@dataclass(frozen=True, slots=True)
class _JournalUpload:
    journal: Journal
    key: str
    upload: Upload

    @property
    def upload_id(self) -> str:
        return self.upload.upload_id

    async def put_part(self, number: int, data: Buffer) -> None:
        await self.upload.put_part(number, data)

    async def complete(self) -> Stored:
        return await self.journal.complete(self.key, self.upload)

    async def abort(self) -> None:
        await self.upload.abort()


def _apply(objects: dict[str, bytes], write: Write) -> None:
    if write.data is None:
        objects.pop(write.key, None)
    else:
        objects[write.key] = write.data


async def _land(store: MemoryStore, write: Write) -> None:
    """Let a write take effect now, if its condition holds now."""
    if write.data is None:
        await store.delete([write.key])
        return
    with suppress(PreconditionFailedError):
        await store.put(write.key, write.data, condition=write.condition)


def _store(objects: Mapping[str, bytes], enforce_conditions: bool) -> MemoryStore:
    return MemoryStore(objects, enforce_conditions=enforce_conditions, smallest_part_bytes=1)
