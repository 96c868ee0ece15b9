"""Random work on open backups, with a model of what must be found after a crash."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import trio

from tests.crash.journal import Journal
from tests.crash.machine import Machine
from tests.crash.model import Inode, Path, State, Track, Tree, digest

EMPTY = digest({})
NAMES = [b"a", b"b", b"c", b"a-b", b"d", b"e\xff", b"f" * 200, b"g"]
SIZES = [0, 1, 300, 511, 513, 5_000, 20_000, 70_000, 200_000]


class Workload:
    """Carries out random steps on one machine; `tracks` say what may be found."""

    def __init__(self, machine: Machine, journal: Journal, randomness: random.Random) -> None:
        self.tracks: list[Track] = []
        self._machine = machine
        self._journal = journal
        self._random = randomness
        self._pool = [randomness.randbytes(size) for size in SIZES]
        self._backup_count = 0

    async def adopt(self, tracks: list[Track]) -> None:
        """Go on with what an earlier machine left."""
        self.tracks = tracks
        self._backup_count = 1000 * (1 + len(tracks))

    async def run(self, step_count: int) -> None:
        """Do random steps, while checkpoints run beside them."""
        async with trio.open_nursery() as nursery:
            for _ in range(step_count):
                await self._step(nursery)

    async def _step(self, nursery: trio.Nursery) -> None:
        choice = self._random.random()
        track = self._some_open()
        if track is None or (choice < 0.02 and len(self._open()) < 3):
            await self._make_backup()
        elif choice < 0.06:
            await self._sync(track)
        elif choice < 0.12:
            nursery.start_soon(self._sync, track)
        elif choice < 0.135:
            await self._seal(track)
        elif choice < 0.16:
            await self._rename_backup(self._random.choice(self._present()))
        elif choice < 0.165:
            await self._reopen()
        elif choice < 0.17:
            await self._make_and_drop()
        elif choice < 0.2:
            for _ in range(self._random.randrange(200)):
                await trio.lowlevel.checkpoint()
        else:
            await self._change(track)
        for track in self.tracks:
            track.done = track.number

    def _present(self) -> list[Track]:
        return [track for track in self.tracks if track.last.name is not None]

    def _open(self) -> list[Track]:
        return [track for track in self._present() if not track.last.is_sealed]

    def _some_open(self) -> Track | None:
        found = self._open()
        return self._random.choice(found) if found else None

    # -- whole backups -----------------------------------------------------------------------

    def _new_name(self) -> bytes:
        self._backup_count += 1
        return b"backup %d" % self._backup_count

    async def _make_backup(self) -> Track:
        name = self._new_name()
        track = Track(b"", Tree(), [State(0)])
        track.become(self._journal.tick(), name=name, digest=EMPTY)
        self.tracks.append(track)
        await self._machine.make_backup(name)
        track.backup_id = self._machine.catalogue.backups[name].id
        track.acknowledge(self._journal.tick(), track.number)
        return track

    async def _sync(self, track: Track) -> None:
        number, name = track.done, track.last.name
        backup = self._machine.catalogue.backups.get(name or b"")
        if backup is None:
            return
        await backup.checkpoint()
        track.acknowledge(self._journal.tick(), number)

    async def _seal(self, track: Track) -> None:
        track.become(self._journal.tick(), is_sealed=True)
        backup = self._machine.catalogue.backups[track.last.name or b""]
        await self._machine.catalogue.seal(backup)
        track.acknowledge(self._journal.tick(), track.number)

    async def _reopen(self) -> None:
        sealed = [track for track in self._present() if track.last.is_sealed]
        if not sealed or len(self._open()) > 3:
            return
        track = self._random.choice(sealed)
        track.become(self._journal.tick(), is_sealed=False)
        backup = self._machine.catalogue.backups[track.last.name or b""]
        await self._machine.catalogue.reopen(backup)
        track.acknowledge(self._journal.tick(), track.number)

    async def _rename_backup(self, track: Track) -> None:
        old_name, name = track.last.name, self._new_name()
        assert old_name is not None
        track.become(self._journal.tick(), name=name)
        await self._machine.fs.root.rename(old_name, name, 0)
        track.acknowledge(self._journal.tick(), track.number)

    async def _make_and_drop(self) -> None:
        track = await self._make_backup()
        name = track.last.name
        assert name is not None
        track.become(self._journal.tick(), name=None)
        await self._machine.fs.root.remove(name)
        track.acknowledge(self._journal.tick(), track.number)

    # -- inside a backup ---------------------------------------------------------------------

    async def _change(self, track: Track) -> None:
        steps: list[Callable[[Track, Path], Awaitable[None]]] = [
            *([self._make_file] * 5),
            *([self._write] * 5),
            *([self._make_directory] * 2),
            self._make_symlink,
            *([self._truncate] * 2),
            *([self._rename] * 3),
            *([self._link] * 2),
            self._clone,
            *([self._remove] * 2),
            self._chmod,
            self._set_xattr,
        ]
        top = track.last.name
        assert top is not None
        await self._random.choice(steps)(track, (top,))

    def _tick(self, track: Track) -> None:
        track.changed(self._journal.tick())

    def _pick(self, track: Track, *, files: bool = False, directories: bool = False) -> Path | None:
        found = [
            path
            for path, inode in track.tree.walk()
            if (inode.is_file or not files) and (inode.is_directory or not directories)
        ]
        return self._random.choice(found) if found else None

    def _free_place(self, track: Track) -> Path | None:
        directory = () if self._random.random() < 0.3 else self._pick(track, directories=True)
        path = (*(directory or ()), self._random.choice(NAMES))
        taken = path[-1] in track.tree.find(path[:-1]).children
        return None if taken or len(path) > 5 else path

    def _some_bytes(self) -> bytes:
        data = self._random.choice(self._pool)
        cut = self._random.randrange(len(data) + 1)
        kind = self._random.randrange(4)
        if kind == 0:
            return data
        if kind == 1:
            return bytes(cut)
        return data[:cut] if kind == 2 else data[cut:] + self._random.randbytes(cut // 4)

    async def _make_file(self, track: Track, top: Path) -> None:
        path = self._free_place(track)
        if path is None:
            return
        track.tree.put(path, Inode(0o100644))
        self._tick(track)
        await self._machine.make(*top, *path, mode=0o100644)
        track.done = track.number
        await self._write_at(track, top, path, 0, self._some_bytes())

    async def _write(self, track: Track, top: Path) -> None:
        path = self._pick(track, files=True)
        if path is not None:
            size = len(track.tree.find(path).content)
            offset = self._random.choice([0, size, self._random.randrange(size + 1), size + 9_000])
            await self._write_at(track, top, path, offset, self._some_bytes())

    async def _write_at(
        self, track: Track, top: Path, path: Path, offset: int, data: bytes
    ) -> None:
        if not data:
            return
        inode = track.tree.find(path)
        before = inode.content.ljust(offset, b"\0")
        inode.content = before[:offset] + data + before[offset + len(data) :]
        self._tick(track)
        await self._machine.write(*top, *path, offset=offset, data=data)

    async def _truncate(self, track: Track, top: Path) -> None:
        path = self._pick(track, files=True)
        if path is None:
            return
        inode = track.tree.find(path)
        size = self._random.choice([0, len(inode.content) // 2, len(inode.content) + 5_000])
        inode.content = inode.content[:size].ljust(size, b"\0")
        self._tick(track)
        await self._machine.truncate(*top, *path, size=size)

    async def _make_directory(self, track: Track, top: Path) -> None:
        path = self._free_place(track)
        if path is not None:
            track.tree.put(path, Inode(0o40700))
            self._tick(track)
            await self._machine.make(*top, *path, mode=0o40700)

    async def _make_symlink(self, track: Track, top: Path) -> None:
        path = self._free_place(track)
        if path is not None:
            target = b"t" * self._random.choice([1, 100, 2000])
            track.tree.put(path, Inode(0o120777, target))
            self._tick(track)
            await self._machine.make(*top, *path, mode=0o120777, target=target)

    async def _rename(self, track: Track, top: Path) -> None:
        path, directory = self._pick(track), self._pick(track, directories=True) or ()
        if path is None or directory[: len(path)] == path:
            return
        new_path = (*directory, self._random.choice(NAMES))
        inode = track.tree.find(path)
        old = track.tree.find(directory).children.get(new_path[-1])
        if old is inode or (old is not None and (old.is_directory or inode.is_directory)):
            return
        track.tree.rename(path, new_path)
        self._tick(track)
        await self._machine.rename((*top, *path), (*top, *new_path))

    async def _link(self, track: Track, top: Path) -> None:
        path, new_path = self._pick(track, files=True), self._free_place(track)
        if path is not None and new_path is not None:
            track.tree.link(path, new_path)
            self._tick(track)
            await self._machine.link((*top, *path), (*top, *new_path))

    async def _clone(self, track: Track, top: Path) -> None:
        source = self._random.choice(self._present())
        path, new_path = self._pick(source, files=True), self._free_place(track)
        if source is track or path is None or new_path is None:
            return
        inode = source.tree.find(path)
        if inode.links > 1:
            # Members of one group of the source would join: the model keeps it simple.
            return
        track.tree.put(new_path, Inode(inode.mode, inode.content, dict(inode.xattrs)))
        self._tick(track)
        assert source.last.name is not None
        await self._machine.link((source.last.name, *path), (*top, *new_path))

    async def _remove(self, track: Track, top: Path) -> None:
        path = self._pick(track)
        if path is None:
            return
        inode = track.tree.find(path)
        if inode.children:
            return
        track.tree.drop(path)
        self._tick(track)
        await self._machine.remove(*top, *path, is_directory=inode.is_directory)

    async def _chmod(self, track: Track, top: Path) -> None:
        path = self._pick(track, files=True)
        if path is not None:
            inode = track.tree.find(path)
            inode.mode = 0o100000 | self._random.choice([0o600, 0o644, 0o755])
            self._tick(track)
            await self._machine.chmod(*top, *path, mode=inode.mode & 0o777)

    async def _set_xattr(self, track: Track, top: Path) -> None:
        path = self._pick(track)
        if path is not None and not track.tree.find(path).mode & 0o20000:
            value = self._random.randbytes(self._random.choice([3, 700]))
            track.tree.find(path).xattrs[b"user.x"] = value
            self._tick(track)
            await self._machine.set_xattr(*top, *path, name=b"user.x", value=value)
