"""Keys that are older than what stands in the bucket: a rotation just now, or a rollback."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import trio

from s3backfs.backup.finding import list_backups
from s3backfs.backup.newest_key import find_newer, open_to_write
from s3backfs.backup.roots import SEALED_PREFIX
from s3backfs.errors import EncryptionRefusedError, NewerKeyError, OldKeysError
from s3backfs.format.keys import Keyring, new_master
from s3backfs.format.root import encode_root
from s3backfs.repository.opening import CreateOptions, OpenedRepository, create_repository
from s3backfs.store.around import Request, WrappedStore
from s3backfs.store.memory import MemoryStore
from tests.format.samples import sample_root

T = TypeVar("T")

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store() -> MemoryStore:
    """A store that holds nothing yet."""
    return MemoryStore()


async def put_root(store: MemoryStore, keyring: Keyring) -> str:
    """Store a sealed root under the newest key of a keyring; return its object's key."""
    root = sample_root(keyring)
    key = SEALED_PREFIX + keyring.encode_name(root.name)
    await store.put(key, encode_root(keyring, key, root))
    return key


async def made(store: MemoryStore) -> OpenedRepository:
    """A new repository with one backup."""
    opened = await create_repository(store, CreateOptions(), b"secret")
    await put_root(store, opened.keyring)
    return opened


async def test_all_is_well(store: MemoryStore) -> None:
    """Keys that reach all roots are read once."""
    opened = await made(store)
    asked = 0

    async def open_once() -> OpenedRepository:
        nonlocal asked
        asked += 1
        return opened

    assert await open_to_write(open_once, store) is opened
    assert asked == 1


async def test_rotation_just_now(store: MemoryStore) -> None:
    """Who reads the keys while another machine rotates them reads them anew, and goes on."""
    before = await made(store)
    after = OpenedRepository(before.keyring.with_next(new_master()), before.parameters)
    await put_root(store, after.keyring)
    answers = [after, before]

    async def open_once() -> OpenedRepository:
        await trio.lowlevel.checkpoint()
        return answers.pop()

    assert (await open_to_write(open_once, store)).keyring.epoch == 1


async def test_a_root_that_the_server_does_not_decrypt(store: MemoryStore) -> None:
    """A root that is stored under a key of the server that was not given hides no other one."""
    opened = await made(store)
    place, keyring = SEALED_PREFIX + opened.keyring.encode_name(b"other"), opened.keyring
    await store.put(place, b"stored with SSE-C")

    async def lock(request: Request, act: Callable[[], Awaitable[T]]) -> T:
        if request.verb == "get" and request.key == place:
            raise EncryptionRefusedError("give the key", key=place)
        return await act()

    locked = WrappedStore(store, lock)
    states = {row.name: row.state for row in await list_backups(locked, keyring)}
    assert states.pop(b"other") == "damaged"
    assert set(states.values()) == {"sealed"}
    assert await find_newer(locked, keyring) is None


async def test_rollback(store: MemoryStore) -> None:
    """Keys that stay older than a root are refused; the text names both epochs and the object."""
    opened = await made(store)
    key = await put_root(store, opened.keyring.with_next(new_master()))

    async def open_once() -> OpenedRepository:
        return opened

    with pytest.raises(OldKeysError, match=f"epoch 1 .{key}.*of epoch 0.*--read-only"):
        await open_to_write(open_once, store)


async def test_flipped_bits_are_no_newer_key(store: MemoryStore) -> None:
    """A root whose epoch is damaged is damaged: it keeps nobody from writing."""
    opened = await made(store)
    key = await put_root(store, opened.keyring)
    sound = (await store.get(key)).data
    for at in range(6, 10):
        for bit in range(8):
            damaged = bytearray(sound)
            damaged[at] ^= 1 << bit
            await store.put(key, bytes(damaged))
            assert await find_newer(store, opened.keyring) is None, (at, bit)
    assert [row.state for row in await list_backups(store, opened.keyring)] == ["damaged"]


async def test_the_newest_is_named(store: MemoryStore) -> None:
    """Of several roots that name newer keys the newest counts."""
    opened = await made(store)
    await put_root(store, opened.keyring.with_next(new_master()))
    twice = opened.keyring.with_next(new_master()).with_next(new_master())
    root = sample_root(twice)
    key = "open/" + twice.encode_name(root.name)
    await store.put(key, encode_root(twice, key, root))
    newer = await find_newer(store, opened.keyring)
    assert isinstance(newer, NewerKeyError)
    assert (newer.epoch, newer.known_epoch, newer.key) == (2, 0, key)
