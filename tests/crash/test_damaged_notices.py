"""Damage to leases, condemned sets and moved tables: nobody reads wrong, and nothing is deleted."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from s3backfs.errors import FileSystemError, IntegrityError, S3backfsError, UnsupportedFormatError
from s3backfs.format.lease import (
    Condemned,
    Moved,
    MovedRange,
    encode_condemned,
    encode_moved,
)
from s3backfs.format.refs import Kind
from s3backfs.repository.condemned import condemned_key
from s3backfs.repository.leases import has_run_out, lease_key, load_leases
from s3backfs.store.memory import MemoryStore
from tests.crash.machine import booted
from tests.crash.test_damage import HIT, SPARED, Place, new_place, remove
from tests.repository.packs import PackMaker, new_bench, noise
from tests.repository.test_reader import reading

pytestmark = pytest.mark.anyio

CHANGES = ["flipped", "cut", "newer", "swapped"]
DAMAGE = (IntegrityError, UnsupportedFormatError)


def change(store: MemoryStore, key: str, other: str, how: str) -> None:
    """Damage an object; `other` is one of the same kind under another key."""
    data = store.objects[key]
    match how:
        case "flipped":
            store.damage(key, data[:-1] + bytes([data[-1] ^ 1]))
        case "cut":
            store.damage(key, data[: len(data) // 2])
        case "newer":
            # The version stands in clear, so anybody can claim another one.
            store.damage(key, data[:4] + bytes([data[4] + 1]) + data[5:])
        case "swapped":
            store.damage(key, store.objects[other])


async def with_left_lease(tmp_path: Path) -> tuple[Place, bytes, str]:
    """A place, the owner of its open backups, and the key of another writer's lease."""
    place = await new_place(tmp_path, is_sealed=False)
    async with booted(place.store, place.opened, tmp_path / "writer") as machine:
        owner = machine.repository.writer_id
        await machine.make_backup(b"open")
        await machine.sync(b"open")
        key = lease_key(owner)
        lease = place.store.objects[key]
        async with booted(place.store, place.opened, tmp_path / "other") as other:
            other_key = lease_key(other.repository.writer_id)
            other_lease = place.store.objects[other_key]
    # A crash: the leases are left.
    await place.store.put(key, lease)
    await place.store.put(other_key, other_lease)
    return place, owner, other_key


@pytest.mark.parametrize("how", CHANGES)
async def test_a_damaged_lease(how: str, tmp_path: Path) -> None:
    """Its writer counts as alive, prune is told of the damage, and everybody reads and writes."""
    place, owner, other_key = await with_left_lease(tmp_path)
    keyring = place.opened.keyring
    change(place.store, lease_key(owner), other_key, how)
    assert not await has_run_out(place.store, keyring, owner)
    with pytest.raises(DAMAGE, match="leases/"):
        await load_leases(place.store, keyring)
    async with booted(place.store, place.opened, tmp_path / "reader") as machine:
        assert await machine.picture(SPARED)
        await machine.make_backup(b"new")
        await machine.write_file(b"new", b"file", data=b"data")
        await machine.sync(b"new")
        with pytest.raises((FileSystemError, S3backfsError)):
            await machine.write_file(b"open", b"file", data=b"not mine")


@pytest.mark.parametrize("how", CHANGES)
async def test_a_damaged_condemned_set(how: str, tmp_path: Path) -> None:
    """Who cannot read what is condemned still reads and writes, and refers to nothing stored."""
    place = await new_place(tmp_path, is_sealed=True)
    keyring, keys = place.opened.keyring, []
    for _ in range(2):
        set_id = secrets.token_bytes(16)
        condemned = Condemned(
            repository_id=keyring.repository_id, set_id=set_id, created_ns=1, grace_ms=1, packs=()
        )
        keys.append(condemned_key(set_id))
        await place.store.put(keys[-1], encode_condemned(keyring, keys[-1], condemned))
    change(place.store, keys[0], keys[1], how)
    async with booted(place.store, place.opened, tmp_path / "reader") as machine:
        assert await machine.picture(HIT)
        before = {key for key in place.store.objects if key.startswith("data/")}
        content = (await machine.read(HIT, b"small0")) + (await machine.read(HIT, b"small1"))
        await machine.make_backup(b"new")
        await machine.write_file(b"new", b"file", data=content)
        await machine.sync(b"new")
        assert {key for key in place.store.objects if key.startswith("data/")} - before
    async with booted(place.store, place.opened, tmp_path / "fresh", is_read_only=True) as machine:
        assert await machine.read(b"new", b"file") == content


@pytest.mark.parametrize("how", [*CHANGES, "gone", "replayed"])
async def test_a_damaged_moved_table(how: str) -> None:
    """What went elsewhere is an error that names the table or the pack; what stayed reads."""
    bench = new_bench()
    plain, stayed_plain = noise(1000, 1), noise(1000, 2)
    old, new, stayed = (PackMaker(bench.keyring, Kind.DATA, number) for number in (9, 1, 2))
    ref, target = old.add(plain), new.add(plain)
    stayed_ref = stayed.add(stayed_plain)
    for pack in (new, stayed):
        await pack.store(bench.memory)
    keys = [f"moved/{pack.pack_id.hex()}" for pack in (old, stayed)]
    for key, pack in zip(keys, (old, stayed), strict=True):
        moved = Moved(
            repository_id=bench.keyring.repository_id,
            pack_id=pack.pack_id,
            ranges=(MovedRange(0, 0, 1000, target),),
        )
        await bench.memory.put(key, encode_moved(bench.keyring, key, moved))
    if how == "gone":
        remove(bench.memory, keys[0])
    elif how == "replayed":
        # An older table, sound in itself, whose target has moved on since.
        remove(bench.memory, new.key)
    else:
        change(bench.memory, *keys, how)
    async with reading(bench) as reader:
        with pytest.raises(DAMAGE, match=r"moved/|data/"):
            await reader.read(ref, 0, 1000)
        assert await reader.read(stayed_ref, 0, 1000) == stayed_plain
