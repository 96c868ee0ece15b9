"""Tell the C allocator, and the collector of cycles, what this process is like.

What is mapped on its own is new memory each time, page by page: where every chunk was, faults took
two fifths of the time of a large file's way in. What comes from the heaps is used again, but they
fragment: glibc's own rule lets everything below 32 MiB in, and makes a heap for each thread.
"""

from __future__ import annotations

import ctypes
import gc

_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_M_TRIM_THRESHOLD = -1
_MMAP_FROM_BYTES = 4400 * 1024
"""Above the longest chunk, and what zstd and a cipher make of it; buffers of files and packs are
longer."""
_KEPT_BYTES = 32 * 1024 * 1024
"""So much free memory stays at the end of a heap, else each chunk would take it back and forth."""
_ARENAS = 1
_OBJECTS_BETWEEN_LOOKS = 10_000


def bound_allocator() -> None:
    """Fix the thresholds and the number of heaps; nothing happens where there is no mallopt."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_FROM_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_ARENA_MAX, _ARENAS)


def calm_collector() -> None:
    """Look for cycles seldom, and not among what was there at the start.

    Names of a backup in memory are many objects that live long, and hardly anything is a cycle:
    looking for some after every 700 objects takes 4 % of the time of copying small files.
    """
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_LOOKS, 20, 20)
