"""The way in: from here on Ctrl-C is one line, also while the rest is still being imported."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

INTERRUPTED_EXIT_CODE = 130


def main() -> None:
    """Enter from the command line."""
    is_heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_heeded:
        signal.signal(signal.SIGINT, _end)
    from s3backfs.cli.main import run
    from s3backfs.privacy import hide_memory

    hide_memory()
    if is_heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(run(sys.argv[1:]))


def _end(_number: int, _frame: FrameType | None) -> None:
    """End at once: nothing has begun, and an exception in an import would be a traceback."""
    # The terminal has written ^C.
    os.write(2, b"\n" * os.isatty(2) + b"s3backfs: interrupted\n")
    os._exit(INTERRUPTED_EXIT_CODE)
