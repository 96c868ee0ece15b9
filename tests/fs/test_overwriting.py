"""Small writes all over a file that is stored already."""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable

import trio
import trio.testing

from s3backfs.manifest.entry import Entry, extra_of
from s3backfs.store.around import Request, WrappedStore
from tests.fs.kernel import Kernel
from tests.fs.machine import T
from tests.fs.test_walks import World, content, in_world, put

PATH = (b"one", b"file")
WINDOW_BYTES, WINDOW_COUNT = 65_536, 48


class Flights:
    """A policy that counts how many reads are under way at once."""

    def __init__(self) -> None:
        self.now_count = self.most_count = 0

    async def __call__(self, request: Request, act: Callable[[], Awaitable[T]]) -> T:
        if request.verb != "get":
            return await act()
        self.now_count += 1
        try:
            await trio.testing.wait_all_tasks_blocked()
            self.most_count = max(self.most_count, self.now_count)
            return await act()
        finally:
            self.now_count -= 1


def extent_count(entry: Entry) -> int:
    """How many extents a stored file has, in its entry or in a tree."""
    tree = extra_of(entry).extent_tree
    return len(entry.extents) if tree is None else tree.count


@in_world()
async def test_what_crowds_lie_over_is_read_at_once(world: World, kernel: Kernel) -> None:
    """A hand-over of scattered small writes has several reads under way."""
    data = bytearray(random.Random(1).randbytes(WINDOW_BYTES * WINDOW_COUNT))
    await put(kernel, PATH, bytes(data))
    await kernel.backup(b"one").checkpoint()
    flights = Flights()
    world.store = WrappedStore(world.store, flights)
    kernel = await world.mount()
    handle = await kernel.open(await kernel.node(PATH), os.O_WRONLY)
    for number in range(0, WINDOW_COUNT * 8, 5):
        offset = number * WINDOW_BYTES // 8 + 100
        for place in range(offset, offset + 4000, 1000):
            await kernel.write(handle, place, b"new")
            data[place : place + 3] = b"new"
    await kernel.release(handle)
    await kernel.backup(b"one").checkpoint()
    assert flights.most_count > 1
    assert await content(kernel, PATH) == data


@in_world()
async def test_crowded_windows_are_read_ahead(world: World, kernel: Kernel) -> None:
    """While one crowded window is read to be written again, those behind it are read too."""
    data = bytearray(random.Random(3).randbytes(12 << 20))
    await put(kernel, PATH, bytes(data))
    await kernel.backup(b"one").checkpoint()
    flights = Flights()
    world.store = WrappedStore(world.store, flights)
    kernel = await world.mount()
    for first in (0, 1000):
        flights.most_count = 0
        handle = await kernel.open(await kernel.node(PATH), os.O_WRONLY)
        # Too few at once to be a crowd, so that they are extents of their own.
        for place in range(first, len(data), WINDOW_BYTES // 3):
            await kernel.write(handle, place, b"new")
            data[place : place + 3] = b"new"
        await kernel.release(handle)
    # A window lies in two packs at most.
    assert flights.most_count > 2
    await kernel.backup(b"one").checkpoint()
    assert await content(kernel, PATH) == data


@in_world()
async def test_many_overwrites_leave_few_extents(world: World, kernel: Kernel) -> None:
    """Extents and buffered bytes stay bounded by the file, not by the number of writes."""
    size_bytes = WINDOW_BYTES * 32
    dice = random.Random(2)
    await put(kernel, PATH, dice.randbytes(size_bytes))
    node = await kernel.node(PATH)
    handle = await kernel.open(node, os.O_WRONLY)
    for number in range(6000):
        await kernel.write(handle, dice.randrange(size_bytes - 100), dice.randbytes(100))
        if number % 1500 == 1499:
            await kernel.backup(b"one").checkpoint()
            assert node.entry is not None
            assert extent_count(node.entry) <= 2 * size_bytes // WINDOW_BYTES
            assert kernel.files.handle(handle).content.buffered_bytes == 0
    await kernel.release(handle)
