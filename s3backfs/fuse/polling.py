"""A request loop that looks before it sleeps, and in which one task at a time waits.

Half of the cost of a small request is going to sleep in the event loop and waking up again. While
requests come, the descriptor is polled for some microseconds first. Of pyfuse3's tasks one at most
looks at the descriptor or sleeps on it; the others are parked, and one of them takes over when a
handler has to wait for something.

pyfuse3 looks its waiting function up in its module at each call, so it can be replaced; where it
is not there, the stock loop stays.
"""

from __future__ import annotations

import ctypes
import logging
import os
import time
from pathlib import Path

import pyfuse3
import trio

log = logging.getLogger(__name__)

SPIN_NS = 60_000
"""How long to look before going to sleep."""

BUSY_NS = 1_000_000
"""Requests are coming while the last one is no older than this."""

REQUESTS_BETWEEN_YIELDS = 64
"""Every so many requests the event loop gets its turn."""

_POLLIN = 1


class _PollFd(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


def fuse_descriptor() -> int | None:
    """The descriptor of this process's FUSE session, if there is just one."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            if os.readlink(link) == "/dev/fuse":
                found.append(int(link.name))
        except OSError:
            continue
    return found[0] if len(found) == 1 else None


def poll_before_sleeping() -> bool:
    """Replace pyfuse3's waiting function, from within the event loop; False where it cannot be."""
    descriptor = fuse_descriptor()
    if not hasattr(pyfuse3, "_wait_fuse_readable") or descriptor is None:
        log.info("this pyfuse3 has another request loop; requests are not polled for")
        return False
    turns = _Turns(descriptor)
    trio.lowlevel.add_instrument(turns)
    pyfuse3._wait_fuse_readable = turns.wait
    return True


class _Turns(trio.abc.Instrument):
    """Whose turn it is to wait for the next request.

    `_receiver` is the task that got the last request, until it asks for another one. If its step
    ends before that, its handler waits for something, and a parked task has to go on.
    """

    def __init__(self, descriptor: int) -> None:
        self._fds = _PollFd(descriptor, _POLLIN, 0)
        # PyDLL keeps the interpreter's lock: letting go of it costs more than the call.
        self._poll = ctypes.PyDLL(None).poll
        self._reference = ctypes.byref(self._fds)
        self._in_a_row = 0
        self._last_ns = 0
        self._receiver: trio.lowlevel.Task | None = None
        self._parked: list[trio.lowlevel.Task] = []
        self._is_asleep = False
        self._is_over = False

    async def wait(self) -> bool:
        """Return True when a request can be received without blocking, False at the end."""
        if not self._look():
            self._receiver, self._in_a_row = None, 0
            if not await self._wait_for_turn():
                return False
        self._receiver = trio.lowlevel.current_task()
        return True

    def _look(self) -> bool:
        if self._in_a_row >= REQUESTS_BETWEEN_YIELDS:
            return False
        now_ns = time.monotonic_ns()
        if now_ns - self._last_ns > BUSY_NS:
            return False
        end_ns = now_ns + SPIN_NS
        while now_ns < end_ns:
            if self._is_readable():
                self._in_a_row += 1
                self._last_ns = now_ns
                return True
            now_ns = time.monotonic_ns()
        return False

    def _is_readable(self) -> bool:
        if not self._poll(self._reference, 1, 0):
            return False
        if self._fds.revents != _POLLIN:
            # Unmounted: whoever receives next learns it, and those who are parked have to go too.
            self._end()
        return True

    async def _wait_for_turn(self) -> bool:
        while not self._is_over:
            if self._is_asleep:
                await self._park()
            elif await self._sleep():
                return True
        return False

    async def _sleep(self) -> bool:
        self._is_asleep = True
        try:
            await trio.lowlevel.wait_readable(self._fds.fd)
        except trio.ClosedResourceError:
            self._end()
            return False
        finally:
            self._is_asleep = False
        self._last_ns = time.monotonic_ns()
        # A task that came by may have taken the request: to receive would block then.
        return self._is_readable()

    async def _park(self) -> None:
        task = trio.lowlevel.current_task()
        self._parked.append(task)

        def leave(_: object) -> trio.lowlevel.Abort:
            self._parked.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)

    def _end(self) -> None:
        self._is_over = True
        parked, self._parked = self._parked, []
        for task in parked:
            trio.lowlevel.reschedule(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """See a handler wait, and let another task take the requests meanwhile."""
        if task is self._receiver:
            self._receiver = None
            if self._parked and not self._is_asleep:
                # The one that was parked last: the memory of the others stays untouched.
                trio.lowlevel.reschedule(self._parked.pop())
