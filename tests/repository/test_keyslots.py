"""Changing who can open a repository: crashes, races and forgeries."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from s3backfs.errors import (
    ConfigurationError,
    IntegrityError,
    RepositoryBusyError,
    RepositoryError,
    RepositoryExistsError,
    UnavailableError,
    WrongKeyError,
)
from s3backfs.format.canonical import encode_json
from s3backfs.format.holders import new_holder, read_holder_slot, seal_to_holder
from s3backfs.format.keys import Keyring, new_master
from s3backfs.format.parameters import decode_parameters, encode_parameters
from s3backfs.format.slots import Cost, seal_slot
from s3backfs.repository.key_backup import export_slots, import_slots, open_backup
from s3backfs.repository.keyslots import (
    MAX_KEPT,
    KeyedRepository,
    add_slot,
    list_slots,
    open_for_keys,
    remove_slot,
    replace_passphrase,
)
from s3backfs.repository.new_keys import NewKey, make_slot
from s3backfs.repository.opening import CreateOptions, create_repository, open_repository
from s3backfs.repository.rotation import rotate
from s3backfs.store.around import Request, WrappedStore
from s3backfs.store.base import Store
from s3backfs.store.memory import MemoryStore

T = TypeVar("T")

pytestmark = pytest.mark.anyio

CHEAP = Cost(lanes=1, memory_kib=8, passes=1)
ALICE = NewKey("argon2id", b"alice", "alice", CHEAP)
BOB = NewKey("argon2id", b"bob", "bob", CHEAP)
RAW = os.urandom(32)


class Cut:
    """A policy that lets so many writes pass and then nothing more."""

    def __init__(self, writes: int) -> None:
        self.left = writes

    async def __call__(self, request: Request, act: Callable[[], Awaitable[T]]) -> T:
        if request.verb in ("put", "delete"):
            self.left -= 1
        if self.left < 0:
            raise UnavailableError("cut off")
        return await act()


@pytest.fixture
async def store() -> MemoryStore:
    """A store with a repository that alice opens, and bob."""
    made = MemoryStore()
    await create_repository(made, CreateOptions(), ALICE)
    return made


@pytest.fixture
async def keys(store: MemoryStore, tmp_path: Path) -> KeyedRepository:
    """The repository opened by alice, after she has added bob."""
    opened = await opened_by(b"alice", store, tmp_path)
    await add_slot(opened, BOB)
    return opened


async def opened_by(secret: bytes, store: Store, state_dir: Path) -> KeyedRepository:
    return await open_for_keys(store, lambda: secret, state_dir, must_be_encrypted=True)


async def opens(store: Store, secret: bytes) -> bool:
    try:
        await open_repository(store, lambda: secret)
    except WrongKeyError:
        return False
    return True


async def test_rotation(keys: KeyedRepository, store: MemoryStore, tmp_path: Path) -> None:
    """After a rotation all who are kept read old and new epochs, and the removed nothing."""
    old = keys.opened.keyring
    done = await rotate(keys, ["bob"])
    assert (done.epoch, [slot.label for slot in done.dropped]) == (1, ["bob"])
    assert not await opens(store, b"bob")
    now = await opened_by(b"alice", store, tmp_path)
    assert now.epoch == 1
    assert now.opened.keyring.master(0) == old.master(0)
    assert now.opened.keyring.repository_id == old.repository_id
    assert [slot.epoch for slot in await list_slots(now)] == [1]


async def test_keeping_without_their_secrets(keys: KeyedRepository, store: MemoryStore) -> None:
    """Who rotates needs nobody else's passphrase for them to go on."""
    await rotate(keys)
    assert await opens(store, b"bob")


CHANGES: dict[str, Callable[[KeyedRepository], Awaitable[object]]] = {
    "add": lambda keys: add_slot(keys, NewKey("raw", RAW)),
    "remove": lambda keys: remove_slot(keys, "bob"),
    "passwd": lambda keys: replace_passphrase(keys, "bob", NewKey("argon2id", b"2", "", CHEAP)),
    "rotate": rotate,
    "rotate and remove": lambda keys: rotate(keys, ["bob"]),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_crash_between_any_two_writes(
    name: str, keys: KeyedRepository, store: MemoryStore, tmp_path: Path
) -> None:
    """Whatever change is cut off anywhere, alice opens the repository and makes it again."""
    change, before = CHANGES[name], store.objects
    for writes in range(100):
        place = MemoryStore(before)
        cut = WrappedStore(place, Cut(writes))
        home = tmp_path / str(writes)
        try:
            await change(await opened_by(b"alice", cut, home))
        except UnavailableError:
            again = await opened_by(b"alice", place, home)
            assert again.opened.keyring.master(0) == keys.master
            labels = {slot.label for slot in await list_slots(again) if slot.is_own}
            if name.startswith("rotate") or "bob" in labels:
                await rotate(again)
                assert await opens(place, b"alice")
            continue
        assert writes > 0
        return
    raise AssertionError("it never ends")


async def test_last_slot(store: MemoryStore, tmp_path: Path) -> None:
    """The last slot stays, also when the only other one is a forgery, or damaged."""
    keys = await opened_by(b"alice", store, tmp_path)
    forged_key, forged = seal_to_holder(
        new_holder("raw", RAW, keys.opened.keyring.repository_id, "", 1),
        keys.opened.keyring.repository_id,
        0,
        new_master(),
    )
    await store.put(forged_key, forged)
    await store.put("keys/damaged.json", b"{")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="left"):
            await remove_slot(keys, "alice")
    assert await opens(store, b"alice")


async def test_two_remove_at_once(keys: KeyedRepository, store: MemoryStore) -> None:
    """Of two who remove the last two slots at once, one is told and nobody is locked out."""
    saved = store.objects
    bob_key = next(slot.key for slot in await list_slots(keys) if slot.label == "bob")

    class Meanwhile:
        async def __call__(self, request: Request, act: Callable[[], Awaitable[T]]) -> T:
            if request.verb == "delete" and bob_key in store.objects:
                await store.delete([bob_key])
            return await act()

    racing = KeyedRepository(
        WrappedStore(store, Meanwhile()), keys.opened, keys.secret, keys.state_dir
    )
    with pytest.raises(RepositoryBusyError):
        await remove_slot(racing, "alice")
    assert await opens(store, b"alice")
    assert set(store.objects) == set(saved) - {bob_key}


async def test_added_during_a_rotation(
    keys: KeyedRepository, store: MemoryStore, tmp_path: Path
) -> None:
    """Who adds a slot while the key is rotated is told that it would open nothing."""
    stale = await opened_by(b"bob", store, tmp_path)
    await rotate(keys)
    count = len(store.objects)
    with pytest.raises(RepositoryBusyError):
        await add_slot(stale, NewKey("raw", RAW))
    assert len(store.objects) == count


@pytest.mark.parametrize("enforce_conditions", [True, False])
async def test_two_rotate_one_after_the_other(
    keys: KeyedRepository, store: MemoryStore, tmp_path: Path, enforce_conditions: bool
) -> None:
    """Who opened before somebody else's rotation does not rotate over it."""
    place = MemoryStore(store.objects, enforce_conditions=enforce_conditions)
    first, second = [await opened_by(b"alice", place, tmp_path / name) for name in ("1", "2")]
    await rotate(first)
    before = place.objects
    with pytest.raises(RepositoryBusyError):
        await rotate(second)
    assert place.objects == before


async def test_forged_slot_is_never_kept(keys: KeyedRepository, store: MemoryStore) -> None:
    """A slot that was made without the master stops the rotation until it is named as removed."""
    repository_id = keys.opened.keyring.repository_id
    mallory = new_holder("raw", RAW, repository_id, "mallory", 1)
    await store.put(*seal_to_holder(mallory, repository_id, 0, new_master()))
    with pytest.raises(ConfigurationError, match="mallory"):
        await rotate(keys)
    await rotate(keys, ["mallory"])
    assert not await opens(store, RAW.hex().encode())
    assert await opens(store, b"alice")


async def test_slot_of_another_repository(keys: KeyedRepository, store: MemoryStore) -> None:
    """Slots of another repository are neither kept nor in the way."""
    other = MemoryStore()
    await create_repository(other, CreateOptions(), NewKey("raw", RAW))
    for key, data in other.objects.items():
        if key.startswith("keys/"):
            await store.put(key, data)
    await rotate(keys)
    assert not await opens(store, RAW.hex().encode())


async def test_removed_slot_is_put_back(
    keys: KeyedRepository, store: MemoryStore, tmp_path: Path
) -> None:
    """A slot that was removed here and is put back by somebody does not outlive a rotation."""
    before = store.objects
    await remove_slot(keys, "bob")
    for key, data in before.items():
        await store.put(key, data)
    done = await rotate(await opened_by(b"alice", store, tmp_path))
    assert [slot.label for slot in done.dropped] == ["bob"]
    assert not await opens(store, b"bob")


async def test_downgrade(keys: KeyedRepository, store: MemoryStore, tmp_path: Path) -> None:
    """A machine that has seen the new key refuses the old one, and forged successors of it."""
    old, bob_keyring = store.objects, keys.opened.keyring
    await rotate(keys, ["bob"])
    assert (await opened_by(b"alice", store, tmp_path)).epoch == 1
    with pytest.raises(RepositoryError, match="old keys back"):
        await opened_by(b"alice", MemoryStore(old), tmp_path)
    forged = forged_rotations(bob_keyring, old, 2)
    with pytest.raises(RepositoryError, match="old keys back"):
        await opened_by(b"alice", forged, tmp_path)


def forged_rotations(keyring: Keyring, objects: dict[str, bytes], count: int) -> MemoryStore:
    """What one who knows an old master makes of it: newer masters of their own, sealed to all."""
    newer = keyring
    for _ in range(count):
        newer = newer.with_next(new_master())
    slots = [read_holder_slot(key, data) for key, data in objects.items() if "keys/" in key]
    made = [
        seal_to_holder(slot.holder, newer.repository_id, newer.epoch, newer.master(newer.epoch))
        for slot in slots
    ]
    parameters = json.loads(objects["repository.json"])
    assert parameters["epoch"] == keyring.epoch
    plain = decode_parameters(objects["repository.json"]).parameters
    return MemoryStore({**dict(made), "repository.json": encode_parameters(plain, newer)})


async def test_swapped_epochs(keys: KeyedRepository, store: MemoryStore) -> None:
    """The wrapped masters of two epochs can not be exchanged in repository.json."""
    await rotate(keys)
    again = await opened_by(b"alice", store, keys.state_dir.parent)
    await rotate(again)
    value = json.loads(store.objects["repository.json"])
    first, second = value["older"]
    first["wrapped"], second["wrapped"] = second["wrapped"], first["wrapped"]
    await store.put("repository.json", encode_json(value))
    with pytest.raises(IntegrityError):
        await open_repository(store, lambda: b"alice")


async def test_slots_of_older_programs(tmp_path: Path) -> None:
    """An older slot opens; rotation makes a new one of it with its passphrase, and only with it."""
    store = MemoryStore()
    opened = await create_repository(store, CreateOptions(), ALICE)
    keyring = opened.keyring
    await store.delete([key for key in store.objects if "keys/" in key])
    master = keyring.master(0)
    old = [seal_slot(word, keyring.repository_id, 0, master, CHEAP) for word in (b"a", b"b")]
    for key, data in old:
        await store.put(key, data)
    keys = await opened_by(b"a", store, tmp_path)
    with pytest.raises(ConfigurationError, match="older s3backfs"):
        await rotate(keys)
    other_id = old[1][0].removeprefix("keys/")[:32]
    await rotate(keys, [other_id])
    assert await opens(store, b"a")
    assert not await opens(store, b"b")


async def test_too_many(keys: KeyedRepository) -> None:
    """More slots than a rotation has room for are refused; with all of them it succeeds."""
    for number in range(MAX_KEPT - 2):
        await add_slot(keys, NewKey("raw", bytes([number]) * 32, str(number)))
    with pytest.raises(ConfigurationError, match="15 key slots"):
        await add_slot(keys, NewKey("raw", RAW))
    assert len((await rotate(keys)).kept) == MAX_KEPT


async def test_passwd_by_recovery(keys: KeyedRepository, store: MemoryStore) -> None:
    """Who opened otherwise must say which passphrase is replaced."""
    await add_slot(keys, NewKey("raw", RAW, "raw"))
    by_raw = await opened_by(RAW.hex().encode(), store, keys.state_dir.parent)
    new = NewKey("argon2id", b"new", "", CHEAP)
    with pytest.raises(ConfigurationError, match="--slot"):
        await replace_passphrase(by_raw, None, new)
    done = await replace_passphrase(by_raw, "alice", new)
    assert (done.made.label, done.alike) == ("alice", ())
    assert (await opens(store, b"alice"), await opens(store, b"new")) == (False, True)


async def test_export_and_import(keys: KeyedRepository, store: MemoryStore, tmp_path: Path) -> None:
    """An export brings lost and damaged keys back, and nothing into a rotated repository."""
    data = await export_slots(keys)
    whole = store.objects
    backup = await open_backup(data, lambda: b"bob", tmp_path, unwrap=None)
    await store.delete([key for key in whole if "keys/" in key or key == "repository.json"])
    done = await import_slots(backup, store)
    assert done.has_restored_parameters
    assert store.objects == whole
    damaged = next(key for key in whole if "keys/" in key)
    await store.put(damaged, b"{")
    assert len((await import_slots(backup, store)).slot_ids) == 1
    assert store.objects == whole
    await rotate(keys)
    with pytest.raises(RepositoryError):
        await import_slots(backup, store)


async def test_import_of_older_keys(
    keys: KeyedRepository, store: MemoryStore, tmp_path: Path
) -> None:
    """On the machine that rotated an older export is told as such, not as an attack."""
    data = await export_slots(keys)
    await rotate(keys)
    before = store.objects
    with pytest.raises(RepositoryExistsError, match=r"exported before .* 0, .* 1; nothing"):
        await open_backup(data, lambda: b"bob", tmp_path, unwrap=None)
    elsewhere = await open_backup(data, lambda: b"bob", tmp_path / "other", unwrap=None)
    with pytest.raises(RepositoryExistsError, match="rotated since the export"):
        await import_slots(elsewhere, store)
    assert store.objects == before
    now = await opened_by(b"alice", store, tmp_path)
    assert await open_backup(await export_slots(now), lambda: b"bob", tmp_path, unwrap=None)


async def test_one_secret_has_one_slot(keys: KeyedRepository, store: MemoryStore) -> None:
    """What opens a slot already gets no second one, by `add` or by `passwd`, and is told which."""
    raw = NewKey("raw", RAW, "raw", CHEAP)
    await add_slot(keys, raw)
    before = store.objects
    for known, label in ((BOB, "bob"), (raw, "raw")):
        again = NewKey(known.kind, known.secret, "again", CHEAP)
        with pytest.raises(ConfigurationError, match=f"{label}. opens with the same"):
            await add_slot(keys, again)
    with pytest.raises(ConfigurationError, match=r"bob. opens with the same"):
        await replace_passphrase(keys, "alice", BOB)
    assert store.objects == before
    # Only what stretching it costs is to change.
    done = await replace_passphrase(keys, "alice", ALICE)
    assert done.old.key != done.made.key


async def test_revoked_and_still_open(keys: KeyedRepository, store: MemoryStore) -> None:
    """Where the passphrase that was given opens another slot than the revoked one, that is told."""
    await store.put(*await make_slot(NewKey("argon2id", b"alice", "2nd", CHEAP), keys.keyring))
    done = await rotate(keys, ["2nd", "bob"])
    assert [(gone.label, kept.label) for gone, kept in done.same] == [("2nd", "alice")]


async def test_interrupted_passwd(keys: KeyedRepository, store: MemoryStore) -> None:
    """Where two slots have one label, their ids and times are told, and which one is to go."""
    store_cut = WrappedStore(store, Cut(1))
    cut = KeyedRepository(store_cut, keys.opened, keys.secret, keys.state_dir)
    with pytest.raises(UnavailableError):
        await replace_passphrase(cut, "bob", NewKey("argon2id", b"new", "", CHEAP))
    both = [slot for slot in await list_slots(keys) if slot.label == "bob"]
    assert len(both) == 2
    with pytest.raises(ConfigurationError, match=r"made 20.*made 20.*older one") as caught:
        await remove_slot(keys, "bob")
    assert all(slot.slot_id[:8] in str(caught.value) for slot in both)


@pytest.mark.parametrize("name", ["bob", None])
async def test_an_interrupted_passwd_is_ended_by_the_same(
    name: str | None, keys: KeyedRepository, store: MemoryStore, tmp_path: Path
) -> None:
    """The same change again removes the old slot; a passphrase of somebody else is refused."""
    opener = keys if name else await opened_by(b"bob", store, tmp_path)
    with pytest.raises(ConfigurationError, match="opens with the same already"):
        await replace_passphrase(opener, name or "bob", ALICE)
    new = NewKey("argon2id", b"new", "", CHEAP)
    cut = KeyedRepository(
        WrappedStore(store, Cut(1)), opener.opened, opener.secret, opener.state_dir
    )
    with pytest.raises(UnavailableError):
        await replace_passphrase(cut, name, new)
    done = await replace_passphrase(opener, name, new)
    assert [slot.label for slot in (done.old, done.made, *done.alike)] == ["bob", "bob"]
    assert not await opens(store, b"bob")
    assert await opens(store, b"new")
    assert len(await list_slots(keys)) == 2


async def test_what_an_interrupted_passwd_left_is_told(
    keys: KeyedRepository, store: MemoryStore, tmp_path: Path
) -> None:
    """Who changes the newer one of two slots with one label hears of the older one."""
    cut = KeyedRepository(WrappedStore(store, Cut(1)), keys.opened, keys.secret, keys.state_dir)
    with pytest.raises(UnavailableError):
        await replace_passphrase(cut, "alice", NewKey("argon2id", b"new", "", CHEAP))
    opener = await opened_by(b"new", store, tmp_path)
    done = await replace_passphrase(opener, None, NewKey("argon2id", b"newer", "", CHEAP))
    assert [slot.key for slot in done.alike] == [keys.opened.slot_key]


@pytest.mark.parametrize("data", [b"", b"{}", b'{"format":1,"objects":[],"product":"s3backfs"}\n'])
async def test_import_of_something_else(data: bytes, tmp_path: Path) -> None:
    """A file that was not made by export is told."""
    with pytest.raises(ConfigurationError, match="key export"):
        await open_backup(data, lambda: b"", tmp_path, unwrap=None)
