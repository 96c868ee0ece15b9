"""What the parts of a writer share: memory, processors, what has failed, and news of changes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

from s3backfs.errors import S3backfsError
from s3backfs.repository.budget import ByteBudget
from s3backfs.repository.progress import Progress

log = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Flow:
    """The way of bytes through a writer; who waits for something on it waits here."""

    def __init__(self, memory_bytes: int, cpu_threads: int, nursery: trio.Nursery) -> None:
        self.progress = Progress()
        self.budget = ByteBudget(memory_bytes)
        self.nursery = nursery
        self.failure: S3backfsError | None = None
        self._cpu = trio.CapacityLimiter(cpu_threads)
        self._changed = trio.Event()

    def check(self) -> None:
        """Raise what has failed."""
        if self.failure is not None:
            raise self.failure

    def fail(self, error: S3backfsError) -> None:
        """Remember what went wrong for good: adding raises it until a barrier succeeds."""
        if self.failure is None:
            log.error("storing failed: %s", error)
        self.failure = error

    def note_change(self) -> None:
        """Let everybody who waits look again."""
        self._changed.set()
        self._changed = trio.Event()
        self.budget.wake()

    async def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait for changes until something holds."""
        while not holds():
            await self._changed.wait()

    async def in_thread(self, work: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Run what keeps a processor busy."""
        return await trio.to_thread.run_sync(work, *arguments, limiter=self._cpu)
