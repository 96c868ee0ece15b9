"""Check: it finds just the damage that there is, and says who is hit by it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from s3backfs.errors import ConfigurationError
from s3backfs.maintenance import missing
from s3backfs.maintenance.checking import CheckOptions
from s3backfs.maintenance.findings import What
from s3backfs.maintenance.left_behind import LONG_GONE_S
from s3backfs.maintenance.leftover_removals import tidy_removals
from s3backfs.maintenance.prune import Prune, PruneOptions
from s3backfs.maintenance.trash import unforget
from s3backfs.maintenance.verified import VERIFIED_PREFIX
from s3backfs.store.base import Fetched
from s3backfs.store.memory import MemoryStore
from tests.crash.machine import MIB

from .place import Place, new_place

pytestmark = pytest.mark.anyio

STRUCTURE = CheckOptions()


async def test_a_sound_repository(tmp_path: Path) -> None:
    """Nothing is found where nothing is wrong, in sealed and in open backups; all is read."""
    place = await new_place(tmp_path)
    await place.fill(b"open", is_sealed=False)
    result = await place.check()
    assert (result.damages, result.affected) == ([], [])
    assert (result.roots, result.read_packs) == (3, result.packs)
    assert result.nodes > 3


async def test_a_lost_index(tmp_path: Path) -> None:
    """Without index segments all is sound, and a note says that repair index would help."""
    place = await new_place(tmp_path)
    assert (await place.check(STRUCTURE)).notes == []
    for key in [key for key in place.store.objects if key.startswith("index/")]:
        place.remove(key)
    result = await place.check(STRUCTURE)
    assert result.damages == []
    [note] = result.notes
    assert f"{result.packs} of {result.packs} packs are not in the index" in note
    assert "s3backfs repair index URL" in note


async def test_packs_of_an_open_backup_are_not_indexed_yet(tmp_path: Path) -> None:
    """What an open backup has stored and no segment names is nothing to speak of."""
    place = await new_place(tmp_path)
    await place.fill(b"open", is_sealed=False)
    assert (await place.check(STRUCTURE)).notes == []


async def test_a_flipped_bit_in_content(tmp_path: Path) -> None:
    """Reading contents finds it: pack, offset, backup and path; structure alone does not."""
    place = await new_place(tmp_path)
    key = place.key("data/", b"hit")
    place.flip(key, len(place.store.objects[key]) // 2)
    assert (await place.check(STRUCTURE)).damages == []
    result = await place.check()
    assert [(damage.what, damage.key) for damage in result.damages] == [(What.FRAME, key)]
    assert result.damages[0].pack_id.hex() in result.damages[0].remedy
    assert [(each.backup, each.paths) for each in result.affected] == [(b"hit", ["large"])]


async def test_a_cut_pack(tmp_path: Path) -> None:
    """A pack that is too short is found by listing alone, with what is lost by it."""
    place = await new_place(tmp_path)
    key = place.key("data/", b"hit")
    place.cut(key)
    result = await place.check(STRUCTURE)
    assert {damage.key for damage in result.damages} == {key}
    assert [each.backup for each in result.affected] == [b"hit"]


@pytest.mark.parametrize("prefix", ["data/", "meta/"])
async def test_a_pack_that_is_gone(prefix: str, tmp_path: Path) -> None:
    """It is found by listing, and only the backup that needs it is affected."""
    place = await new_place(tmp_path)
    key = place.key(prefix, b"hit")
    place.remove(key)
    result = await place.check(STRUCTURE)
    assert {damage.key for damage in result.damages} == {key}
    assert {each.backup for each in result.affected} == {b"hit"}
    files = 4 if prefix == "data/" else 1
    assert result.affected[0].paths_count >= files


async def test_all_backups_that_share_a_loss_are_named(tmp_path: Path) -> None:
    """A subtree with a loss is entered again for each backup that leads to it."""
    place = await new_place(tmp_path)
    key = place.key("backups/", b"hit")
    await place.store.copy(key, f"trash/1/{key.rpartition('/')[2]}")
    place.remove(place.key("data/", b"hit"))
    first, second = (await place.check(STRUCTURE)).affected
    assert {first.key.partition("/")[0], second.key.partition("/")[0]} == {"backups", "trash"}
    assert first.paths == second.paths != []


async def test_a_damaged_node(tmp_path: Path) -> None:
    """The names below it are given as a range; the rest of the backup is looked at all the same."""
    place = await new_place(tmp_path)
    key = place.key("meta/", b"hit")
    place.flip(key)
    result = await place.check(STRUCTURE)
    assert [(damage.what, damage.key) for damage in result.damages] == [(What.NODE, key)]
    (affected,) = result.affected
    assert affected.backup == b"hit"
    assert "names" in affected.paths[0]


@pytest.mark.parametrize(
    ("prefix", "what"), [("backups/", What.ROOT), ("index/", What.INDEX), ("leases/", What.LEASE)]
)
async def test_a_damaged_small_object(prefix: str, what: What, tmp_path: Path) -> None:
    """Roots, segments and leases are opened, and one that does not open is named."""
    place = await new_place(tmp_path)
    if prefix == "leases/":
        async with place.machine():
            key = max(key for key in place.store.objects if key.endswith("/lease"))
    else:
        key = place.key(prefix, b"hit")
    place.flip(key, len(place.store.objects[key]) - 1)
    result = await place.check(STRUCTURE)
    assert [(damage.what, damage.key) for damage in result.damages] == [(what, key)]


async def test_a_root_that_was_removed(tmp_path: Path) -> None:
    """The newest sealed backup says which others were there: one that is gone is reported."""
    place = await new_place(tmp_path)
    key = place.key("backups/", b"spared")
    place.remove(key)
    result = await place.check(STRUCTURE)
    assert [(damage.what, damage.key) for damage in result.damages] == [(What.BACKUP, key)]


async def test_a_root_that_was_replaced(tmp_path: Path) -> None:
    """An older sealed root in the place of the one that was seen is reported."""
    place = await new_place(tmp_path)
    key = place.key("backups/", b"spared")
    old = place.store.objects[key]
    async with place.machine() as machine:
        backup = machine.catalogue.backups[b"spared"]
        await machine.catalogue.reopen(backup)
        await machine.catalogue.seal(backup)
    await place.fill(b"newest")
    assert (await place.check(STRUCTURE)).damages == []
    place.store.damage(key, old)
    result = await place.check(STRUCTURE)
    assert [(damage.what, damage.key) for damage in result.damages] == [(What.BACKUP, key)]


async def test_what_was_forgotten_is_no_damage(tmp_path: Path) -> None:
    """A backup in the trash is not missing."""
    place = await new_place(tmp_path)
    async with place.machine() as machine:
        await machine.catalogue.forget(machine.catalogue.backups[b"spared"])
    assert (await place.check(STRUCTURE)).damages == []


async def _trash_keys(place: Place) -> list[str]:
    return [key for key in place.store.objects if key.startswith("trash/")]


async def _forget(place: Place, name: bytes, *, and_empty: bool = True) -> None:
    """Forget a backup, and let a prune empty the trash."""
    async with place.machine() as machine:
        await machine.catalogue.forget(machine.catalogue.backups[name])
        await machine.repository.end_lease()
    if and_empty:
        async with place.repository() as repository:
            options = PruneOptions(grace_s=0)
            await Prune(repository, options, MIB, lambda *_: None).run()
        assert not await _trash_keys(place)


async def test_what_was_forgotten_and_pruned_is_no_damage(tmp_path: Path) -> None:
    """A removal on purpose leaves a note; without it the backup is missing."""
    place = await new_place(tmp_path)
    await _forget(place, b"spared")
    assert (await place.check(STRUCTURE)).damages == []
    (note,) = [key for key in place.store.objects if key.startswith("removed/")]
    place.remove(note)
    (damage,) = (await place.check(STRUCTURE)).damages
    assert damage.what == What.BACKUP


async def test_a_root_that_was_moved_to_the_trash_without_the_key(tmp_path: Path) -> None:
    """Who only moves objects cannot make a backup look forgotten, before and after a prune."""
    place = await new_place(tmp_path)
    key = place.key("backups/", b"spared")
    await place.store.copy(key, f"trash/1/{key.rpartition('/')[2]}")
    place.remove(key)
    (damage,) = (await place.check(STRUCTURE)).damages
    assert (damage.what, damage.key) == (What.BACKUP, key)
    assert "trash" in damage.message
    async with place.repository() as repository:
        await Prune(repository, PruneOptions(grace_s=0), MIB, lambda *_: None).run()
    (damage,) = (await place.check(STRUCTURE)).damages
    assert (damage.what, damage.key) == (What.BACKUP, key)


async def test_an_old_note_explains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A note from before a backup came back is not believed after the next seal."""
    monkeypatch.setattr(missing, "SLACK_NS", 0)
    place = await new_place(tmp_path)
    key = place.key("backups/", b"spared")
    await _forget(place, b"spared", and_empty=False)
    (note,) = [key for key in place.store.objects if key.startswith("removed/")]
    kept = place.store.objects[note]
    async with place.repository() as repository:
        assert (await unforget(repository, [b"spared"], lambda *_: None)).back == [b"spared"]
    assert note not in place.store.objects
    await place.fill(b"newest")
    await place.store.put(note, kept)
    assert (await place.check(STRUCTURE)).damages == []
    place.remove(key)
    (damage,) = (await place.check(STRUCTURE)).damages
    assert (damage.what, damage.key) == (What.BACKUP, key)


async def test_who_seals_while_another_forgets(tmp_path: Path) -> None:
    """A backup that was forgotten just before the newest seal, and was still seen, is no loss."""
    place = await new_place(tmp_path)
    async with place.machine() as sealing:
        await sealing.make_backup(b"newest")
        seen = sealing.catalogue._seen()
        await _forget(place, b"spared", and_empty=False)
        sealing.catalogue._seen = lambda: seen  # type: ignore[method-assign]
        await sealing.catalogue.seal(sealing.catalogue.backups[b"newest"])
        await sealing.repository.end_lease()
    for key in await _trash_keys(place):
        place.remove(key)
    assert (await place.check(STRUCTURE)).damages == []


@pytest.mark.parametrize("how", ["renamed", "reopened", "replaced"])
async def test_other_changes_on_purpose_are_no_damage(tmp_path: Path, how: str) -> None:
    """A backup that has another name now, or is open again, or made way for another, is noted."""
    place = await new_place(tmp_path)
    async with place.machine() as machine:
        backup = machine.catalogue.backups[b"spared"]
        if how == "reopened":
            await machine.catalogue.reopen(backup)
            await machine.catalogue.drop(backup)
        else:
            await machine.catalogue.rename(backup, b"renamed")
        if how == "replaced":
            await machine.catalogue.rename(machine.catalogue.backups[b"hit"], b"spared")
        await machine.repository.end_lease()
    assert (await place.check(STRUCTURE)).damages == []


async def test_notes_go_when_nothing_names_what_they_explain(tmp_path: Path) -> None:
    """A note stays while a sealed backup names the root, and goes a week later."""
    place = await new_place(tmp_path)
    await _forget(place, b"spared")
    keyring, later_ns = place.opened.keyring, time.time_ns() + int((LONG_GONE_S + 60) * 1e9)
    assert await tidy_removals(place.store, keyring, later_ns) == 0
    await place.fill(b"newest")
    await _forget(place, b"hit")
    assert await tidy_removals(place.store, keyring, time.time_ns()) == 0
    assert await tidy_removals(place.store, keyring, later_ns) == 1
    assert (await place.check(STRUCTURE)).damages == []


async def test_names_limit_what_is_looked_at(tmp_path: Path) -> None:
    """A check of some backups finds nothing wrong with others."""
    place = await new_place(tmp_path)
    place.remove(place.key("data/", b"hit"))
    assert (await place.check(CheckOptions(names=(b"spared",), read_share=1))).damages == []
    assert (await place.check(CheckOptions(names=(b"hit",)))).damages


async def test_names_of_no_backup_are_refused(tmp_path: Path) -> None:
    """A name that is unknown, or only in the trash, is told; damaged and open backups have one."""
    place = await new_place(tmp_path)
    await place.fill(b"open", is_sealed=False)
    await _forget(place, b"hit", and_empty=False)
    for name in (b"nonesuch", b"hit"):
        with pytest.raises(ExceptionGroup) as caught:
            await place.check(CheckOptions(names=(b"spared", name)))
        assert caught.group_contains(ConfigurationError, match="there is no backup")
    assert (await place.check(CheckOptions(names=(b"open", b"spared")))).roots == 2
    place.flip(place.key("backups/", b"spared"))
    assert (await place.check(CheckOptions(names=(b"spared",)))).damages


async def test_samples_cover_everything(tmp_path: Path) -> None:
    """Each sample goes on with what was not read for longest, until nothing is unproven."""
    place = await new_place(tmp_path)
    packs = sum(key.startswith(("data/", "meta/")) for key in place.store.objects)
    sample = CheckOptions(read_max_bytes=1, since_s=3600)
    counts = [(await place.check(sample)).read_packs for _ in range(packs + 1)]
    assert counts == [1] * packs + [0]
    assert sum(key.startswith(VERIFIED_PREFIX) for key in place.store.objects) == 1


async def test_what_is_damaged_is_not_proven(tmp_path: Path) -> None:
    """A pack that was found damaged is read again by the next sample."""
    place = await new_place(tmp_path)
    place.flip(place.key("data/", b"hit"), 5000)
    again = CheckOptions(read_share=1, since_s=3600)
    first, second = await place.check(again), await place.check(again)
    assert first.damages == second.damages != []
    assert second.read_packs == 1


async def test_a_damaged_state_costs_time_only(tmp_path: Path) -> None:
    """What was proven is then not known, and is read again."""
    place = await new_place(tmp_path)
    await place.check()
    place.flip(next(key for key in place.store.objects if key.startswith(VERIFIED_PREFIX)))
    result = await place.check(CheckOptions(read_share=1, since_s=3600))
    assert result.damages == []
    assert result.read_packs == result.packs


class Watched(MemoryStore):
    """A store that counts how many roots are being read at a time."""

    now_count = 0
    most_count = 0

    async def get(self, key: str, *, offset: int = 0, length: int | None = None) -> Fetched:
        if not key.startswith("backups/"):
            return await super().get(key, offset=offset, length=length)
        self.now_count += 1
        self.most_count = max(self.most_count, self.now_count)
        try:
            return await super().get(key, offset=offset, length=length)
        finally:
            self.now_count -= 1


async def test_roots_are_read_side_by_side(tmp_path: Path) -> None:
    """Roots do not wait for each other, and what is told of them has an order all the same."""
    place = await new_place(tmp_path)
    for name in (b"third", b"fourth"):
        await place.fill(name)
    watched = Watched()
    watched._objects = place.store._objects
    place.store = watched
    keys = sorted(key for key in watched.objects if key.startswith("backups/"))
    for key in keys[:3]:
        place.flip(key, 20)
    result = await place.check(STRUCTURE)
    assert watched.most_count == 4
    assert [each.key for each in result.damages if each.what == What.ROOT] == keys[:3]
