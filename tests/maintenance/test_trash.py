"""Forgetting and bringing back: a root is always in one of the two places."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from s3backfs.backup.tags import load_tags_of, remove_tag, set_tag
from s3backfs.backup.trash import move_to_trash
from s3backfs.errors import (
    ConfigurationError,
    IntegrityError,
    LockedError,
    ObjectMissingError,
    RepositoryBusyError,
    RepositoryExistsError,
    S3backfsError,
)
from s3backfs.maintenance.agreement import Agreement
from s3backfs.maintenance.forgetting import choose_named, forget, plan_forget
from s3backfs.maintenance.left_behind import LONG_GONE_S
from s3backfs.maintenance.leftover_tags import tidy_tags
from s3backfs.maintenance.policy import Policy
from s3backfs.maintenance.shelf import Shelf, load_shelf
from s3backfs.maintenance.trash import Returned, bring_back, choose, list_trash, unforget
from s3backfs.reporting import silent
from s3backfs.repository.opening import CreateOptions, create_repository
from s3backfs.store.base import Stored
from s3backfs.store.memory import MemoryStore

from .place import Place, content, new_place

pytestmark = pytest.mark.anyio


@pytest.fixture
async def place(tmp_path: Path) -> Place:
    return await new_place(tmp_path)


async def shelf_of(place: Place) -> Shelf:
    return await load_shelf(place.store, place.opened.keyring)


async def trash(place: Place, name: bytes) -> None:
    """Forget one backup."""
    keyring, shelf = place.opened.keyring, await shelf_of(place)
    assert not await forget(place.store, keyring, shelf, [shelf.backup(name)], lambda *_: None)


async def restore(place: Place, *names: bytes) -> None:
    """Bring backups back."""
    failure: S3backfsError | None = None
    async with place.repository(is_read_only=True) as repository:
        for trashed in choose(await list_trash(place.store, repository.keyring), names):
            try:
                await bring_back(repository, trashed)
            except S3backfsError as error:
                failure = error
    if failure is not None:
        # Outside: a nursery would wrap it into a group.
        raise failure


def objects(place: Place, prefix: str) -> list[str]:
    return sorted(key for key in place.store.objects if key.startswith(prefix))


async def test_what_was_forgotten_comes_back(place: Place) -> None:
    """A forgotten backup is in the trash with its bytes; brought back, all of it reads."""
    before = dict(place.store.objects)
    await trash(place, b"hit")
    assert [each.name for each in (await shelf_of(place)).backups] == [b"spared"]
    (trashed,) = await list_trash(place.store, place.opened.keyring)
    assert trashed.name == b"hit"
    assert trashed.forgotten_ns > 0
    await restore(place)
    assert not objects(place, "trash/")
    assert dict(place.store.objects).keys() >= {key for key in before if "backups/" in key}
    async with place.machine(is_read_only=True) as machine:
        assert await machine.read(b"hit", b"dir", b"small1") == content(b"hit", 1)


async def test_a_root_that_was_replaced_stays(place: Place) -> None:
    """Only the root that was decided on goes."""
    held = (await shelf_of(place)).backup(b"hit").held
    with pytest.raises(RepositoryBusyError):
        await move_to_trash(place.store, place.opened.keyring, held.key, bytes(16), 0)
    assert held.key in place.store.objects
    assert not objects(place, "trash/")


class BadCopies:
    """A store whose copies lose their last byte."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def copy(self, source_key: str, key: str) -> Stored:
        return await self._store.put(key, (await self._store.get(source_key)).data[:-1])


async def test_a_bad_copy_deletes_nothing(place: Place) -> None:
    """The root stays where it was, unless the copy of it reads the same."""
    held = (await shelf_of(place)).backup(b"hit").held
    store = BadCopies(place.store)
    nonce = held.root.owner.nonce
    with pytest.raises(IntegrityError):
        await move_to_trash(store, place.opened.keyring, held.key, nonce, 0)  # type: ignore[arg-type]
    assert held.key in place.store.objects


async def test_a_taken_name_is_not_overwritten(place: Place) -> None:
    """A backup whose name is taken stays in the trash, and the one there stays as it is."""
    await trash(place, b"hit")
    for is_sealed in (False, True):
        await place.fill(b"hit", is_sealed=is_sealed)
        before = dict(place.store.objects)
        with pytest.raises(RepositoryExistsError, match="another backup 'hit' by now: rename"):
            await restore(place, b"hit")
        changed = {key for key, data in place.store.objects.items() if before.get(key) != data}
        assert not [key for key in changed if key.startswith(("backups/", "open/", "trash/"))]
        if not is_sealed:
            async with place.machine() as machine:
                await machine.catalogue.refresh(is_forced=True)
                await machine.catalogue.take_over_own(is_forced=True)
                await machine.catalogue.drop(machine.catalogue.backups[b"hit"])
                await machine.repository.end_lease()


async def test_one_name_twice_in_the_trash(place: Place) -> None:
    """Backups of one name have places of their own in the trash; the last comes back first."""
    first = (await shelf_of(place)).backup(b"hit").root.backup_id
    await trash(place, b"hit")
    await place.fill(b"hit")
    second = (await shelf_of(place)).backup(b"hit").root.backup_id
    await trash(place, b"hit")
    assert len(objects(place, "trash/")) == 2
    found = await list_trash(place.store, place.opened.keyring)
    assert {each.root.backup_id for each in found if each.root} == {first, second}
    last = found[0].root
    await restore(place)
    assert last is not None
    assert (await shelf_of(place)).backup(b"hit").root.owner == last.owner
    assert len(objects(place, "trash/")) == 1


async def test_an_older_one_of_a_name_is_chosen_by_its_id(place: Place) -> None:
    """Of several with one name an id chooses; what else bore the name is told and stays."""
    for _ in range(2):
        await trash(place, b"hit")
        await place.fill(b"hit")
    await trash(place, b"hit")
    found = await list_trash(place.store, place.opened.keyring)
    assert len({each.id for each in found}) == 3
    chosen = found[2]
    assert chosen.root is not None
    async with place.repository() as repository:
        for wrong in ("", "x", chosen.id + "0"):
            with pytest.raises(ConfigurationError, match="id"):
                await unforget(repository, [], silent, [wrong])
        result = await unforget(repository, [], silent, [chosen.id.upper()[:7]])
        assert result == Returned(back=[b"hit"], others={b"hit": 2})
        again = await unforget(repository, [b"hit"], silent)
        assert "another backup 'hit'" in str(again.failed.pop(b"hit"))
        assert again == Returned(others={b"hit": 1})
    assert (await shelf_of(place)).backup(b"hit").root.owner == chosen.root.owner


async def test_two_that_forget_at_once(place: Place) -> None:
    """Two copies of one root in the trash are one backup: both go when it comes back."""
    held = (await shelf_of(place)).backup(b"hit").held
    encoded = held.key.partition("/")[2]
    await place.store.put(f"trash/1/{encoded}", place.store.objects[held.key])
    await trash(place, b"hit")
    await restore(place)
    assert not objects(place, "trash/")
    assert (await shelf_of(place)).backup(b"hit").root == held.root


async def test_what_cannot_be_read_stays_in_the_trash(place: Place) -> None:
    """A damaged root, and one whose tree has lost its top, are not brought back."""
    await trash(place, b"hit")
    (key,) = objects(place, "trash/")
    meta = place.key("meta/", b"hit")
    data = place.store.objects[meta]
    place.remove(meta)
    with pytest.raises((IntegrityError, ObjectMissingError)):
        await restore(place)
    await place.store.put(meta, data)
    place.flip(key)
    with pytest.raises(IntegrityError):
        await restore(place)
    assert objects(place, "trash/") == [key]


async def test_what_prune_took_meanwhile_is_told(place: Place) -> None:
    """Who brings back what left the trash just then hears that it may be incomplete."""
    await trash(place, b"hit")
    async with place.repository(is_read_only=True) as repository:
        (trashed,) = await list_trash(place.store, repository.keyring)
        place.remove(trashed.key)
        with pytest.raises(ObjectMissingError, match="run `s3backfs check`"):
            await bring_back(repository, trashed)


async def test_nothing_comes_back_while_prune_is_at_work(place: Place) -> None:
    """A prune that has begun, and one that would begin meanwhile, keep out of the way."""
    await trash(place, b"hit")
    async with place.repository() as pruning, place.repository() as restoring:
        prune = Agreement(pruning)
        await prune.begin()
        with pytest.raises(RepositoryBusyError, match="gone in at most 10 min"):
            await unforget(restoring, [b"hit"], lambda *_: None)
        assert len(objects(place, "trash/")) == 1
        await prune.end()
        assert await unforget(restoring, [], silent) == Returned(back=[b"hit"])
        await prune.begin()
        await prune.end()
    assert not [key for key in objects(place, "leases/") if key.endswith("/prune")]


async def test_locked_backups_stay(place: Place) -> None:
    """A locked backup is neither forgotten by name, by policy nor by a mount."""
    keyring = place.opened.keyring
    held = (await shelf_of(place)).backup(b"hit").held
    await set_tag(place.store, keyring, held.root, "locked", "by hand")
    shelf = await shelf_of(place)
    with pytest.raises(LockedError):
        choose_named(shelf, [b"spared", b"hit"])
    plan = plan_forget(shelf, ["hit"], Policy(last=1), ())
    assert not plan.going
    going = [shelf.backup(b"hit")]
    assert await forget(place.store, keyring, shelf, going, lambda *_: None) == [b"hit"]
    async with place.machine() as machine:
        await machine.catalogue.refresh(is_forced=True)
        with pytest.raises(LockedError):
            await machine.catalogue.forget(machine.catalogue.backups[b"hit"])
        await machine.repository.end_lease()
    await remove_tag(place.store, keyring, held.root, "locked")
    await trash(place, b"hit")


async def test_a_damaged_lock_still_locks(place: Place) -> None:
    """A lock whose value cannot be read keeps the backup."""
    keyring = place.opened.keyring
    root = (await shelf_of(place)).backup(b"hit").root
    await set_tag(place.store, keyring, root, "locked", "x")
    (key,) = objects(place, "tags/")
    place.flip(key, 30)
    assert (await shelf_of(place)).backup(b"hit").is_locked
    assert [damage.key for damage in (await place.check()).damages] == [key]


async def test_tags_of_two_machines(place: Place) -> None:
    """Each tag is an object of its own; a removed one is gone, and so is one of the root."""
    store, keyring = place.store, place.opened.keyring
    root = (await shelf_of(place)).backup(b"hit").root
    await set_tag(store, keyring, root, "one", "1")
    await set_tag(store, keyring, root, "Zwölf", "zwölf\n")
    assert await load_tags_of(store, keyring, root) == {"Zwölf": "zwölf\n", "one": "1"}
    await remove_tag(store, keyring, root, "one")
    assert len(objects(place, "tags/")) == 1
    tagged = msgspec.structs.replace(root, tags={"old": "x", "Zwölf": "under"})
    assert (await load_tags_of(store, keyring, tagged))["old"] == "x"
    await remove_tag(store, keyring, tagged, "old")
    assert await load_tags_of(store, keyring, tagged) == {"Zwölf": "zwölf\n"}


@pytest.mark.parametrize("name", ["", "a/b", "a=b", "x" * 141, "new\nline", "\udcff", ".."])
async def test_what_no_tag_can_be(place: Place, name: str) -> None:
    """Names that no key can hold are refused."""
    root = (await shelf_of(place)).backup(b"hit").root
    with pytest.raises(ConfigurationError):
        await set_tag(place.store, place.opened.keyring, root, name, "")


async def test_open_backups_are_left_out(place: Place) -> None:
    """An open backup is no candidate, and cannot be deleted by name."""
    await place.fill(b"open", is_sealed=False)
    shelf = await shelf_of(place)
    plan = plan_forget(shelf, [], Policy(last=1), ())
    assert b"open" not in {each.candidate.name for each in plan.decisions}
    assert plan.left_out == {b"open": "open"}
    with pytest.raises(ConfigurationError, match="is open"):
        choose_named(shelf, [b"open"])


async def test_tags_of_what_is_gone_for_good_go(tmp_path: Path) -> None:
    """Prune removes week-old tags of no backup; those of backups, also in the trash, stay."""
    now_ns = 10**18

    def clock() -> int:
        return now_ns

    store = MemoryStore(clock=clock)
    opened = await create_repository(store, CreateOptions(is_encrypted=False), None)
    place = Place(store, opened, tmp_path)
    for name in (b"there", b"trashed", b"gone"):
        await place.fill(name)
        root = (await shelf_of(place)).backup(name).root
        await set_tag(store, opened.keyring, root, "x", "")
    await trash(place, b"trashed")
    place.remove("backups/gone")
    now_ns += int(LONG_GONE_S * 10**9) - 1
    assert await tidy_tags(store, opened.keyring, now_ns) == 0
    now_ns += 1
    (key,) = objects(place, "trash/")
    assert await tidy_tags(store, opened.keyring, now_ns) == 1
    assert len(objects(place, "tags/")) == 2
    assert (await shelf_of(place)).backup(b"there").tags == {"x": ""}
    place.flip(key)
    await set_tag(store, opened.keyring, root, "x", "")
    now_ns *= 2
    with pytest.raises(IntegrityError):
        await tidy_tags(store, opened.keyring, now_ns)
    assert len(objects(place, "tags/")) == 3
