"""Keep the secrets of this process from others of the same user, and out of core dumps.

Root reads the memory of any process all the same.
"""

from __future__ import annotations

import ctypes
import resource
from contextlib import suppress

_PR_SET_DUMPABLE = 4


def hide_memory() -> None:
    """Let nobody but root look at this process: no core dump, no ptrace, no /proc/PID/environ.

    Programs that it starts are not hidden.
    """
    # Only where the kernel has another way of dumping than by the flag below.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def wipe_variable(name: str) -> None:
    """Overwrite a variable's value where the kernel put it, which /proc/PID/environ shows.

    Python's own copy in `os.environ` stays as it is.
    """
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    place = libc.getenv(name.encode())
    if place:
        ctypes.memset(place, 0, len(ctypes.string_at(place)))
