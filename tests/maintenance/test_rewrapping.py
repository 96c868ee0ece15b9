"""`prune --rewrap`: nothing that is needed stays under the key of an older epoch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from s3backfs.format.keys import new_master
from s3backfs.format.objects import read_header
from s3backfs.maintenance.epochs import EpochUse, measure_epochs
from s3backfs.maintenance.prune import Prune, PruneOptions, PruneResult
from s3backfs.maintenance.survey import list_ids
from s3backfs.repository.moved import MovedTables
from s3backfs.store.around import WrappedStore
from s3backfs.store.memory import MemoryStore
from tests.crash.machine import MIB, Picture
from tests.store.recording import Recording

from .place import Place, large, new_place

pytestmark = pytest.mark.anyio

REWRAP = PruneOptions(grace_s=0, max_unused=1.0, rewrap=True)


def rotate(place: Place) -> None:
    """Begin a new epoch for every machine that comes now."""
    keyring = place.opened.keyring.with_next(new_master())
    place.opened = replace(place.opened, keyring=keyring)


async def prune(place: Place, options: PruneOptions = REWRAP) -> PruneResult:
    async with place.repository() as repository:
        return await Prune(repository, options, 64 * MIB, lambda *_: None).run()


async def pictures(place: Place) -> dict[bytes, Picture]:
    """All that every backup holds."""
    async with place.machine(is_read_only=True) as machine:
        return {name: await machine.picture(name) for name in await machine.names()}


async def epochs(place: Place) -> dict[int, int]:
    """The packs of every epoch."""
    uses = await measure_epochs(place.store, place.opened.keyring)
    return {use.epoch: use.packs for use in uses if use.packs}


async def test_everything_goes_to_the_new_key(tmp_path: Path) -> None:
    """After a rewrap packs and index are under the newest key alone, and all reads as before."""
    place = await new_place(tmp_path)
    before = await pictures(place)
    rotate(place)
    await place.fill(b"between")
    rotate(place)
    assert set(await epochs(place)) == {0, 1}
    result = await prune(place)
    assert result.rewrapped_packs == result.older_packs == result.deleted_packs > 3
    assert set(await epochs(place)) == {2}
    segments = [data for key, data in place.store.objects.items() if key.startswith("index/")]
    assert {read_header(data).epoch for data in segments} == {2}
    after = await pictures(place)
    assert {name: after[name] for name in before} == before
    again = await prune(place)
    assert (again.older_packs, again.copied_packs, again.deleted_packs) == (0, 0, 0)


async def test_a_dry_run_says_what_would_be_done(tmp_path: Path) -> None:
    """A dry run changes nothing and counts what a run then rewrites; without `rewrap` none is."""
    place = await new_place(tmp_path)
    rotate(place)
    before = {key for key in place.store.objects if not key.startswith("leases/")}
    dry = await prune(place, replace(REWRAP, is_dry_run=True))
    assert {key for key in place.store.objects if not key.startswith("leases/")} == before
    other = await prune(place, replace(REWRAP, rewrap=False))
    assert (other.older_packs, other.rewrapped_packs) == (dry.older_packs, 0)
    done = await prune(place)
    assert (dry.older_packs, dry.older_bytes) == (done.older_packs, done.older_bytes)
    assert dry.rewrapped_packs == done.rewrapped_packs > 0


async def test_young_packs_are_told(tmp_path: Path) -> None:
    """Packs that are younger than the grace stay under the old key, and are counted as such."""
    place = await new_place(tmp_path)
    rotate(place)
    result = await prune(place, replace(REWRAP, grace_s=86400))
    assert (result.rewrapped_packs, result.young_older_packs) == (0, result.older_packs)
    assert result.older_packs > 0
    assert (await prune(place)).young_older_packs == 0


async def test_bounded_runs_come_to_an_end(tmp_path: Path) -> None:
    """With a bound on bytes each run takes other packs, also while those of the last are kept."""
    place = await new_place(tmp_path)
    before = await pictures(place)
    rotate(place)
    # Condemned, but not deleted: as during the grace.
    bounded = replace(REWRAP, max_repack_bytes=4 * MIB, no_delete=True)
    first = await prune(place, bounded)
    assert 0 < first.rewrapped_packs < first.older_packs
    second = await prune(place, bounded)
    assert 0 < second.rewrapped_packs <= second.older_packs
    assert second.older_packs == first.older_packs - first.rewrapped_packs
    await prune(place)
    assert set(await epochs(place)) == {1}
    assert await pictures(place) == before


async def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    """Wherever a run is killed all is readable; the next one copies no pack that was copied."""
    place = await new_place(tmp_path)
    before = await pictures(place)
    rotate(place)
    recording = Recording(place.store)
    killed = replace_store(place, WrappedStore(place.store, recording))
    whole = await prune(killed)
    written = [key for done in recording.log for key, _ in done.changes[:1] or [("", None)]]
    tables = [number for number, key in enumerate(written) if key.startswith("moved/")]
    assert len(tables) == whole.copied_packs
    for moment in range(0, len(recording.log) + 1, 3):
        objects = recording.prefix(moment).objects
        # The lease of the killed run has run out.
        rest = {key: data for key, data in objects.items() if not key.startswith("leases/")}
        left = replace_store(place, MemoryStore(rest))
        assert await pictures(left) == before
        done = await prune(left)
        stored = sum(ix < moment for ix in tables)
        assert done.copied_packs <= whole.copied_packs - stored
        assert set(await epochs(left)) == {1}
        assert await pictures(left) == before


def replace_store(place: Place, store: MemoryStore | WrappedStore) -> Place:
    """The same repository in another store, for machines that have never seen it."""
    place.homes_count += 1
    home = place.home / f"other{place.homes_count}"
    return Place(store, place.opened, home)  # type: ignore[arg-type]  # a policy around one


async def test_nothing_is_copied_into_packs_under_older_keys(tmp_path: Path) -> None:
    """Contents that two packs hold go to the new key, also where one of those packs waits."""
    place = await new_place(tmp_path)
    await add_twin(place)
    rotate(place)
    result = await prune(place, replace(REWRAP, max_repack_bytes=4 * MIB))
    assert 0 < result.rewrapped_packs < result.older_packs
    tables = MovedTables(place.store, place.opened.keyring)
    moved = [await tables.load(each) for each in await list_ids(place.store, "moved/")]
    assert {part.target.epoch for table in moved if table for part in table.ranges} == {1}


async def add_twin(place: Place) -> None:
    """Store once more what a backup holds, by a machine that does not see its packs."""
    hidden = {key: place.store.objects[key] for key in place.keys[b"hit"] if key[:5] == "data/"}
    for key in hidden:
        place.remove(key)
    async with place.machine() as machine:
        await machine.make_backup(b"twin")
        await machine.write_file(b"twin", b"large", data=large(b"hit"))
        await machine.sync(b"twin")
        await machine.catalogue.seal(machine.catalogue.backups[b"twin"])
        await machine.repository.end_lease()
    for key, data in hidden.items():
        await place.store.put(key, data)


async def test_counting_without_a_rotation(tmp_path: Path) -> None:
    """Before the first rotation all packs are of epoch 0, and none is read to know it."""
    place = await new_place(tmp_path)
    recording = Recording(place.store)
    uses = await measure_epochs(WrappedStore(place.store, recording), place.opened.keyring)
    packs = [key for key in place.store.objects if key.startswith(("data/", "meta/"))]
    total_bytes = sum(len(place.store.objects[key]) for key in packs)
    assert uses == (EpochUse(0, len(packs), total_bytes),)
    assert recording.count("get") == 0


async def test_what_lies_side_by_side_comes_at_once(tmp_path: Path) -> None:
    """Copying takes two requests for each pack of a few MiB: its table, and its contents."""
    place = await new_place(tmp_path)
    rotate(place)
    recording = Recording(place.store)
    done = await prune(replace_store(place, WrappedStore(place.store, recording)))
    read = [each.key for each in recording.requests if each.verb == "get"]
    packs = {key for key in read if key.startswith("data/")}
    assert done.rewrapped_packs > len(packs) == 2
    assert sum(key in packs for key in read) == 2 * len(packs)
