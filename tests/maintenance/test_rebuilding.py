"""Repair of a backup: what can be read of its manifest makes a new backup.

REBUILD_NAMES=1000000 makes a backup of so many names for the test of what a repair holds.
"""

from __future__ import annotations

import os
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.format.root import Root
from s3backfs.maintenance.prune import Prune, PruneOptions
from s3backfs.maintenance.rebuilding import Rebuild, RebuildResult
from s3backfs.maintenance.shelf import load_shelf
from s3backfs.manifest.entry import (
    Entry,
    Extra,
    extra_of,
    is_directory,
    is_link_name,
    with_extra,
)
from s3backfs.manifest.keys import (
    LINK_ID_BYTES,
    TOP_KEY,
    is_link_key,
    key_components,
    link_key,
    path_key,
)
from s3backfs.manifest.tree import Replace, Tree
from s3backfs.repository.packing import pack_id_of
from tests.crash.machine import MIB

from .place import Place, content, new_place

pytestmark = pytest.mark.anyio

MANY = int(os.environ.get("REBUILD_NAMES", "3000"))
HELD_MAX_BYTES = 64 * 1024
HOLDERS = ("rebuilding", "kept_names", "scratch", "content_loss", "keys")


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


async def _fill_linked(place: Place, count: int) -> None:
    """Make a backup of files with two names each, far from each other or side by side.

    Names are so long that they fill several leaves.
    """
    async with place.machine() as machine:
        await machine.make_backup(b"linked")
        for directory in (b"alpha", b"omega"):
            await machine.make(b"linked", directory, mode=0o40755)
        for number in range(count):
            name = b"%04d" % number + b"-" * 200
            path = (b"linked", b"omega", name + b"f") if number % 2 else (b"linked", b"alpha", name)
            await machine.make(*path, mode=0o100644)
            await machine.link(path, (b"linked", b"omega", name))
            await machine.make(b"linked", b"omega", name + b"d", mode=0o40755)
        await machine.sync(b"linked")
        await machine.catalogue.seal(machine.catalogue.backups[b"linked"])
        await machine.repository.end_lease()


async def _damage_last_leaf(place: Place) -> None:
    async with place.repository(is_read_only=True) as repository:
        shelf = await load_shelf(repository.store, repository.keyring)
        cursor = await Tree(
            shelf.backup(b"linked").root.top, RepositoryNodes(repository).entries
        ).cursor(0)
        assert cursor is not None
        await cursor.seek(b"\xff")
        assert cursor.ref is not None
        keys = (await cursor.load()).keys
        assert not any(map(is_link_key, keys))
    place.flip(f"meta/{cursor.ref.pack_id.hex()}", cursor.ref.pack_offset + 20)


async def _items(place: Place, root: Root) -> dict[bytes, Entry]:
    async with place.repository(is_read_only=True) as repository:
        tree = Tree(root.top, RepositoryNodes(repository).entries)
        return {key: entry async for key, entry in tree.items()}


def _stated(items: dict[bytes, Entry]) -> dict[bytes, int]:
    """How many names each link record and each directory says it has."""
    return {
        key: extra_of(entry).nlink or 2
        for key, entry in items.items()
        if is_link_key(key) or is_directory(entry)
    }


def _counted(items: dict[bytes, Entry]) -> dict[bytes, int]:
    """How many names of link records there are, and how many directories in each."""
    names: Counter[bytes] = Counter()
    for key, entry in items.items():
        link_id = extra_of(entry).link_id
        if is_link_name(entry) and link_id is not None:
            names[link_key(link_id)] += 1
        elif is_directory(entry):
            names[key] += 2
            if path := key_components(key):
                names[path_key(path[:-1])] += 1
    return dict(names)


async def test_counts_fit_the_names_that_are_left(tmp_path: Path) -> None:
    """Link records and directories count what is left; a file without a name is left out."""
    place = await new_place(tmp_path)
    await _fill_linked(place, 700)
    await _damage_last_leaf(place)
    result, root = await _rebuild(place, b"linked")
    assert root is not None
    assert result.lost_names > 0
    items = await _items(place, root)
    stated = _stated(items)
    assert stated == _counted(items)
    links = [count for key, count in stated.items() if is_link_key(key)]
    assert links.count(1) > 0
    assert len(links) < 700
    assert root.statistics.files == len(links)
    assert root.statistics.hard_links == sum(links) - len(links)
    assert root.statistics.directories == len(stated) - len(links)


def _many_rows() -> Iterator[tuple[bytes, Entry]]:
    """Give directories in one directory, with a link record for each, and a name without any."""
    directory, file = Entry(0o40755, 0, 0, 0, 0), Entry(0o100644, 0, 0, 0, 0)
    yield TOP_KEY, directory
    for number in range(MANY):
        link_id = number.to_bytes(LINK_ID_BYTES, "big")
        yield link_key(link_id), with_extra(file, Extra(link_id=link_id, nlink=1))
    yield path_key((b"lost",)), with_extra(file, Extra(link_id=b"l" * LINK_ID_BYTES))
    for number in range(MANY):
        yield path_key((b"top", b"%09d" % number)), directory


async def test_memory_does_not_grow_with_names(tmp_path: Path) -> None:
    """What a repair itself holds when all names were read has a bound."""
    place = await new_place(tmp_path)
    held: list[int] = []

    def report(text: str, *_: object) -> None:
        if text == "counting names":
            own = [tracemalloc.Filter(True, f"*/{name}.py") for name in HOLDERS]
            taken = tracemalloc.take_snapshot().filter_traces(own)
            held.append(sum(trace.size for trace in taken.traces))

    async with place.repository() as repository:
        tree = Tree(None, RepositoryNodes(repository).entries)
        top = await tree.update([Replace(b"", None, _many_rows())])
        shelf = await load_shelf(repository.store, repository.keyring)
        old = shelf.backup(b"hit").held
        root = msgspec.structs.replace(old.root, top=top)
        tracemalloc.start()
        try:
            result = await Rebuild(repository, report).run(replace(old, root=root))
        finally:
            tracemalloc.stop()
    assert (result.lost, result.made_directories, result.entries) == (["lost"], 1, MANY + 2)
    assert len(held) == 1
    assert held[0] < HELD_MAX_BYTES
