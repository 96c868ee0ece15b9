"""Comparing backups, finding paths in all of them, and measuring what they take."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import pytest

from s3backfs.backup.paths import split_path
from s3backfs.backup.roots import load_root
from s3backfs.backup.versions import Version
from s3backfs.errors import ConfigurationError
from s3backfs.maintenance.comparing import Comparison
from s3backfs.maintenance.finding_paths import find_paths, find_versions
from s3backfs.maintenance.prices import PRICES_TOML, load_prices, project_costs
from s3backfs.maintenance.prune import Prune, PruneOptions, PruneResult
from s3backfs.maintenance.shelf import load_shelf
from s3backfs.maintenance.trash import unforget
from s3backfs.maintenance.usage import GroupBy, Usage, measure, puts_count
from s3backfs.reporting import silent
from s3backfs.repository.uploading import PART_BYTES
from tests.crash.machine import MIB, Machine

from .place import Place, large, new_place

pytestmark = pytest.mark.anyio

NAMES_COUNT = 1200
FILES = {b"changed": b"1" * 5000, b"twice": b"2" * 5000, b"mode": b"3" * 5000, b"same": b"4" * 5000}


async def fill(machine: Machine) -> None:
    """Make `old`, and `new` of links into it with some changes."""
    await machine.make_backup(b"old")
    await machine.make(b"old", b"dir", mode=0o40755)
    await machine.make(b"old", b"many", mode=0o40755)
    for name, data in FILES.items():
        await machine.write_file(b"old", b"dir", name, data=data)
    await machine.link((b"old", b"dir", b"twice"), (b"old", b"other name"))
    for number in range(NAMES_COUNT):
        path = (b"old", b"many", b"%d" % number)
        if number % 100:
            await machine.make(*path, mode=0o120777, target=b"t" * 100)
        else:
            await machine.write_file(*path, data=b"%d" % number * 2000)
    await machine.write_file(b"old", b"gone", data=b"gone")
    await machine.catalogue.seal(machine.catalogue.backups[b"old"])
    await copy(machine)
    await machine.write(b"new", b"dir", b"changed", offset=0, data=b"!")
    await machine.write(b"new", b"dir", b"twice", offset=0, data=b"!")
    await machine.chmod(b"new", b"dir", b"mode", mode=0o600)
    await machine.write_file(b"new", b"fresh", data=b"fresh")
    await machine.catalogue.seal(machine.catalogue.backups[b"new"])


async def copy(machine: Machine) -> None:
    """Do what `cp -al old new` does, but for the file `gone`."""
    await machine.make_backup(b"new")
    for name in (b"dir", b"many"):
        await machine.make(b"new", name, mode=0o40755)
    for name in FILES:
        await machine.link((b"old", b"dir", name), (b"new", b"dir", name))
    await machine.link((b"old", b"other name"), (b"new", b"other name"))
    for number in range(NAMES_COUNT):
        path = (b"many", b"%d" % number)
        await machine.link((b"old", *path), (b"new", *path))


@pytest.fixture
async def place(tmp_path: Path) -> Place:
    made = await new_place(tmp_path)
    async with made.machine() as machine:
        await fill(machine)
        await machine.repository.end_lease()
    return made


async def compare(place: Place, old: bytes, new: bytes, path: bytes = b"") -> dict[bytes, str]:
    async with place.repository(is_read_only=True) as repository:
        shelf = await load_shelf(repository.store, repository.keyring)
        roots = shelf.backup(old).root, shelf.backup(new).root
        comparison = Comparison(repository, *roots, split_path(path))
        async with aclosing(comparison.changes()) as changes:
            return {each.path: str(each.change) async for each in changes}


async def test_what_differs(place: Place) -> None:
    """Each change is told once, by its kind; a changed hard-linked file under all its names."""
    found = await compare(place, b"old", b"new")
    # The times of directories that were made anew.
    for name in (b".", b"dir", b"many"):
        assert found.pop(name, "metadata") == "metadata"
    assert found == {
        b"dir/changed": "content",
        b"dir/twice": "content",
        b"other name": "content",
        b"dir/mode": "metadata",
        b"gone": "removed",
        b"fresh": "added",
    }


async def test_differences_below_a_path(place: Place) -> None:
    """Only the path and what is below it counts; backwards it is the other way round."""
    assert set(await compare(place, b"old", b"new", b"/dir/")) >= {b"dir/changed", b"dir/twice"}
    assert not {b"fresh", b"gone", b"other name"} & set(
        await compare(place, b"old", b"new", b"dir")
    )
    assert await compare(place, b"old", b"new", b"other name") == {b"other name": "content"}
    assert await compare(place, b"new", b"old", b"fresh") == {b"fresh": "removed"}
    assert await compare(place, b"old", b"new", b"dir/same") == {}
    assert await compare(place, b"old", b"old") == {}


async def test_a_path_that_is_nowhere(place: Place) -> None:
    """A path that neither backup has is refused, not taken for equal."""
    async with place.repository(is_read_only=True) as repository:
        root = (await load_shelf(repository.store, repository.keyring)).backup(b"old").root
        comparison = Comparison(repository, root, root, (b"nonesuch",))
        changes = comparison.changes()
        try:
            await anext(changes)
        except ConfigurationError as error:
            message = str(error)
        await changes.aclose()
    assert message == "neither backup has 'nonesuch'"


async def found_in(
    place: Place, name: bytes, newest_ns: int | None = None, times_count: int = 1
) -> tuple[list[Version], int]:
    """Find a name in all backups; and how many paths were looked at."""
    asked = 0

    def is_wanted(path: bytes) -> bool:
        nonlocal asked
        asked += 1
        return path.rpartition(b"/")[2] == name

    async with place.repository(is_read_only=True) as repository:
        shelf = await load_shelf(repository.store, repository.keyring)
        backups = shelf.backups * times_count
        versions = await find_paths(repository, backups, is_wanted, newest_ns, silent)
    return versions, asked


async def test_versions_of_what_is_found(place: Place) -> None:
    """What is the same in several backups is one version; what differs is another."""
    changed, _ = await found_in(place, b"changed")
    assert [(each.path, each.backups) for each in changed] == [
        (b"dir/changed", [b"old"]),
        (b"dir/changed", [b"new"]),
    ]
    mode, _ = await found_in(place, b"mode")
    assert [each.backups for each in mode] == [[b"old", b"new"]]
    twice, _ = await found_in(place, b"twice")
    assert [each.entry.size for each in twice] == [5000, 5000]
    later_ns = max(each.entry.mtime_ns for each in twice) + 1
    assert (await found_in(place, b"twice", later_ns))[0] == []
    assert len((await found_in(place, b"twice", later_ns - 1))[0]) == 1


async def test_shared_nodes_are_looked_through_once(place: Place) -> None:
    """Paths in nodes that backups share are not looked at again."""
    _, asked = await found_in(place, b"7")
    found, asked_again = await found_in(place, b"7", times_count=3)
    assert asked_again == asked
    assert [each.backups for each in found] == [[b"old", b"new"] * 3]


async def test_versions_of_one_path(place: Place) -> None:
    """All distinct versions of a path, with the backups to read them in."""
    async with place.repository(is_read_only=True) as repository:
        backups = (await load_shelf(repository.store, repository.keyring)).backups

        async def versions(path: bytes) -> list[list[bytes]]:
            found = await find_versions(repository, backups, split_path(path), silent)
            return [each.backups for each in found]

        assert await versions(b"/dir//twice") == [[b"old"], [b"new"]]
        assert await versions(b"dir/same") == [[b"old", b"new"]]
        assert await versions(b"many/7") == [[b"old", b"new"]]
        assert await versions(b"nonesuch") == []
        # Directories differ by the time at which names came or left.
        assert await versions(b"dir") == [[b"spared"], [b"hit"], [b"old"], [b"new"]]


async def measured(place: Place, group_by: GroupBy) -> Usage:
    async with place.repository(is_read_only=True) as repository:
        shelf = await load_shelf(repository.store, repository.keyring)
        return await measure(repository, shelf.backups, group_by, silent)


async def test_unique_and_shared_bytes(place: Place) -> None:
    """Unique bytes are what only one backup needs; unique and shared ones are all there are."""
    usage = await measured(place, GroupBy.BACKUP)
    groups = {group.name: group for group in usage.groups}
    # Random content that nothing else has: large files of 3 MiB.
    assert groups[b"hit"].unique_bytes > 3 << 20
    assert groups[b"hit"].unique_bytes == groups[b"hit"].added_bytes
    assert 0 < groups[b"new"].unique_bytes < groups[b"old"].added_bytes
    assert groups[b"old"].unique_bytes < groups[b"old"].added_bytes
    unique_bytes = sum(group.unique_bytes for group in usage.groups)
    assert abs(unique_bytes + usage.shared_bytes - usage.referenced_bytes) < 8
    assert abs(sum(group.added_bytes for group in usage.groups) - usage.referenced_bytes) < 8
    assert usage.referenced_bytes + usage.unused_bytes == usage.objects.packs_bytes
    listed = [listed async for page in place.store.list("") for listed in page]
    assert usage.objects.count == len(listed)
    assert usage.objects.total_bytes == sum(each.length_bytes for each in listed)
    assert usage.deduplication > 1
    # Of nodes too: two backups of one tree share nearly all of it.
    assert usage.shared_bytes > 0


async def test_a_thousand_roots_do_not_name_each_other_in_memory(place: Place) -> None:
    """What the verbs hold of each root does not grow with the number of backups."""
    shelf = await load_shelf(place.store, place.opened.keyring)
    stored = [await load_root(place.store, place.opened.keyring, each.held.key)
              for each in shelf.backups]  # fmt: skip
    assert any(held.root.seen for held in stored)
    assert not any(each.root.seen for each in shelf.backups)


async def test_all_in_one_group_is_unique(place: Place) -> None:
    """What backups of one host share only among themselves is that host's alone."""
    usage = await measured(place, GroupBy.HOST)
    assert len(usage.groups) == 1
    assert usage.groups[0].backups_count == 4
    assert usage.shared_bytes == 0
    assert abs(usage.groups[0].unique_bytes - usage.referenced_bytes) < 8


@pytest.mark.parametrize("name", [b"old", b"new"])
async def test_unique_bytes_are_what_forgetting_frees(place: Place, name: bytes) -> None:
    """Without a backup, its unique bytes are referred to no more, and no others."""
    before = await measured(place, GroupBy.BACKUP)
    group = next(group for group in before.groups if group.name == name)
    place.remove("backups/" + place.opened.keyring.encode_name(name))
    after = await measured(place, GroupBy.BACKUP)
    freed = before.referenced_bytes - after.referenced_bytes
    assert abs(freed - group.unique_bytes) < 8


async def compact(place: Place, name: bytes, options: PruneOptions) -> None:
    """Forget a backup, and prune."""
    async with place.machine() as machine:
        await machine.catalogue.forget(machine.catalogue.backups[name])
        await machine.repository.end_lease()
    await prune(place, options)


async def prune(place: Place, options: PruneOptions) -> PruneResult:
    async with place.repository() as repository:
        return await Prune(repository, options, 64 * MIB, silent).run()


async def fill_with(place: Place, name: bytes, *sources: bytes) -> None:
    """Make a backup of a large file for each source; equal ones are stored once."""
    async with place.machine() as machine:
        await machine.make_backup(name)
        for source in sources:
            await machine.write_file(name, source, data=large(source))
        await machine.catalogue.seal(machine.catalogue.backups[name])
        await machine.repository.end_lease()


@pytest.fixture
async def halved(tmp_path: Path) -> Place:
    """A place with a pack of which the backup `both` needs all, and `kept` one half."""
    place = await new_place(tmp_path)
    await fill_with(place, b"both", b"x", b"y")
    await fill_with(place, b"kept", b"x")
    return place


async def unused_bytes(place: Place) -> tuple[int, int]:
    """What a prune and the statistics say of it."""
    dry = await prune(place, PruneOptions(grace_s=0, is_dry_run=True))
    return dry.unused_bytes, (await measured(place, GroupBy.BACKUP)).unused_bytes


@pytest.mark.parametrize("no_delete", [False, True])
async def test_what_was_moved_counts_once(halved: Place, no_delete: bool) -> None:
    """Contents that a prune has copied are those that a later backup refers to at the new place."""
    await compact(halved, b"both", PruneOptions(grace_s=0, max_unused=0, no_delete=no_delete))
    assert any(key.startswith("moved/") for key in halved.store.objects)
    await fill_with(halved, b"again", b"x")
    usage = await measured(halved, GroupBy.BACKUP)
    groups = {group.name: group for group in usage.groups}
    assert groups[b"again"].added_bytes < 100_000
    assert groups[b"again"].unique_bytes < 100_000
    assert groups[b"kept"].added_bytes > 3 * MIB
    assert usage.referenced_bytes <= usage.objects.packs_bytes
    by_prune, by_stats = await unused_bytes(halved)
    assert abs(by_prune - by_stats) < 1000
    assert by_stats < 500_000 or no_delete


async def test_what_is_gone_counts_nowhere(halved: Place) -> None:
    """Bytes of packs that are lost are not stored for anybody."""
    before = await measured(halved, GroupBy.BACKUP)
    key = max(halved.store.objects, key=lambda key: len(halved.store.objects[key]))
    halved.cut(key)
    assert min(await unused_bytes(halved)) >= 0
    halved.remove(key)
    after = await measured(halved, GroupBy.BACKUP)
    by_prune, by_stats = await unused_bytes(halved)
    assert abs(by_prune - by_stats) < 100
    assert before.referenced_bytes - after.referenced_bytes > 5 * MIB
    assert after.referenced_bytes + after.unused_bytes == after.objects.packs_bytes


async def test_what_comes_back_after_a_prune_without_deletions(halved: Place) -> None:
    """What was copied before a backup came back is stored once again after the next prune."""
    before_bytes = (await measured(halved, GroupBy.BACKUP)).objects.packs_bytes
    await compact(halved, b"both", PruneOptions(grace_s=0, max_unused=0, no_delete=True))
    async with halved.repository() as repository:
        await unforget(repository, [b"both"], silent)
    by_prune, by_stats = await unused_bytes(halved)
    assert abs(by_prune - by_stats) < 1000
    assert by_stats > 3 * MIB
    for _ in range(2):
        await prune(halved, PruneOptions(grace_s=0, max_unused=0))
    usage = await measured(halved, GroupBy.BACKUP)
    assert usage.objects.packs_bytes < before_bytes + 500_000
    assert (await halved.check()).damages == []


def test_costs(tmp_path: Path) -> None:
    """Storage, requests and a restore cost what the table says; the built-in one can be edited."""
    path = tmp_path / "prices.toml"
    path.write_text(
        "[classes.X]\nstorage_gib_month = 2.0\nput_1000 = 1.0\nget_1000 = 8.0\nretrieval_gib = 0.5"
    )
    (cost,) = project_costs(load_prices(path), 1 << 30, 1 << 30, 500)
    assert (cost.storage, cost.requests, cost.month) == (4.0, 0.5, 4.5)
    assert cost.restore == pytest.approx(128 / 1000 * 8 + 0.5)
    path.write_text(PRICES_TOML)
    assert load_prices(path) == load_prices(None)


@pytest.mark.parametrize(
    "text",
    [
        *("", "classes = 3", "[classes.X]\nput_1000 = 1.0", "[[["),
        "[classes.X]\nstorage_gib_month = -1",
        "[classes.X]\nstorage_gib_month = 1\nstorage_gb_month = 1",
    ],
)
def test_what_is_no_table_of_prices(tmp_path: Path, text: str) -> None:
    """A file that is none is refused with its name."""
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"prices\.toml"):
        load_prices(path)


def test_requests_of_an_upload() -> None:
    """A small object is one request, a large one its parts, a beginning and an end."""
    assert puts_count(0) == puts_count(PART_BYTES) == 1
    assert puts_count(PART_BYTES + 1) == 4
