"""Whose turn it is to wait for requests: on a pipe, by tasks that loop as pyfuse3's do."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import pytest
import trio

from s3backfs.fuse.polling import BUFFERS_KEPT, _Turns

pytestmark = pytest.mark.anyio

TASKS_MAX_COUNT = 60
Handler = Callable[[bytes], Awaitable[None]]


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@dataclass
class Session:
    """A loop that starts a task with each request, until there are many; a request is a byte."""

    descriptor: int
    handler: Handler
    turns: _Turns = field(init=False)
    served: list[tuple[bytes, trio.lowlevel.Task]] = field(default_factory=list)
    tasks_count: int = 0

    def __post_init__(self) -> None:
        self.turns = _Turns(self.descriptor)
        trio.lowlevel.add_instrument(self.turns)

    async def run(self) -> None:
        """Serve until the other end of the pipe is closed."""
        async with trio.open_nursery() as nursery:
            self.start(nursery)

    def start(self, nursery: trio.Nursery) -> None:
        self.tasks_count += 1
        nursery.start_soon(self.serve, nursery)

    async def serve(self, nursery: trio.Nursery) -> None:
        while await self.turns.wait():
            request = os.read(self.descriptor, 1)
            if self.tasks_count < TASKS_MAX_COUNT:
                self.start(nursery)
            if not request:
                break
            self.served.append((request, trio.lowlevel.current_task()))
            await self.handler(request)
        self.tasks_count -= 1

    def servers(self) -> set[trio.lowlevel.Task]:
        """The tasks that received anything."""
        return {task for _, task in self.served}


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


async def until(holds: Callable[[], bool]) -> None:
    """Let others run until something holds."""
    with trio.fail_after(10):
        while not holds():
            await trio.sleep(0.001)


async def at_once(_: bytes) -> None:
    """A handler that waits for nothing."""


async def test_one_task_serves_who_waits_for_nothing(pipe: tuple[int, int]) -> None:
    """However many tasks there are, the requests of handlers that do not wait are one task's."""
    session = Session(pipe[0], at_once)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        for count in range(1, 200):
            os.write(pipe[1], b"x" * 10)
            await until(lambda count=count: len(session.served) == 10 * count)
        assert session.tasks_count == TASKS_MAX_COUNT
        os.close(pipe[1])
    assert len(session.servers()) == 1


async def test_others_go_on_while_handlers_wait(pipe: tuple[int, int]) -> None:
    """As many handlers may wait as there are tasks but one; then few of their tasks are kept."""
    released = trio.Event()

    async def handler(request: bytes) -> None:
        if request == b"w":
            await released.wait()

    session = Session(pipe[0], handler)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        # So many that every task has been started, and is parked.
        os.write(pipe[1], b"x" * 2 * TASKS_MAX_COUNT)
        await until(lambda: len(session.served) == 2 * TASKS_MAX_COUNT)
        os.write(pipe[1], b"w" * (TASKS_MAX_COUNT - 1))
        os.write(pipe[1], b"x" * 100)
        await until(lambda: len(session.served) == 3 * TASKS_MAX_COUNT + 99)
        assert len(session.servers()) == TASKS_MAX_COUNT
        released.set()
        waiting = session.servers()
        await until(lambda: sum(task in waiting for task in session.turns._parked[True]) > 0)
        session.served.clear()
        os.write(pipe[1], b"x" * 1000)
        await until(lambda: len(session.served) == 1000)
        assert len(session.turns._with_buffers) <= BUFFERS_KEPT + 1
        os.close(pipe[1])


async def test_all_end_with_the_session(pipe: tuple[int, int]) -> None:
    """When nothing can come any more every task ends, those in handlers when these are done."""
    released = trio.Event()
    session = Session(pipe[0], lambda _: released.wait())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        os.write(pipe[1], b"www")
        await until(lambda: len(session.served) == 3)
        os.close(pipe[1])
        await until(lambda: session.turns._is_over)
        released.set()
    assert session.tasks_count == 0


async def test_a_cancelled_session_ends(pipe: tuple[int, int]) -> None:
    """Tasks that sleep and tasks that are parked can be cancelled."""
    session = Session(pipe[0], at_once)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        os.write(pipe[1], b"x" * 100)
        await until(lambda: len(session.served) == 100)
        nursery.cancel_scope.cancel()
    assert session.turns._parked == {False: [], True: []}
