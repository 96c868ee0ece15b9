"""Repair of a backup: what can be read of its manifest makes a new backup."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3backfs.format.root import Root
from s3backfs.maintenance.prune import Prune, PruneOptions
from s3backfs.maintenance.rebuilding import Rebuild, RebuildResult
from s3backfs.maintenance.shelf import load_shelf
from s3backfs.repository.packing import pack_id_of
from tests.crash.machine import MIB

from .place import Place, content, new_place

pytestmark = pytest.mark.anyio


async def _rebuild(place: Place, name: bytes = b"hit") -> tuple[RebuildResult, Root | None]:
    async with place.repository() as repository:
        shelf = await load_shelf(repository.store, repository.keyring)
        result = await Rebuild(repository, lambda *_: None).run(shelf.backup(name).held)
        found = await load_shelf(repository.store, repository.keyring)
        roots = [each.root for each in found.sealed if each.name == name + b"-repaired"]
    return result, roots[0] if roots else None


async def test_readable_names_make_a_new_backup(tmp_path: Path) -> None:
    """The new backup has what can be read, says that it is incomplete, and all of it reads."""
    place = await new_place(tmp_path)
    key = place.key("meta/", b"hit")
    before = {name: place.store.objects[name] for name in place.keys[b"hit"]}
    place.flip(key, 100)
    result, root = await _rebuild(place)
    assert root is not None
    assert result.name == "hit-repaired"
    assert result.lost_names > 0
    assert result.lost
    assert root.incomplete == (pack_id_of(key),)
    assert root.statistics.entries == result.entries > 0
    for name in before:
        if name.startswith("backups/"):
            assert place.store.objects[name] == before[name]
    backups = {each.backup for each in (await place.check()).affected}
    assert backups == {b"hit"}


async def test_lost_directories_are_made_anew(tmp_path: Path) -> None:
    """Files below a directory whose own entry is lost can be read in the new backup."""
    place = await new_place(tmp_path)
    key = place.key("meta/", b"hit")
    place.flip(key, 100)
    result, _ = await _rebuild(place)
    assert result.made_directories > 0
    async with place.machine(is_read_only=True) as machine:
        assert await machine.read(b"hit-repaired", b"dir", b"small1") == content(b"hit", 1)


async def test_lost_contents_are_named(tmp_path: Path) -> None:
    """Files whose pack is gone keep their names, are reported, and the pack is named as lost."""
    place = await new_place(tmp_path)
    key = place.key("data/", b"hit")
    place.remove(key)
    result, root = await _rebuild(place)
    assert root is not None
    assert (result.lost_names, root.incomplete) == (0, (pack_id_of(key),))
    assert "large" in result.lost
    assert result.entries == root.statistics.entries


async def test_nothing_is_made_of_a_sound_backup(tmp_path: Path) -> None:
    """A backup without loss is not copied."""
    place = await new_place(tmp_path)
    before = {name for name in place.store.objects if not name.startswith("leases/")}
    result, root = await _rebuild(place)
    assert (result.name, result.lost, root) == ("", [], None)
    assert {name for name in place.store.objects if not name.startswith("leases/")} == before


async def test_prune_goes_on_after_a_repair(tmp_path: Path) -> None:
    """With the damaged backup left out, prune runs, and the repaired one still reads."""
    place = await new_place(tmp_path)
    place.flip(place.key("meta/", b"hit"), 100)
    await _rebuild(place)
    async with place.repository() as repository:
        options = PruneOptions(grace_s=0, max_unused=0, exceptions=(b"hit",))
        await Prune(repository, options, 4 * MIB, lambda *_: None).run()
    async with place.machine(is_read_only=True) as machine:
        assert await machine.read(b"hit-repaired", b"dir", b"small1") == content(b"hit", 1)
