"""Keep the C allocator from holding on to what large buffers leave behind.

glibc raises the size from which it maps buffers on their own whenever one of them is freed, and
takes later ones from its heaps, which then fragment: a stream of chunks in several threads made
the process twice as large as all its buffers together.
"""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_MMAP_FROM_BYTES = 256 * 1024
_ARENAS = 2


def bound_allocator() -> None:
    """Fix the threshold and the number of heaps; nothing happens where there is no mallopt."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_FROM_BYTES)
        mallopt(_M_ARENA_MAX, _ARENAS)
