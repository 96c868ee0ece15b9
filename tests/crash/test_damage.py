"""Damage of every kind to objects of every kind: the right error there, and all else reads."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from s3backfs.errors import (
    IntegrityError,
    ObjectMissingError,
    RepositoryMissingError,
    S3backfsError,
    WrongKeyError,
)
from s3backfs.format.slots import Cost
from s3backfs.repository.opening import (
    CreateOptions,
    OpenedRepository,
    create_repository,
    open_repository,
)
from s3backfs.store.memory import MemoryStore
from tests.crash.machine import Machine, booted

pytestmark = pytest.mark.anyio

PASSPHRASE = b"correct horse battery staple"
HIT, SPARED = b"hit", b"spared"
DAMAGES = ["flipped", "cut", "swapped", "gone"]


@dataclass
class Place:
    """A repository with two backups that share nothing."""

    store: MemoryStore
    opened: OpenedRepository
    home: Path
    keys: dict[bytes, set[str]]

    def key(self, prefix: str, backup: bytes = HIT) -> str:
        """The object of a kind that a backup has brought."""
        return max(key for key in self.keys[backup] if key.startswith(prefix))


async def new_place(home: Path, *, is_sealed: bool) -> Place:
    store = MemoryStore()
    cost = Cost(lanes=1, memory_kib=64, passes=1)
    opened = await create_repository(store, CreateOptions(cost=cost), PASSPHRASE)
    place = Place(store, opened, home, {})
    async with booted(store, opened, home / "writer") as machine:
        for name in (SPARED, HIT):
            before = set(store.objects)
            await fill(machine, name)
            if is_sealed:
                await machine.catalogue.seal(machine.catalogue.backups[name])
            place.keys[name] = set(store.objects) - before
    return place


def content(name: bytes, number: int) -> bytes:
    """What the small files hold; it does not compress."""
    return random.Random(name + bytes([number])).randbytes(9000)


async def fill(machine: Machine, name: bytes) -> None:
    """Write some files whose content nothing else shares."""
    await machine.make_backup(name)
    for number in range(3):
        await machine.write_file(name, b"small%d" % number, data=content(name, number))
    # Many long names: the top node does not fit into the root.
    for number in range(600):
        long_name = b"%03d" % number + name * 30
        await machine.make(name, long_name, mode=0o120777, target=name * 40 + b"%d" % number)
    await machine.sync(name)


def damage(place: Place, key: str, how: str) -> None:
    data = place.store.objects[key]
    match how:
        case "flipped":
            middle = len(data) // 2
            place.store.damage(key, data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        case "cut":
            place.store.damage(key, data[: len(data) // 3])
        case "swapped":
            kind = key.split("/")[0] + "/"
            other = place.store.objects[place.key(kind, SPARED)]
            place.store.damage(key, other)
        case "gone":
            remove(place.store, key)


def remove(store: MemoryStore, key: str) -> None:
    store._objects.pop(key)


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("is_sealed", [True, False])
async def test_a_damaged_root(how: str, is_sealed: bool, tmp_path: Path) -> None:
    """It hides no other backup; its name is an error and not nothing, unless it is gone."""
    place = await new_place(tmp_path, is_sealed=is_sealed)
    damage(place, place.key("backups/" if is_sealed else "open/"), how)
    async with booted(place.store, place.opened, tmp_path / "reader", is_read_only=True) as machine:
        assert await machine.picture(SPARED)
        with pytest.raises(S3backfsError) as caught:
            await machine.picture(HIT)
        if how != "gone":
            assert isinstance(caught.value, IntegrityError)
            assert caught.value.key
    async with booted(place.store, place.opened, tmp_path / "other") as machine:
        with pytest.raises(S3backfsError):
            await machine.make_backup(HIT if how != "gone" else SPARED)


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("prefix", ["data/", "meta/"])
async def test_a_damaged_pack(prefix: str, how: str, tmp_path: Path) -> None:
    """What it holds is an error that names the pack; other backups read."""
    place = await new_place(tmp_path, is_sealed=True)
    key = place.key(prefix)
    damage(place, key, how)
    async with booted(place.store, place.opened, tmp_path / "reader", is_read_only=True) as machine:
        with pytest.raises((IntegrityError, ObjectMissingError)) as caught:
            await machine.picture(HIT)
        assert caught.value.key == key
        assert await machine.picture(SPARED)


@pytest.mark.parametrize("how", DAMAGES)
async def test_a_damaged_segment_costs_deduplication_only(how: str, tmp_path: Path) -> None:
    """Another machine stores again what it does not know of, and all reads."""
    place = await new_place(tmp_path, is_sealed=True)
    damage(place, place.key("index/"), how)
    async with booted(place.store, place.opened, tmp_path / "other") as machine:
        await machine.make_backup(b"new")
        await machine.write_file(b"new", b"same", data=content(HIT, 1))
        await machine.sync(b"new")
        assert await machine.read(b"new", b"same") == content(HIT, 1)
        assert await machine.picture(HIT)


@pytest.mark.parametrize("home", ["writer", "other"])
async def test_a_lost_pack_is_stored_again(home: str, tmp_path: Path) -> None:
    """Contents whose pack is gone are not taken for known, on the machine that wrote it either."""
    place = await new_place(tmp_path, is_sealed=True)
    remove(place.store, place.key("data/"))
    async with booted(place.store, place.opened, tmp_path / home) as machine:
        await machine.make_backup(b"new")
        for number in range(3):
            data = content(HIT, number)
            await machine.write_file(b"new", b"small%d" % number, data=data)
        await machine.catalogue.seal(machine.catalogue.backups[b"new"])
    async with booted(place.store, place.opened, tmp_path / "reader", is_read_only=True) as machine:
        for number in range(3):
            data = content(HIT, number)
            assert await machine.read(b"new", b"small%d" % number) == data


@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
@pytest.mark.parametrize("prefix", ["repository.json", "keys/"])
async def test_a_damaged_repository(prefix: str, how: str, tmp_path: Path) -> None:
    """It does not open, with an error that says what is wrong."""
    place = await new_place(tmp_path, is_sealed=True)
    key = next(key for key in place.store.objects if key.startswith(prefix))
    damage(place, key, how)
    with pytest.raises((IntegrityError, RepositoryMissingError, WrongKeyError)):
        await open_repository(place.store, lambda: PASSPHRASE)
