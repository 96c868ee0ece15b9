"""A request loop that looks before it sleeps.

Half of the cost of a small request is going to sleep in the event loop and waking up again. While
requests come, the descriptor is polled for a few microseconds first. pyfuse3 looks its waiting
function up in its module at each call, so it can be replaced; where it is not there, the stock
loop stays.
"""

from __future__ import annotations

import ctypes
import logging
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pyfuse3

log = logging.getLogger(__name__)

SPIN_NS = 30_000
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
    """Replace pyfuse3's waiting function; False where that is not possible."""
    original = getattr(pyfuse3, "_wait_fuse_readable", None)
    descriptor = fuse_descriptor()
    if original is None or descriptor is None:
        log.info("this pyfuse3 has another request loop; requests are not polled for")
        return False
    pyfuse3._wait_fuse_readable = _Waiter(original, descriptor).wait  # type: ignore[attr-defined]
    return True


class _Waiter:
    """Waits for the next request: looks, and then sleeps."""

    def __init__(self, original: Callable[[], Awaitable[bool]], descriptor: int) -> None:
        self._sleep = original
        self._fds = _PollFd(descriptor, _POLLIN, 0)
        # PyDLL keeps the interpreter's lock: letting go of it costs more than the call.
        self._poll = ctypes.PyDLL(None).poll
        self._reference = ctypes.byref(self._fds)
        self._in_a_row = 0
        self._last_ns = 0

    async def wait(self) -> bool:
        """Return True when a request can be received without blocking, False at the end."""
        if self._look():
            return True
        self._in_a_row = 0
        # Another task may have taken the request that woke this one: a receive would block then.
        while await self._sleep():
            if self._poll(self._reference, 1, 0):
                self._last_ns = time.monotonic_ns()
                return True
        return False

    def _look(self) -> bool:
        if self._in_a_row >= REQUESTS_BETWEEN_YIELDS:
            return False
        now_ns = time.monotonic_ns()
        if now_ns - self._last_ns > BUSY_NS:
            return False
        end_ns = now_ns + SPIN_NS
        while now_ns < end_ns:
            if self._poll(self._reference, 1, 0):
                self._in_a_row += 1
                self._last_ns = now_ns
                return True
            now_ns = time.monotonic_ns()
        return False
