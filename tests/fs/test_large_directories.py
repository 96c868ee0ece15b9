"""Names in a directory cost the same whatever else is in it."""

from __future__ import annotations

import stat
import tracemalloc
from contextlib import suppress

from s3backfs.errors import FileSystemError
from tests.fs.kernel import Kernel
from tests.fs.test_walks import World, in_world

FILE, DIRECTORY = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755
CHANGED_COUNT = 3000
LOOKUP_BYTES = 64 * 1024
"""Room for the leaf's entries; a copy of CHANGED_COUNT names takes 130 KB and more."""


async def bytes_of_a_miss(kernel: Kernel) -> int:
    """How much memory it takes at most to learn that a name is free, as every creation does."""
    for _ in range(2):
        tracemalloc.start()
        try:
            with suppress(FileSystemError):
                await kernel.node((b"one", b"large", b"missing"))
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    return peak_bytes


@in_world()
async def test_a_free_name_is_found_without_a_look_at_all_changes(
    world: World, kernel: Kernel
) -> None:
    """Where thousands of names have changed since a checkpoint, a lookup copies none of them."""
    await kernel.make((b"one", b"large"), DIRECTORY)
    await kernel.make((b"one", b"large", b"stored"), FILE)
    await kernel.backup(b"one").checkpoint()
    for number in range(CHANGED_COUNT):
        await kernel.make((b"one", b"large", b"%d" % number), FILE)
    directory = (await kernel.node((b"one", b"large"))).directory
    assert directory is not None
    assert directory.base is not None
    assert len(directory.changed) == CHANGED_COUNT
    assert await bytes_of_a_miss(kernel) < LOOKUP_BYTES
