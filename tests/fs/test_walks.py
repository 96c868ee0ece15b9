"""Single walks through the file system that lists of operations seldom come upon."""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import trio

from s3backfs.errors import StoreError
from s3backfs.fs.attributes import Changes
from s3backfs.repository.opening import CreateOptions, create_repository
from s3backfs.store.around import Request, WrappedStore
from s3backfs.store.memory import MemoryStore
from tests.fs.kernel import Kernel, PathParts, mounted
from tests.fs.machine import Gate, T

FILE, DIRECTORY = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755


class Refusing:
    """A policy that refuses the writes of packs while `is_on`."""

    def __init__(self) -> None:
        self.is_on = False

    async def __call__(self, request: Request, act: Callable[[], Awaitable[T]]) -> T:
        if self.is_on and request.verb in ("put", "put_part", "complete", "begin_upload"):
            raise StoreError("refused", key=request.key)
        return await act()


class World:
    """A repository in memory; every `mount` is one more mount of it, after the one before."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.gate, self.refusing = Gate(), Refusing()
        self.store = WrappedStore(MemoryStore(), self.gate, self.refusing)
        self.mounts = AsyncExitStack()

    async def create(self, chunk_bytes: int) -> None:
        options = CreateOptions(is_encrypted=False, chunk_bytes=chunk_bytes, pack_bytes=1 << 20)
        self.opened = await create_repository(self.store, options, None)

    async def mount(self) -> Kernel:
        await self.mounts.aclose()
        return await self.mounts.enter_async_context(mounted(self.store, self.opened, self.home))


Walk = Callable[[World, Kernel], Awaitable[None]]


def in_world(chunk_bytes: int = 65_536) -> Callable[[Walk], Callable[[Path], None]]:
    """Make a test of a walk through a fresh repository with one backup, `one`."""

    def decorate(walk: Walk) -> Callable[[Path], None]:
        async def run(home: Path) -> None:
            world = World(home)
            await world.create(chunk_bytes)
            async with world.mounts:
                kernel = await world.mount()
                await kernel.make((b"one",), DIRECTORY)
                await walk(world, kernel)

        def test(tmp_path: Path) -> None:
            trio.run(run, tmp_path)

        test.__doc__ = walk.__doc__
        return test

    return decorate


async def put(kernel: Kernel, path: PathParts, data: bytes, offset: int = 0) -> None:
    """Write a file, which is made if it is not there."""
    names = await kernel.names(path[:-1])
    node = await (kernel.node(path) if path[-1] in names else kernel.make(path, FILE))
    handle = await kernel.open(node, os.O_WRONLY)
    await kernel.write(handle, offset, data)
    await kernel.release(handle)


async def content(kernel: Kernel, path: PathParts) -> bytes:
    return (await kernel.seen(await kernel.node(path))).content


@in_world()
async def test_directory_moved_out_while_its_parent_moves(world: World, kernel: Kernel) -> None:
    """A directory that leaves a renamed one during the checkpoint keeps what is in it."""
    for path in [(b"old",), (b"old", b"x"), (b"old", b"x", b"y")]:
        await kernel.make((b"one", *path), DIRECTORY)
    await put(kernel, (b"one", b"old", b"x", b"y", b"file"), b"here")
    backup = kernel.backup(b"one")
    await backup.checkpoint()
    kernel.forget()
    await kernel.rename((b"one", b"old"), (b"one", b"new"))
    kernel.forget()
    world.gate.close("open/")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(backup.checkpoint)
        await world.gate.reached.wait()
        await kernel.rename((b"one", b"new", b"x"), (b"one", b"out"))
        world.gate.open()
    assert await content(kernel, (b"one", b"out", b"y", b"file")) == b"here"
    await backup.checkpoint()
    kernel = await world.mount()
    assert await content(kernel, (b"one", b"out", b"y", b"file")) == b"here"
    assert await kernel.names((b"one", b"new")) == []


@in_world()
async def test_directory_taken_back_during_a_checkpoint(world: World, kernel: Kernel) -> None:
    """What a checkpoint stores at a new place is still whole when the directory moves back."""
    await kernel.make((b"one", b"a"), DIRECTORY)
    await kernel.make((b"one", b"a", b"b"), DIRECTORY)
    await put(kernel, (b"one", b"a", b"b", b"file"), b"here")
    backup = kernel.backup(b"one")
    await backup.checkpoint()
    await kernel.rename((b"one", b"a"), (b"one", b"c"))
    kernel.forget()
    world.gate.close("open/")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(backup.checkpoint)
        await world.gate.reached.wait()
        await kernel.rename((b"one", b"c"), (b"one", b"a"))
        await kernel.make((b"one", b"c"), DIRECTORY)
        await kernel.rename((b"one", b"a", b"b"), (b"one", b"c", b"b"))
        world.gate.open()
    assert await content(kernel, (b"one", b"c", b"b", b"file")) == b"here"
    await backup.checkpoint()
    kernel = await world.mount()
    assert await content(kernel, (b"one", b"c", b"b", b"file")) == b"here"
    assert await kernel.names((b"one", b"a")) == []


async def many_extents(kernel: Kernel, path: PathParts, count: int) -> bytes:
    """Write a file whose extents have a tree of their own, and return its content."""
    stride, whole = 20_000, bytearray(20_000 * count)
    handle = await kernel.open(await kernel.make(path, FILE), os.O_WRONLY)
    for number in range(count):
        piece = b"%07d" % number
        whole[number * stride : number * stride + len(piece)] = piece
        await kernel.write(handle, number * stride, piece)
    await kernel.write(handle, len(whole) - 1, b"\0")
    await kernel.release(handle)
    return bytes(whole)


@in_world()
async def test_cut_file_with_an_extent_tree_grows_with_zeros(world: World, kernel: Kernel) -> None:
    """What a truncation took away does not come back when the file grows later."""
    path = (b"one", b"file")
    whole = await many_extents(kernel, path, 300)
    backup = kernel.backup(b"one")
    await backup.checkpoint()
    kernel.forget()
    await kernel.set(path, Changes(size=2_000_000))
    await backup.checkpoint()
    kernel.forget()
    await kernel.set(path, Changes(size=len(whole)))
    expected = whole[:2_000_000] + bytes(len(whole) - 2_000_000)
    assert await content(kernel, path) == expected
    await backup.checkpoint()
    assert await content(await world.mount(), path) == expected


@in_world(chunk_bytes=4096)
async def test_file_with_an_extent_tree_in_one_place(world: World, kernel: Kernel) -> None:
    """Chunks that were joined are found again in a repository of small chunks."""
    path = (b"one", b"file")
    whole = bytearray(await many_extents(kernel, path, 300))
    whole[1 << 20 : (1 << 20) + 200_000] = b"\x07" * 200_000
    await put(kernel, path, b"\x07" * 200_000, 1 << 20)
    await kernel.backup(b"one").checkpoint()
    kernel = await world.mount()
    handle = await kernel.open(await kernel.node(path), os.O_RDONLY)
    found = await kernel.read(handle, (1 << 20) + 180_000, 1000)
    assert found == whole[(1 << 20) + 180_000 :][:1000]
    await kernel.release(handle)
    assert await content(kernel, path) == bytes(whole)


@in_world()
async def test_late_names_of_a_linked_group_join(world: World, kernel: Kernel) -> None:
    """Names of one inode that are linked long after one another are names of one inode again."""
    await kernel.make((b"two",), DIRECTORY)
    await put(kernel, (b"one", b"a"), b"x" * 1000)
    for name in (b"b", b"c"):
        await kernel.link((b"one", b"a"), (b"one", name))
    await kernel.catalogue.seal(kernel.backup(b"one"))
    kernel.forget()
    for name in (b"a", b"b", b"c"):
        await kernel.link((b"one", name), (b"two", name))
        kernel.forget()
        await kernel.backup(b"two").checkpoint()
        await kernel.walk((b"two",))
        kernel.forget()
    seen = await kernel.walk((b"two",))
    assert {seen[b"two", name].nlink for name in (b"a", b"b", b"c")} == {3}
    assert len({seen[b"two", name].number for name in (b"a", b"b", b"c")}) == 1


@in_world()
async def test_group_is_not_joined_once_it_differs(world: World, kernel: Kernel) -> None:
    """A link from another backup shows what its source shows, whatever became of older links."""
    await kernel.make((b"two",), DIRECTORY)
    await put(kernel, (b"one", b"a"), b"source")
    await kernel.link((b"one", b"a"), (b"one", b"b"))
    await kernel.link((b"one", b"a"), (b"two", b"a"))
    await put(kernel, (b"two", b"a"), b"change")
    await kernel.link((b"one", b"b"), (b"two", b"b"))
    assert await content(kernel, (b"two", b"b")) == b"source"
    assert await content(kernel, (b"two", b"a")) == b"change"


@in_world()
async def test_cut_clone_has_a_new_time(world: World, kernel: Kernel) -> None:
    """Truncating what was linked from another backup sets its mtime."""
    await kernel.make((b"two",), DIRECTORY)
    await put(kernel, (b"one", b"a"), b"x" * 1000)
    await kernel.set((b"one", b"a"), Changes(mtime_ns=12_345))
    await kernel.link((b"one", b"a"), (b"two", b"a"))
    await kernel.set((b"two", b"a"), Changes(size=10))
    assert (await kernel.seen(await kernel.node((b"two", b"a")))).mtime_ns > 12_345


@in_world()
async def test_checkpoint_ends_while_somebody_writes_on(world: World, kernel: Kernel) -> None:
    """A checkpoint does not wait for a writer that never rests."""
    handle = await kernel.open(await kernel.make((b"one", b"log"), FILE), os.O_WRONLY)
    with trio.CancelScope() as writing, trio.fail_after(60):
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                while True:
                    await kernel.write(handle, None, os.urandom(1000))
                    await trio.lowlevel.checkpoint()

            nursery.start_soon(write)
            await kernel.backup(b"one").checkpoint()
            writing.cancel()
    assert writing.cancelled_caught
    await kernel.release(handle)


@in_world()
async def test_taken_bytes_outlive_refused_packs(world: World, kernel: Kernel) -> None:
    """Bytes that the file system took can be read, and are stored once S3 takes packs again."""
    backup = kernel.backup(b"one")
    data, step = os.urandom(12 << 20), 1 << 18
    handle = await kernel.open(await kernel.make((b"one", b"file"), FILE), os.O_RDWR)
    taken = []
    for start in range(0, len(data), step):
        world.refusing.is_on = start >= 3 << 20
        if start == 5 << 20:
            with pytest.raises(StoreError):
                await backup.checkpoint()
        with suppress(StoreError):
            await kernel.write(handle, start, data[start : start + step])
            taken.append(start)
    assert (12 << 20) - step not in taken
    assert taken[-1] > 5 << 20
    for start in taken:
        assert await kernel.read(handle, start, step) == data[start : start + step]
    world.refusing.is_on = False
    await backup.checkpoint()
    await kernel.release(handle)
    await backup.checkpoint()
    found = await content(await world.mount(), (b"one", b"file"))
    for start in taken:
        assert found[start : start + step] == data[start : start + step]


@in_world()
async def test_numbers_outlive_renames(world: World, kernel: Kernel) -> None:
    """An inode number stays through renames of what is above it, checkpoints and remounts."""
    for path in [(b"a",), (b"a", b"b")]:
        await kernel.make((b"one", *path), DIRECTORY)
    await put(kernel, (b"one", b"a", b"b", b"file"), b"here")
    await kernel.link((b"one", b"a", b"b", b"file"), (b"one", b"a", b"linked"))
    backup = kernel.backup(b"one")
    before = await kernel.walk((b"one", b"a"))
    for new, old in [(b"x", b"a"), (b"y", b"x")]:
        await backup.checkpoint()
        kernel.forget()
        await kernel.rename((b"one", old), (b"one", new))
    await backup.checkpoint()
    kernel = await world.mount()
    after = await kernel.walk((b"one", b"y"))
    numbers = {path[2:]: seen.number for path, seen in before.items()}
    assert {path[2:]: seen.number for path, seen in after.items()} == numbers


@in_world()
async def test_checkpoints_go_on_after_one_that_failed(world: World, kernel: Kernel) -> None:
    """Large attributes that a failed checkpoint began to store do not keep the next from it."""
    backup = kernel.backup(b"one")
    await kernel.set_xattr((b"one",), b"user.long", os.urandom(4000))
    world.refusing.is_on = True
    for _ in range(2):
        with pytest.raises(StoreError):
            await backup.checkpoint()
    world.refusing.is_on = False
    await backup.checkpoint()
    assert (await kernel.seen(await kernel.node((b"one",)))).xattrs[0][0] == b"user.long"


@in_world()
async def test_what_went_during_a_failed_checkpoint_leaves_memory(
    world: World, kernel: Kernel
) -> None:
    """Nothing holds an inode that was captured, removed, and then not stored."""
    await put(kernel, (b"one", b"file"), b"here")
    kernel.forget()
    async with trio.open_nursery() as nursery:

        async def checkpoint() -> None:
            with pytest.raises(StoreError):
                await kernel.backup(b"one").checkpoint()

        await put(kernel, (b"one", b"other"), os.urandom(70_000))
        world.gate.close("data/")
        nursery.start_soon(checkpoint)
        await world.gate.reached.wait()
        await kernel.unlink((b"one", b"file"))
        kernel.forget()
        world.gate.break_down()
    world.gate.open()
    kernel.forget()
    assert {node.name for node in kernel.live.by_number.values()} == {b"", b"other"}
