"""A repository in memory with a few backups, and ways to damage it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from s3backfs.format.slots import Cost
from s3backfs.maintenance.checking import Check, CheckOptions
from s3backfs.maintenance.findings import CheckResult
from s3backfs.repository.opening import CreateOptions, OpenedRepository, create_repository
from s3backfs.repository.repository import Repository, RepositoryOptions, open_for_mount
from s3backfs.store.memory import MemoryStore
from tests.crash.machine import MIB, Machine, booted

PASSPHRASE = b"correct horse battery staple"
EVERYTHING = CheckOptions(read_share=1.0)


@dataclass
class Place:
    """A store, its keys, and a directory for the machines that use it."""

    store: MemoryStore
    opened: OpenedRepository
    home: Path
    keys: dict[bytes, set[str]] = field(default_factory=dict)
    homes_count: int = 0

    def key(self, prefix: str, backup: bytes) -> str:
        """The object of a kind that a backup has brought; the largest."""
        keys = [key for key in self.keys[backup] if key.startswith(prefix)]
        return max(keys, key=lambda key: len(self.store.objects[key]))

    def flip(self, key: str, offset: int = 100) -> None:
        """Change one bit of an object."""
        data = bytearray(self.store.objects[key])
        data[offset] ^= 1
        self.store.damage(key, bytes(data))

    def cut(self, key: str) -> None:
        """Take the last third of an object away."""
        data = self.store.objects[key]
        self.store.damage(key, data[: len(data) * 2 // 3])

    def remove(self, key: str) -> None:
        """Take an object away behind everybody's back."""
        self.store._objects.pop(key)

    def new_home(self) -> Path:
        """A machine that has never heard of this repository."""
        self.homes_count += 1
        return self.home / f"machine{self.homes_count}"

    @asynccontextmanager
    async def machine(self, *, is_read_only: bool = False) -> AsyncIterator[Machine]:
        """Mount it on a new machine."""
        async with booted(
            self.store, self.opened, self.new_home(), is_read_only=is_read_only
        ) as machine:
            yield machine

    @asynccontextmanager
    async def repository(self, *, is_read_only: bool = False) -> AsyncIterator[Repository]:
        """Hold it open as maintenance does."""
        home = self.new_home()
        options = RepositoryOptions(
            state_dir=home / "state",
            cache_dir=home / "cache",
            cache_bytes=MIB,
            memory_bytes=64 * MIB,
            is_read_only=is_read_only,
            level=1,
        )
        async with open_for_mount(self.store, self.opened, options) as repository:
            yield repository
            await repository.end_lease()

    async def check(self, options: CheckOptions = EVERYTHING) -> CheckResult:
        """Run a check."""
        async with self.repository(is_read_only=True) as repository:
            return await Check(repository, options, lambda *_: None).run()

    async def fill(self, name: bytes, *, is_sealed: bool = True) -> None:
        """Store a backup that shares nothing with others."""
        before = set(self.store.objects)
        async with self.machine() as machine:
            await machine.make_backup(name)
            await machine.make(name, b"dir", mode=0o40755)
            for number in range(3):
                data = content(name, number)
                await machine.write_file(name, b"dir", b"small%d" % number, data=data)
            await machine.write_file(name, b"large", data=large(name))
            # Many long names: the top node does not fit into the root.
            for number in range(1500):
                long_name = b"%04d" % number + name * 20
                await machine.make(name, long_name, mode=0o120777, target=name * 20)
            await machine.sync(name)
            if is_sealed:
                await machine.catalogue.seal(machine.catalogue.backups[name])
            await machine.repository.end_lease()
        self.keys[name] = set(self.store.objects) - before


def content(name: bytes, number: int) -> bytes:
    """What the small files hold; it does not compress."""
    return random.Random(name + bytes([number])).randbytes(9000)


def large(name: bytes) -> bytes:
    """What the large file holds."""
    return random.Random(name).randbytes(3 * MIB)


async def new_place(home: Path) -> Place:
    """Make a repository with two sealed backups."""
    store = MemoryStore()
    cost = Cost(lanes=1, memory_kib=64, passes=1)
    opened = await create_repository(store, CreateOptions(cost=cost), PASSPHRASE)
    place = Place(store, opened, home)
    for name in (b"spared", b"hit"):
        await place.fill(name)
    return place
