"""A request loop that looks before it sleeps, and in which one task at a time waits.

Half of the cost of a small request is going to sleep in the event loop and waking up again. While
requests come, the descriptor is polled for some microseconds first. Of all tasks one at a time
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

BUFFERS_KEPT = 8
"""So many tasks that have a buffer of about 1 MiB may be parked; more of them end."""

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

    The holder of the turn looks, sleeps, and handles what it has received. If it has to wait for
    something in its handler, a parked task becomes the holder. A task that has received anything
    holds a buffer for the longest request, so a few of them are used again and again: pyfuse3
    starts many more than are needed, and those stay parked.
    """

    def __init__(self, descriptor: int) -> None:
        self._fds = _PollFd(descriptor, _POLLIN, 0)
        # PyDLL keeps the interpreter's lock: letting go of it costs more than the call.
        self._poll = ctypes.PyDLL(None).poll
        self._reference = ctypes.byref(self._fds)
        self._in_a_row = 0
        self._last_ns = 0
        self._holder: trio.lowlevel.Task | None = None
        self._is_asleep = False
        self._is_over = False
        self._with_buffers: set[trio.lowlevel.Task] = set()
        self._parked: dict[bool, list[trio.lowlevel.Task]] = {False: [], True: []}

    async def wait(self) -> bool:
        """Return True when a request can be received without blocking.

        False tells the task to end: nothing comes any more, or enough others are parked.
        """
        task = trio.lowlevel.current_task()
        if self._holder is not task:
            if self._holder is not None and not await self._park(task):
                self._with_buffers.discard(task)
                return False
            self._holder = task
            self._with_buffers.add(task)
        return self._look() or await self._sleep()

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
            # Unmounted: the holder learns it when it receives, and those who are parked here.
            self._end()
        return True

    async def _sleep(self) -> bool:
        self._in_a_row = 0
        self._is_asleep = True
        try:
            while not self._is_over:
                await trio.lowlevel.wait_readable(self._fds.fd)
                if self._is_readable():
                    self._last_ns = time.monotonic_ns()
                    return True
        except trio.ClosedResourceError:
            self._end()
        finally:
            self._is_asleep = False
        return False

    async def _park(self, task: trio.lowlevel.Task) -> bool:
        """Wait for the turn; False where it will not come."""
        has_buffer = task in self._with_buffers
        parked = self._parked[has_buffer]
        if self._is_over or (has_buffer and len(parked) >= BUFFERS_KEPT):
            return False
        parked.append(task)

        def leave(_: object) -> trio.lowlevel.Abort:
            parked.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)
        return not self._is_over

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Pass the turn on where its holder waits for something else than a request."""
        if task is not self._holder or self._is_asleep:
            return
        self._holder = None
        parked = self._parked[True] or self._parked[False]
        if parked:
            self._holder = parked.pop()
            self._with_buffers.add(self._holder)
            trio.lowlevel.reschedule(self._holder)

    def _end(self) -> None:
        self._is_over = True
        for parked in self._parked.values():
            while parked:
                trio.lowlevel.reschedule(parked.pop())
