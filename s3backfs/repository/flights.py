"""Work in the background whose results several tasks may wait for: one flight for each key."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from copy import copy
from types import TracebackType
from typing import Generic, TypeVar, TypeVarTuple

import trio

from s3backfs.errors import S3backfsError, StoreError

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Background:
    """Owns the tasks that were started in it; leaving it cancels them."""

    def __init__(self) -> None:
        self._manager = trio.open_nursery()

    async def __aenter__(self) -> Background:
        self._nursery = await self._manager.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._nursery.cancel_scope.cancel()
        if isinstance(error, trio.Cancelled | BaseExceptionGroup):
            # Only the nursery knows whether the cancellation was its own.
            return bool(await self._manager.__aexit__(kind, error, traceback))
        # The body's own error goes on as it is, not wrapped into a group.
        await self._manager.__aexit__(None, None, None)
        return False

    def start(self, work: Callable[[*Ts], Awaitable[None]], *arguments: *Ts) -> None:
        """Run a task until it ends or this is left."""
        self._nursery.start_soon(work, *arguments)

    async def try_for(self, patience_s: float, work: Callable[[], Awaitable[None]]) -> bool:
        """Run a task whose errors are nobody's, and wait for it for a while; say if it has ended.

        It goes on when the wait is over.
        """
        ended = trio.Event()

        async def run() -> None:
            try:
                await work()
            except S3backfsError as error:
                log.debug("given up in the background: %s", error)
            except Exception:
                log.exception("work in the background failed")
            finally:
                ended.set()

        self.start(run)
        with trio.move_on_after(patience_s):
            await ended.wait()
        return ended.is_set()


class Promise(Generic[T]):
    """A result that is not there yet. An error reaches everyone who waits."""

    __slots__ = ("_done", "_error", "_values", "waiting_count")

    def __init__(self) -> None:
        self._done = trio.Event()
        self._values: list[T] = []
        self._error: Exception | None = None
        self.waiting_count = 0

    @property
    def is_done(self) -> bool:
        """Whether it was kept or failed."""
        return self._done.is_set()

    @property
    def has_failed(self) -> bool:
        """Whether it ended in an error."""
        return self._error is not None

    def keep(self, value: T) -> None:
        """Give the result."""
        self._values.append(value)
        self._done.set()

    def fail(self, error: Exception) -> None:
        """Give an error instead; an earlier result stands."""
        if not self.is_done:
            self._error = error
            self._done.set()

    async def wait(self) -> T:
        """Wait for the result; being cancelled does not stop the work."""
        self.waiting_count += 1
        try:
            await self._done.wait()
        finally:
            self.waiting_count -= 1
        if isinstance(self._error, S3backfsError):
            # Each waiter has an error of its own: tracebacks must not grow into each other.
            raise copy(self._error) from self._error
        if self._error is not None:
            raise self._error
        return self._values[0]


class Flights(Generic[K, T]):
    """The promises of what is under way, by key; an error is forgotten when it was delivered."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._promises: dict[K, Promise[T]] = {}

    def find(self, key: K) -> Promise[T] | None:
        """The promise of work under way."""
        promise = self._promises.get(key)
        return None if promise is None or promise.has_failed else promise

    def start(self, key: K, work: Callable[[], Awaitable[T]]) -> Promise[T]:
        """Begin work that has one result."""

        async def keep(promises: Mapping[K, Promise[T]]) -> None:
            promises[key].keep(await work())

        return self.start_many([key], keep)[key]

    def start_many(
        self, keys: Iterable[K], work: Callable[[Mapping[K, Promise[T]]], Awaitable[None]]
    ) -> dict[K, Promise[T]]:
        """Begin work that keeps many promises; those it leaves fail."""
        promises: dict[K, Promise[T]] = {key: Promise() for key in keys}
        self._promises.update(promises)
        self._background.start(self._run, promises, work)
        return promises

    async def _run(
        self,
        promises: dict[K, Promise[T]],
        work: Callable[[Mapping[K, Promise[T]]], Awaitable[None]],
    ) -> None:
        failure: Exception = StoreError("the repository is being closed")
        try:
            await work(promises)
        except Exception as error:
            # Not handled here but carried to those who wait; the task must not take others along.
            failure = error
            if not isinstance(error, S3backfsError):
                log.exception("work in the background failed")
        finally:
            for key, promise in promises.items():
                promise.fail(failure)
                if self._promises.get(key) is promise:
                    del self._promises[key]
