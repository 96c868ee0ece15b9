"""The search tree: what it finds, that its shape depends on its items alone, what it costs."""

from __future__ import annotations

import random
from bisect import bisect_left

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3backfs.errors import IntegrityError
from s3backfs.manifest.entry import Entry, Extent
from s3backfs.manifest.keys import extent_key, subtree_end
from s3backfs.manifest.runs import is_cut
from s3backfs.manifest.tree import Replace, Top, Tree
from tests.manifest.trees import (
    DenseHashes,
    KeyedHashes,
    MemoryNodes,
    built,
    chunk,
    content,
    entry_tree,
    extent_tree,
    file_entry,
    make_ref,
    many_names,
    put,
    remove,
    streamed,
)

NAMES = [b"\0%d" % n for n in range(400)] + [b"d\0\0%d" % n for n in range(200)]
KEYS = sorted(NAMES)

keys = st.sampled_from(KEYS)
rows = st.dictionaries(keys, st.integers(0, 50), max_size=60)


@st.composite
def edit_lists(draw: st.DrawFn) -> list[tuple[bytes, bytes | None, dict[bytes, int]]]:
    """Sorted, disjoint edits: ranges with some rows in them, single keys, an open end."""
    bounds = sorted(draw(st.lists(keys, min_size=2, max_size=8, unique=True)))
    edits: list[tuple[bytes, bytes | None, dict[bytes, int]]] = []
    for lo, hi in zip(bounds[::2], bounds[1::2], strict=False):
        end = lo + b"\0" if draw(st.booleans()) else hi
        kept = {key: n for key, n in draw(rows).items() if lo <= key < end}
        edits.append((lo, end, kept))
    if draw(st.booleans()):
        lo = bounds[-1]
        edits.append((lo, None, {key: n for key, n in draw(rows).items() if key >= lo}))
    return edits


def apply_to(items: dict[bytes, Entry], edit: tuple[bytes, bytes | None, dict[bytes, int]]) -> None:
    lo, hi, kept = edit
    for key in [key for key in items if lo <= key and (hi is None or key < hi)]:
        del items[key]
    items.update({key: file_entry(n) for key, n in kept.items()})


def replaces(
    edits: list[tuple[bytes, bytes | None, dict[bytes, int]]],
) -> list[Replace[Entry]]:
    return [
        Replace(lo, hi, [(key, file_entry(n)) for key, n in sorted(kept.items())])
        for lo, hi, kept in edits
    ]


@pytest.mark.anyio
@settings(max_examples=300, deadline=None)
@given(
    start=rows.flatmap(lambda some: st.sampled_from([some, dict.fromkeys(KEYS, 1)])),
    steps=st.lists(edit_lists(), min_size=1, max_size=5),
    max_run_weight=st.sampled_from([400, 1500, 10**6]),
    inline=st.sampled_from([0, 2000]),
)
async def test_same_items_same_nodes(
    start: dict[bytes, int],
    steps: list[list[tuple[bytes, bytes | None, dict[bytes, int]]]],
    max_run_weight: int,
    inline: int,
) -> None:
    """Any updates lead to the items of a dict, and to the very tree that is built of them anew."""
    empty = entry_tree(
        hashes=DenseHashes(), max_run_weight=max_run_weight, inline_top_max_bytes=inline
    )
    items = {key: file_entry(n) for key, n in start.items()}
    tree = await built(items, empty)
    for step in steps:
        for edit in step:
            apply_to(items, edit)
        tree = Tree(await tree.update(replaces(step)), empty._nodes)
        fresh = await built(items, empty)
        assert await content(tree) == items
        assert await tree.top_id() == await fresh.top_id()
        assert (tree.top is None) == (not items)
        assert tree.entry_count == len(items)
        if tree.top is not None and fresh.top is not None:
            assert tree.top.height == fresh.top.height
            assert (tree.top.inline is None) == (fresh.top.inline is None)


@pytest.mark.anyio
@settings(max_examples=100, deadline=None)
@given(items=rows, lo=keys, hi=st.none() | keys, wanted=st.lists(keys, max_size=5))
async def test_find_and_ranges(
    items: dict[bytes, int], lo: bytes, hi: bytes | None, wanted: list[bytes]
) -> None:
    """find and items answer as a sorted dict does, for any key and any range."""
    values = {key: file_entry(n) for key, n in items.items()}
    tree = await built(values, entry_tree(hashes=DenseHashes(), inline_top_max_bytes=0))
    for key in wanted:
        assert await tree.find(key) == values.get(key)
    found = [item async for item in tree.items(lo, hi)]
    expected = [
        item for item in sorted(values.items()) if item[0] >= lo and (hi is None or item[0] < hi)
    ]
    assert found == expected


@pytest.mark.anyio
async def test_rows_may_stream() -> None:
    """Edits and their rows may be async iterators; nothing must be in memory at once."""
    items = many_names(5000)
    empty = entry_tree()
    edits = streamed([Replace(b"", None, streamed(sorted(items.items())))])
    tree = Tree(await empty.update(edits), empty._nodes)
    assert await content(tree) == items
    assert await tree.top_id() == await (await built(items, empty)).top_id()


@pytest.mark.anyio
async def test_hundred_thousand_names() -> None:
    """A directory of 100,000 names is a tree of height 1 or 2 with about 500 names a leaf."""
    store = MemoryNodes()
    items = many_names(100_000)
    tree = await built(items, entry_tree(None, store))
    assert tree.top is not None
    assert tree.top.height in (1, 2)
    leaves = [node for node, _ in store.stored if node.height == 0]
    assert 150 < len(leaves) < 300
    assert sum(node.entry_count for node in leaves) == 100_000
    assert max(len(node.data) for node in leaves) < 400 * 1024
    assert await tree.find(min(items)) == items[min(items)]


@pytest.mark.anyio
@pytest.mark.parametrize("change_count", [1, 3, 10])
async def test_update_touches_what_changed(change_count: int) -> None:
    """n scattered changes read at most a few leaves each and one path, and store no more."""
    store = MemoryNodes()
    items = many_names(50_000)
    tree = await built(items, entry_tree(None, store, inline_top_max_bytes=0))
    assert tree.top is not None
    leaf_count = sum(node.height == 0 for node, _ in store.stored)
    changed = random.Random(change_count).sample(sorted(items), change_count)
    store.forget_counts()
    await Tree(tree.top, tree._nodes).update([put(key, file_entry(7)) for key in sorted(changed)])
    height = tree.top.height
    assert len(store.loaded) <= change_count * (1 + 2 * height) + 1
    assert len(store.stored) <= change_count * (1 + height)
    assert len(store.loaded) < leaf_count


@pytest.mark.anyio
async def test_large_removal_reads_no_leaf_in_it() -> None:
    """Removing a subtree of 40,000 names reads the leaves at its borders, not those inside."""
    store = MemoryNodes()
    items = many_names(3000) | many_names(40_000, 2, b"m\0") | many_names(3000, 3, b"z\0")
    tree = await built(items, entry_tree(None, store))
    store.forget_counts()
    top = await tree.update([Replace(b"m\0", subtree_end(b"m\0"))])
    assert len(store.loaded) < 12
    left = {key: entry for key, entry in items.items() if not key.startswith(b"m\0")}
    assert await content(Tree(top, tree._nodes)) == left


@pytest.mark.anyio
async def test_cuts_agree_again_after_a_removal() -> None:
    """When the key at which a run ended goes, two runs become one and all later leaves stay."""
    store = MemoryNodes()
    items = many_names(20_000)
    tree = await built(items, entry_tree(None, store, inline_top_max_bytes=0))
    names = sorted(items)
    cuts = [key for key in names if is_cut(KeyedHashes().cut_hash(0, key))]
    store.forget_counts()
    top = await tree.update([remove(cuts[5])])
    stored = [node for node, _ in store.stored if node.height == 0]
    joined = bisect_left(names, cuts[6]) - bisect_left(names, cuts[4]) - 1
    assert [node.entry_count for node in stored] == [joined]
    del items[cuts[5]]
    assert await content(Tree(top, tree._nodes)) == items


@pytest.mark.anyio
async def test_new_leaf_names_the_leaf_it_replaces() -> None:
    """A changed leaf is offered to the store with the ref of the old leaf as its base."""
    store = MemoryNodes()
    items = many_names(5000)
    tree = await built(items, entry_tree(None, store))
    cursor = await tree.cursor(0)
    assert cursor is not None
    await cursor.seek(sorted(items)[2500])
    store.forget_counts()
    await tree.update([put(sorted(items)[2500], file_entry(1))])
    [(_, base)] = [(node, base) for node, base in store.stored if node.height == 0]
    assert base == cursor.ref


@pytest.mark.anyio
async def test_update_without_effect_stores_nothing() -> None:
    """Putting what is there already stores no node and gives the same top."""
    store = MemoryNodes()
    items = many_names(5000)
    tree = await built(items, entry_tree(None, store))
    key = sorted(items)[1234]
    store.forget_counts()
    assert await tree.update([put(key, items[key])]) == tree.top
    assert await tree.update([]) == tree.top
    assert store.stored == []


@pytest.mark.anyio
async def test_heavy_runs_are_split() -> None:
    """Entries with much inline data make smaller leaves, none much heavier than the limit."""
    store = MemoryNodes()
    items = {b"\0%05d" % n: file_entry(n, inline=bytes(512)) for n in range(5000)}
    await built(items, entry_tree(None, store))
    assert max(len(node.data) for node, _ in store.stored) < 300 * 1024


@pytest.mark.anyio
async def test_place_does_not_change_the_tree() -> None:
    """The same chunks in other packs give the same logical id."""
    items = many_names(100)
    moved = {
        key: msgspec.structs.replace(
            entry, extents=(Extent(0, 1000, chunk(entry.mtime_ns, pack=9), 0),)
        )
        for key, entry in items.items()
    }
    one, two = await built(items, entry_tree()), await built(moved, entry_tree())
    assert one.top != two.top
    assert await one.top_id() == await two.top_id()


@pytest.mark.anyio
@settings(max_examples=100, deadline=None)
@given(
    start=st.sets(st.integers(0, 300)),
    lo=st.integers(0, 300),
    length=st.integers(0, 100),
    new=st.sets(st.integers(0, 300)),
)
async def test_extent_trees_too(start: set[int], lo: int, length: int, new: set[int]) -> None:
    """A tree of extents keeps what a dict keeps, gives the same nodes, and always has a ref."""
    store = MemoryNodes()
    empty = extent_tree(None, store)

    def item(n: int, number: int) -> tuple[bytes, Extent]:
        return extent_key(n * 4096), Extent(n * 4096, 1000, chunk(number), 0)

    items = dict(item(n, n) for n in start)
    tree = await built(items, empty)
    kept = dict(item(n, n + 500) for n in sorted(new) if lo <= n < lo + length)
    edit = Replace(extent_key(lo * 4096), extent_key((lo + length) * 4096), kept.items())
    top = await tree.update([edit])
    items = {key: e for key, e in items.items() if not edit.lo <= key < (edit.hi or b"")} | kept
    assert await content(Tree(top, tree._nodes)) == items
    assert await Tree(top, tree._nodes).top_id() == await (await built(items, empty)).top_id()
    assert top is None or top.ref is not None


@pytest.mark.anyio
async def test_wrong_order_is_refused() -> None:
    """Edits or rows out of order, or rows outside of their range, are a ValueError."""
    entry = file_entry(1)
    tree = await built(many_names(100), entry_tree())
    for edits in (
        [put(b"\0b", entry), put(b"\0a", entry)],
        [Replace(b"\0a", b"\0c", [(b"\0b", entry), (b"\0a", entry)])],
        [Replace(b"\0a", b"\0b", [(b"\0b", entry)])],
        [Replace(b"\0a", b"\0c", [(b"\0b", entry), (b"\0b", entry)])],
    ):
        with pytest.raises(ValueError, match="order"):
            await tree.update(edits)


@pytest.mark.anyio
@pytest.mark.parametrize("key", [b"\0a/b", b"\0..", b"\0" + b"n" * 256, b"d\0\0"])
async def test_what_could_not_be_read_is_not_stored(key: bytes) -> None:
    """A row that no reader would accept fails the update, and no node holds it."""
    store = MemoryNodes()
    tree = entry_tree(None, store, inline_top_max_bytes=0)
    with pytest.raises(IntegrityError):
        await tree.update([put(key, file_entry(1))])
    assert store.stored == []


@pytest.mark.anyio
async def test_forged_links_are_damage() -> None:
    """A node in the place of another, a cycle among them, is an IntegrityError and not a walk."""
    store = MemoryNodes()
    tree = await built(many_names(5000), entry_tree(None, store, inline_top_max_bytes=0))
    assert tree.top is not None
    assert tree.top.ref is not None
    leaf = next(node for node, _ in store.stored if node.height == 0)
    store.data[leaf.id] = store.data[tree.top.ref.id]
    with pytest.raises(IntegrityError):
        await content(tree)
    high = Top(9, make_ref(tree.top.ref.id, 100), None, 5000)
    with pytest.raises(IntegrityError):
        await entry_tree(high, store).find(b"\0x")
