"""Inode numbers: one for each inode of a backup, the same ever after."""

from __future__ import annotations

import stat

from s3backfs.backup import wandering
from s3backfs.backup.wandering import Wandering
from s3backfs.fs.namespace import RENAME_EXCHANGE
from tests.fs.kernel import Kernel, PathParts
from tests.fs.test_walks import World, in_world

FILE, DIRECTORY = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755


class Paths:
    """The files of one backup by the number that each got when it was made."""

    def __init__(self, world: World, kernel: Kernel) -> None:
        self.world, self.kernel = world, kernel
        self.numbers: dict[PathParts, int] = {}

    async def make(self, *path: bytes, mode: int = FILE) -> None:
        """Make a file while memory holds nothing but what the tree does not."""
        await self.forget()
        await self.kernel.make((b"one", *path), mode)
        self.numbers[path] = (await self.kernel.node((b"one", *path))).number

    async def rename(self, old: PathParts, new: PathParts) -> None:
        await self.kernel.rename((b"one", *old), (b"one", *new))
        for path in [path for path in self.numbers if path[: len(old)] == old]:
            self.numbers[(*new, *path[len(old) :])] = self.numbers.pop(path)

    async def unlink(self, *path: bytes) -> None:
        await self.kernel.unlink((b"one", *path))
        self.numbers.pop(path, None)

    async def forget(self) -> None:
        await self.kernel.backup(b"one").checkpoint()
        self.kernel.forget()

    async def remount(self) -> None:
        """Check that every inode has the number it had, which is no other's."""
        await self.forget()
        self.kernel = await self.world.mount()
        found = await self.kernel.walk((b"one",))
        assert {path: found[b"one", *path].number for path in self.numbers} == self.numbers
        assert len(set(self.numbers.values())) == len(self.numbers)
        self.kernel.forget()

    @property
    def remembered(self) -> bytes | None:
        return self.kernel.backup(b"one").root.wandering


@in_world()
async def test_a_new_file_at_the_old_path_of_another(world: World, kernel: Kernel) -> None:
    """A file made where another was made that has moved away gets a number of its own."""
    paths = Paths(world, kernel)
    for name in (b"a", b"c", b"b"):
        await paths.make(b"birthplace")
        await paths.rename((b"birthplace",), (name,))
        await paths.remount()


@in_world()
async def test_new_files_in_a_new_directory_at_an_old_path(world: World, kernel: Kernel) -> None:
    """A tree made where another stood that has moved away shares no number with it."""
    paths = Paths(world, kernel)
    for name in (b"daily.2", b"daily.1", b"daily"):
        await paths.make(b"daily.0", mode=DIRECTORY)
        await paths.make(b"daily.0", b"dir", mode=DIRECTORY)
        await paths.make(b"daily.0", b"dir", b"file")
        await paths.forget()
        await paths.rename((b"daily.0",), (name,))
        await paths.remount()


@in_world()
async def test_what_was_exchanged_keeps_its_numbers_to_itself(world: World, kernel: Kernel) -> None:
    """Files that were exchanged and removed leave numbers that no new file shares."""
    paths = Paths(world, kernel)
    for name in (b"a", b"b"):
        await paths.make(name)
    await kernel.rename((b"one", b"a"), (b"one", b"b"), RENAME_EXCHANGE)
    numbers = paths.numbers
    numbers[b"a",], numbers[b"b",] = numbers[b"b",], numbers[b"a",]
    await paths.remount()
    await paths.unlink(b"a")
    await paths.make(b"a")
    await paths.remount()


@in_world()
async def test_a_link_group_keeps_its_number_to_itself(world: World, kernel: Kernel) -> None:
    """A file made where the first name of a link group was removed is no link of it."""
    paths = Paths(world, kernel)
    await paths.make(b"first")
    await kernel.link((b"one", b"first"), (b"one", b"second"))
    paths.numbers[b"second",] = paths.numbers[b"first",]
    await paths.unlink(b"first")
    await paths.make(b"first")
    await paths.remount()


@in_world()
async def test_temporary_files_of_one_name(world: World, kernel: Kernel) -> None:
    """Temporary files as rsync makes them share no number with each other or with their aim."""
    paths = Paths(world, kernel)
    for name in (b".aim.aaaaaa", b".aim.bbbbbb", b"aim", b".aim.cccccc"):
        await paths.make(name)
        await paths.remount()
    await paths.unlink(b"aim")
    await paths.rename((b".aim.aaaaaa",), (b"aim",))
    await paths.make(b".aim.dddddd")
    await paths.remount()


@in_world()
async def test_what_came_home_is_no_longer_remembered(world: World, kernel: Kernel) -> None:
    """Temporary files that got their name, and moved ones that went, leave nothing in the root."""
    paths = Paths(world, kernel)
    for name in (b"x", b"y"):
        await paths.make(b"." + name + b".aaaaaa")
        await paths.forget()
        assert paths.remembered
        await paths.rename((b"." + name + b".aaaaaa",), (name,))
    await paths.make(b".z.aaaaaa")
    await paths.unlink(b".z.aaaaaa")
    await paths.rename((b"x",), (b"elsewhere",))
    await paths.unlink(b"elsewhere")
    await paths.remount()
    assert paths.remembered == b""


def test_what_is_remembered_is_bounded() -> None:
    """Beyond a bound every path may be taken, and the root says so."""
    kept = Wandering(b"")
    assert not kept.may_have([5])
    for number in range(wandering.KEPT_COUNT):
        kept.add(number)
    stored = kept.stored()
    assert stored is not None
    assert Wandering(stored).may_have([5])
    assert not kept.may_have([wandering.KEPT_COUNT])
    kept.add(wandering.KEPT_COUNT)
    kept.discard(5)
    assert kept.stored() is None
    assert Wandering(None).may_have([2**40])


@in_world()
async def test_numbers_of_many_that_moved(world: World, kernel: Kernel) -> None:
    """Numbers stay apart when more has moved away than is remembered."""
    kernel.backup(b"one").wandering = Wandering(None)
    paths = Paths(world, kernel)
    await paths.make(b"birthplace")
    await paths.rename((b"birthplace",), (b"moved",))
    await paths.remount()
    assert paths.remembered is None
    for name in (b"birthplace", b".aim.aaaaaa", b"aim"):
        await paths.make(name)
    await paths.remount()
