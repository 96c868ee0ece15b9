"""Machines that share a bucket and a clock and nothing else, under a seeded scheduler.

Every request to the store takes a random while, so that what the machines do is interleaved at
every one of them. A machine that sleeps stays where its next request would begin or end.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import trio

from s3backfs.repository.opening import OpenedRepository
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
from tests.crash.machine import Machine, booted

T = TypeVar("T")

LEASE_S = 600.0
LONGEST_WAIT = 6


class Clock:
    """The time of the world; it passes only when somebody says so."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def read_s(self) -> float:
        return self.now_s

    def read_ns(self) -> int:
        return int(self.now_s * 1_000_000_000)


class SlowStore:
    """One machine's way to the bucket."""

    def __init__(self, memory: MemoryStore, randomness: random.Random) -> None:
        self.memory = memory
        self._random = randomness
        self._awake = trio.Event()
        self._awake.set()

    def fall_asleep(self) -> None:
        self._awake = trio.Event()

    def wake(self) -> None:
        self._awake.set()

    @property
    def is_asleep(self) -> bool:
        return not self._awake.is_set()

    async def _travel(self) -> None:
        for _ in range(self._random.randrange(LONGEST_WAIT)):
            await trio.lowlevel.checkpoint()
        await self._awake.wait()

    async def run(self, act: Callable[[], Awaitable[T]]) -> T:
        await self._travel()
        result = await act()
        await self._travel()
        return result

    @property
    def url(self) -> str:
        return self.memory.url

    @property
    def place(self) -> str:
        return self.memory.place

    @property
    def has_conditional_put(self) -> bool | None:
        return self.memory.has_conditional_put

    @property
    def conditions(self) -> Conditions | None:
        return self.memory.conditions

    async def confirm(self, key: str, data: Buffer, known: Conditions) -> bool:
        return await self.memory.confirm(key, data, known)

    async def probe(self, key: str) -> None:
        await self.memory.probe(key)

    async def get(self, key: str, *, offset: int = 0, length: int | None = None) -> Fetched:
        return await self.run(lambda: self.memory.get(key, offset=offset, length=length))

    async def put(self, key: str, data: Buffer, *, condition: Condition = None) -> Stored:
        return await self.run(lambda: self.memory.put(key, data, condition=condition))

    async def begin_upload(self, key: str) -> Upload:
        return _SlowUpload(self, await self.run(lambda: self.memory.begin_upload(key)))

    def list(self, prefix: str, *, after: str = "") -> AsyncIterator[Sequence[Listed]]:
        return _SlowPages(self, self.memory.list(prefix, after=after))

    async def head(self, key: str) -> Listed:
        return await self.run(lambda: self.memory.head(key))

    async def copy(self, source_key: str, key: str) -> Stored:
        return await self.run(lambda: self.memory.copy(source_key, key))

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            await self.run(lambda key=key: self.memory.delete([key]))  # type: ignore[misc]

    def list_uploads(self, prefix: str) -> AsyncIterator[Sequence[PendingUpload]]:
        return self.memory.list_uploads(prefix)

    async def abort_upload(self, upload: PendingUpload) -> None:
        await self.memory.abort_upload(upload)

    async def aclose(self) -> None:
        await self.memory.aclose()


@dataclass(frozen=True, slots=True)
class _SlowUpload:
    store: SlowStore
    upload: Upload

    @property
    def upload_id(self) -> str:
        return self.upload.upload_id

    async def put_part(self, number: int, data: Buffer) -> None:
        await self.upload.put_part(number, data)

    async def complete(self) -> Stored:
        return await self.store.run(self.upload.complete)

    async def abort(self) -> None:
        await self.upload.abort()


@dataclass(frozen=True, slots=True)
class _SlowPages:
    store: SlowStore
    pages: AsyncIterator[Sequence[Listed]]

    def __aiter__(self) -> _SlowPages:
        return self

    async def __anext__(self) -> Sequence[Listed]:
        return await self.store.run(self.pages.__anext__)


@dataclass(slots=True)
class Participant:
    """A machine that mounts the repository, crashes, and mounts it again."""

    name: str
    world: World
    home: Path
    store: SlowStore
    machine: Machine | None = None
    is_busy: bool = False
    is_crashing: bool = False
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)

    @property
    def is_free(self) -> bool:
        """Whether it can begin something."""
        return not self.is_busy and not self.is_crashing

    async def live(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be mounted until the crash."""
        self.ended = trio.Event()
        try:
            with trio.CancelScope() as self.scope:
                async with self.world.booted(self.store, self.home) as machine:
                    self.machine = machine
                    task_status.started()
                    await trio.sleep_forever()
        finally:
            self.machine = None
            self.ended.set()

    async def crash(self) -> None:
        self.scope.cancel()
        await self.ended.wait()


class World:
    """A bucket, a clock, and who lives there."""

    def __init__(
        self,
        objects: dict[str, bytes],
        opened: OpenedRepository,
        randomness: random.Random,
        home: Path,
        *,
        enforce_conditions: bool,
    ) -> None:
        self.clock = Clock()
        self.opened = opened
        self.random = randomness
        self.memory = MemoryStore(
            objects,
            clock=self.clock.read_ns,
            enforce_conditions=enforce_conditions,
            smallest_part_bytes=1,
        )
        self._home = home
        self._homes_count = 0

    def new_home(self) -> Path:
        self._homes_count += 1
        return self._home / str(self._homes_count)

    def new_store(self) -> SlowStore:
        return SlowStore(self.memory, self.random)

    def participant(self, name: str) -> Participant:
        return Participant(name, self, self.new_home(), self.new_store())

    @asynccontextmanager
    async def booted(self, store: Any, home: Path, **options: Any) -> AsyncIterator[Machine]:
        async with booted(
            store, self.opened, home, lease_s=LEASE_S, clock=self.clock.read_s, **options
        ) as machine:
            yield machine
