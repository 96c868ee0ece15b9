"""Repair of packs: what can be had is readable afterwards, what is lost is stored again."""

from __future__ import annotations

import errno
from pathlib import Path

import msgspec
import pytest

from s3backfs.errors import ConfigurationError, FileSystemError, S3backfsError
from s3backfs.format.lease import Moved, MovedRange, encode_moved
from s3backfs.format.refs import Kind
from s3backfs.maintenance.checking import CheckOptions
from s3backfs.maintenance.elsewhere import BucketCopy, Elsewhere, SourceTree
from s3backfs.maintenance.mending import MendOptions, MendResult, PackRepair
from s3backfs.maintenance.prune import Prune, PruneOptions
from s3backfs.repository.moved import MovedTables
from s3backfs.repository.packing import pack_id_of
from s3backfs.repository.tables import load_pack_table
from s3backfs.store.memory import MemoryStore
from tests.crash.machine import MIB

from .place import Place, content, large, new_place

pytestmark = pytest.mark.anyio

OPTIONS = MendOptions(wait_s=0)


async def _rows(place: Place, key: str) -> list[tuple[int, bool]]:
    """Offsets of the frames of a pack, and whether they are bundles."""
    pack_id = pack_id_of(key)
    assert pack_id is not None
    kind = Kind.DATA if key.startswith("data/") else Kind.META
    length = len(place.store.objects[key])
    found = await load_pack_table(place.store, place.opened.keyring, kind, pack_id, length)
    return [(row.offset, bool(row.slices)) for row in found.rows]


async def _mend(
    place: Place, key: str, *, source: Path | None = None, copy: MemoryStore | None = None,
    options: MendOptions = OPTIONS,
) -> MendResult:  # fmt: skip
    async with place.repository() as repository:
        elsewhere: list[Elsewhere] = []
        if source is not None:
            elsewhere.append(SourceTree(source, repository.keyring, repository.chunk_bounds))
        if copy is not None:
            elsewhere.append(BucketCopy(copy, repository))
        mending = PackRepair(repository, options, elsewhere, lambda *_: None)
        return await mending.run([key])


async def _damaged(tmp_path: Path, *, is_bundle: bool) -> tuple[Place, str]:
    """A place with one damaged frame: the bundle of the small files, or a chunk of the large."""
    place = await new_place(tmp_path)
    key = place.key("data/", b"hit")
    rows = await _rows(place, key)
    offset = next(offset for offset, holds_slices in rows if holds_slices == is_bundle)
    place.flip(key, offset + 50)
    return place, key


async def _small(place: Place, name: bytes = b"hit", number: int = 1) -> bytes:
    async with place.machine(is_read_only=True) as machine:
        return await machine.read(name, b"dir", b"small%d" % number)


async def _large(place: Place, name: bytes = b"hit") -> bytes:
    async with place.machine(is_read_only=True) as machine:
        return await machine.read(name, b"large")


async def test_what_is_readable_is_salvaged(tmp_path: Path) -> None:
    """The pack goes; sound frames of it read, the damaged one gives an error, others are whole."""
    place, key = await _damaged(tmp_path, is_bundle=False)
    result = await _mend(place, key)
    assert (result.lost, result.recreated, result.deleted_packs) == (1, 0, [key])
    assert result.salvaged > 1
    assert key not in place.store.objects
    assert [await _small(place, b"hit", number) for number in range(3)] == [
        content(b"hit", number) for number in range(3)
    ]
    async with place.machine(is_read_only=True) as machine:
        with pytest.raises(S3backfsError):
            await machine.read(b"hit", b"large")
    assert await _large(place, b"spared") == large(b"spared")


@pytest.mark.parametrize("is_bundle", [True, False])
async def test_lost_contents_come_from_the_source(tmp_path: Path, is_bundle: bool) -> None:
    """Files of the source give lost slices and chunks back, and check is sound afterwards."""
    place, key = await _damaged(tmp_path, is_bundle=is_bundle)
    source = tmp_path / "source" / "elsewhere"
    source.mkdir(parents=True)
    (source / "another-name").write_bytes(large(b"hit"))
    for number in range(3):
        (source / str(number)).write_bytes(content(b"hit", number))
    (source / "pipe").symlink_to("nowhere")
    result = await _mend(place, key, source=tmp_path / "source")
    assert (result.lost, result.recreated) == (0, 3 if is_bundle else 1)
    assert (await _small(place), await _large(place)) == (content(b"hit", 1), large(b"hit"))
    assert (await place.check()).damages == []


@pytest.mark.parametrize("how", ["flipped", "table", "cut", "gone"])
@pytest.mark.parametrize("prefix", ["data/", "meta/"])
async def test_a_copy_of_the_bucket_gives_all_back(tmp_path: Path, prefix: str, how: str) -> None:
    """However a pack was damaged, a copy of the bucket makes everything sound again."""
    place = await new_place(tmp_path)
    copy = MemoryStore()
    for name, data in place.store.objects.items():
        await copy.put(name, data)
    key = place.key(prefix, b"hit")
    rows = await _rows(place, key)
    if how == "flipped":
        place.flip(key, rows[-1][0] + 50)
    elif how == "table":
        place.flip(key, len(place.store.objects[key]) - 30)
    elif how == "cut":
        place.cut(key)
    else:
        place.remove(key)
    result = await _mend(place, key, copy=copy)
    assert (result.lost, result.kept_packs) == (0, [])
    assert (await _small(place), await _large(place)) == (content(b"hit", 1), large(b"hit"))
    assert (await place.check()).damages == []


async def test_a_later_copy_completes_an_earlier_repair(tmp_path: Path) -> None:
    """What the first repair has salvaged stays known when a second one finds the rest."""
    place, key = await _damaged(tmp_path, is_bundle=False)
    assert (await _mend(place, key)).lost == 1
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "large").write_bytes(large(b"hit"))
    assert (await _mend(place, key, source=tmp_path / "source")).lost == 0
    assert (await _small(place), await _large(place)) == (content(b"hit", 1), large(b"hit"))


async def test_a_pack_that_must_stay_is_read_around(tmp_path: Path) -> None:
    """With deletion forbidden, re-created contents are read, and writers shun the pack."""
    place, key = await _damaged(tmp_path, is_bundle=False)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "large").write_bytes(large(b"hit"))
    result = await _mend(
        place, key, source=tmp_path / "source", options=MendOptions(no_delete=True)
    )
    assert (result.kept_packs, result.deleted_packs) == ([key], [])
    assert await _large(place) == large(b"hit")
    assert any(name.startswith("prune/") for name in place.store.objects)


@pytest.mark.parametrize("no_delete", [False, True])
async def test_what_is_lost_is_stored_again(tmp_path: Path, no_delete: bool) -> None:
    """The next backup of contents that are beyond repair can be read."""
    place, key = await _damaged(tmp_path, is_bundle=False)
    assert (await _mend(place, key, options=MendOptions(wait_s=0, no_delete=no_delete))).lost == 1
    async with place.machine() as machine:
        await machine.make_backup(b"next")
        await machine.write_file(b"next", b"large", data=large(b"hit"))
        await machine.sync(b"next")
        await machine.repository.end_lease()
    assert await _large(place, b"next") == large(b"hit")


async def _store_again(place: Place, name: bytes, source: bytes = b"hit") -> None:
    """Store contents of a backup in a new one."""
    async with place.machine() as machine:
        await machine.make_backup(name)
        await machine.make(name, b"dir", mode=0o40755)
        for number in range(3):
            data = content(source, number)
            await machine.write_file(name, b"dir", b"small%d" % number, data=data)
        await machine.write_file(name, b"large", data=large(source))
        await machine.catalogue.seal(machine.catalogue.backups[name])
        await machine.repository.end_lease()


@pytest.mark.parametrize("is_mended_before", [False, True])
@pytest.mark.parametrize("is_bundle", [False, True])
async def test_what_is_stored_again_serves_old_backups(
    tmp_path: Path, is_bundle: bool, is_mended_before: bool
) -> None:
    """A repair finds what a later backup has stored again, whether the pack is there or gone."""
    place, key = await _damaged(tmp_path, is_bundle=is_bundle)
    if is_mended_before:
        lost = (await _mend(place, key)).lost
    else:
        lost = 3 if is_bundle else 1
        place.remove(key)
    assert (await place.check()).notes == []
    await _store_again(place, b"next")
    checked = await place.check()
    assert checked.damages
    told = [note for note in checked.notes if f"s3backfs repair pack {key} URL" in note]
    assert len(told) == 1
    assert told[0].startswith(f"{lost} of {lost} " if is_mended_before else "6 of 6 ")
    result = await _mend(place, key)
    assert (result.lost, result.recreated >= lost > 0) == (0, True)
    assert (result.deleted_packs, result.gone_packs, result.kept_packs) == ([], [key], [])
    assert (await _small(place), await _large(place)) == (content(b"hit", 1), large(b"hit"))
    assert (await place.check()).damages == []


async def test_a_pack_that_nothing_knows_is_refused(tmp_path: Path) -> None:
    """A key of no pack changes nothing, and says so."""
    place = await new_place(tmp_path)
    async with place.repository() as repository:
        mending = PackRepair(repository, OPTIONS, [], lambda *_: None)
        with pytest.raises(ConfigurationError, match="there is no such pack"):
            await mending.run(["data/" + "0" * 32])
    assert not [key for key in place.store.objects if key.startswith(("moved/", "prune/"))]


async def _mend_anew(place: Place, key: str) -> set[str]:
    """Repair a pack that stays, undo the condemning, and return the data packs that came."""
    before = set(place.store.objects)
    await _mend(place, key, options=MendOptions(wait_s=0, no_delete=True))
    for name in _sets(place):
        place.remove(name)
    return {name for name in set(place.store.objects) - before if name.startswith("data/")}


async def test_tables_do_not_lead_round_in_a_circle(tmp_path: Path) -> None:
    """A pack whose copies were damaged, and led back to it, is salvaged for good.

    A table that was left by a run that ended early leads from the pack to a copy that is gone by
    now. What can be read goes to new places all the same, and a circle would be reported.
    """
    place, key = await _damaged(tmp_path, is_bundle=False)
    (copy,) = await _mend_anew(place, key)
    flawed = place.store.objects[key]
    place.flip(copy, (await _rows(place, copy))[0][0] + 50)
    assert (await _mend(place, copy)).deleted_packs == [copy]
    place.store.damage(key, flawed)
    assert (await _mend(place, key)).deleted_packs == [key]
    assert [await _small(place, b"hit", number) for number in range(3)] == [
        content(b"hit", number) for number in range(3)
    ]
    await _prune(place)
    lost = {damage.offset for damage in (await place.check()).damages}
    assert len(lost) == 1


async def test_a_circle_of_tables_is_a_loss(tmp_path: Path) -> None:
    """Check says what is lost where tables of packs that are gone lead to each other."""
    place = await new_place(tmp_path)
    key = place.key("data/", b"hit")
    (copy,) = await _mend_anew_sound(place, key)
    assert (await place.check()).damages == []
    place.remove(key)
    assert (await place.check()).damages == []
    await _lead_back(place, key, copy)
    place.remove(copy)
    assert (await place.check(CheckOptions())).affected
    await _prune(place)


async def _mend_anew_sound(place: Place, key: str) -> set[str]:
    """Let all of a sound pack be copied: its table is damaged while it is repaired."""
    sound = place.store.objects[key]
    place.flip(key, len(sound) - 30)
    copies = await _mend_anew(place, key)
    place.store.damage(key, sound)
    return copies


async def _lead_back(place: Place, key: str, copy: str) -> None:
    """Store a table of the copy that leads to where its contents came from."""
    keyring = place.opened.keyring
    pack_id, copy_id = pack_id_of(key), pack_id_of(copy)
    assert pack_id is not None
    assert copy_id is not None
    table = await MovedTables(place.store, keyring).load(pack_id)
    assert table is not None
    ranges = [
        MovedRange(
            part.target.pack_offset,
            part.target.slice_offset,
            part.length,
            msgspec.structs.replace(
                part.target,
                pack_id=pack_id,
                pack_offset=part.pack_offset,
                slice_offset=part.offset,
            ),
        )
        for part in table.ranges
    ]
    ranges.sort(key=lambda part: (part.pack_offset, part.offset))
    back = Moved(repository_id=keyring.repository_id, pack_id=copy_id, ranges=tuple(ranges))
    name = f"moved/{copy_id.hex()}"
    await place.store.put(name, encode_moved(keyring, name, back))


async def _prune(place: Place) -> None:
    options = PruneOptions(grace_s=0, max_unused=1.0)
    async with place.repository() as repository:
        await Prune(repository, options, MIB, lambda *_: None).run()


@pytest.mark.parametrize("how", ["kept", "deleted", "gone"])
async def test_a_prune_does_not_let_the_loss_be_referred_to(tmp_path: Path, how: str) -> None:
    """After a repair and two prunes, contents are stored anew, and no link leads to the loss."""
    place, key = await _damaged(tmp_path, is_bundle=False)
    if how == "gone":
        place.remove(key)
    assert (await _mend(place, key, options=MendOptions(wait_s=0, no_delete=how == "kept"))).lost
    await _prune(place)
    await _prune(place)
    async with place.machine() as machine:
        await machine.make_backup(b"next")
        with pytest.raises(FileSystemError) as refused:
            await machine.link((b"hit", b"large"), (b"next", b"linked"))
        assert refused.value.errno_code == errno.EXDEV
        await machine.write_file(b"next", b"large", data=large(b"hit"))
        await machine.sync(b"next")
        await machine.repository.end_lease()
    assert await _large(place, b"next") == large(b"hit")


async def test_the_set_goes_with_the_last_reference_to_the_loss(tmp_path: Path) -> None:
    """Sets of several repairs become one, and that goes when the backup is gone."""
    place, key = await _damaged(tmp_path, is_bundle=False)
    for _ in range(3):
        await _mend(place, key, options=MendOptions(wait_s=0, no_delete=True))
    assert len(_sets(place)) == 3
    await _prune(place)
    assert len(_sets(place)) == 1
    async with place.machine() as machine:
        await machine.catalogue.forget(machine.catalogue.backups[b"hit"])
        await machine.repository.end_lease()
    await _prune(place)
    assert not _sets(place)
    assert key not in place.store.objects
    assert (await place.check()).damages == []


def _sets(place: Place) -> list[str]:
    return [name for name in place.store.objects if name.startswith("prune/")]


async def test_damage_that_was_met_is_not_deduplicated_against(tmp_path: Path) -> None:
    """A mount that has met a damaged frame stores its content anew, though the pack is there."""
    place, _ = await _damaged(tmp_path, is_bundle=False)
    async with place.machine() as machine:
        with pytest.raises(S3backfsError):
            await machine.read(b"hit", b"large")
        await machine.make_backup(b"next")
        await machine.write_file(b"next", b"large", data=large(b"hit"))
        await machine.sync(b"next")
        await machine.repository.end_lease()
    assert await _large(place, b"next") == large(b"hit")


async def test_a_sound_pack_stays(tmp_path: Path) -> None:
    """A pack without damage is left as it is."""
    place = await new_place(tmp_path)
    key = place.key("data/", b"hit")
    before = set(place.store.objects)
    assert (await _mend(place, key)).sound_packs == [key]
    packs = {name for name in place.store.objects if name.startswith(("data/", "moved/", "prune/"))}
    assert packs == {name for name in before if name.startswith("data/")}


async def test_writers_that_have_not_agreed_keep_the_pack(tmp_path: Path) -> None:
    """While another writer lives that has not read the set, the damaged pack stays condemned."""
    place, key = await _damaged(tmp_path, is_bundle=False)
    async with place.machine() as machine:
        result = await _mend(place, key)
        assert (result.kept_packs, len(result.waiting_for)) == ([key], 1)
        await machine.repository.end_lease()
    assert (await _mend(place, key)).deleted_packs == [key]
