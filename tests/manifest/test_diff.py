"""Differences of two trees."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3backfs.manifest.diff import diff
from s3backfs.manifest.entry import Entry, Extent, Extra
from tests.manifest.trees import (
    DenseHashes,
    MemoryNodes,
    built,
    chunk,
    entry_tree,
    file_entry,
    many_names,
    put,
)

numbers = st.dictionaries(st.integers(0, 120), st.integers(0, 3))


@pytest.mark.anyio
@settings(max_examples=100, deadline=None)
@given(old=numbers, new=numbers, inline=st.sampled_from([0, 10**6]))
async def test_as_of_two_dicts(old: dict[int, int], new: dict[int, int], inline: int) -> None:
    """Every key whose values differ is told once, in order, with both values."""
    empty = entry_tree(hashes=DenseHashes(), inline_top_max_bytes=inline)
    left = {b"\0%03d" % key: file_entry(n) for key, n in old.items()}
    right = {b"\0%03d" % key: file_entry(n) for key, n in new.items()}
    tops = (await built(left, empty)).top, (await built(right, empty)).top
    found = [found async for found in diff(empty._nodes, *tops)]
    everything = sorted(left.keys() | right.keys())
    expected = [(key, left.get(key), right.get(key)) for key in everything]
    assert found == [row for row in expected if row[1] != row[2]]


@pytest.mark.anyio
async def test_reads_only_what_differs() -> None:
    """One change among 50,000 entries costs a handful of nodes."""
    store = MemoryNodes()
    items = many_names(50_000)
    tree = await built(items, entry_tree(None, store))
    key = sorted(items)[20_000]
    top = await tree.update([put(key, file_entry(3))])
    store.forget_counts()
    found = [found async for found in diff(tree._nodes, tree.top, top)]
    assert found == [(key, items[key], file_entry(3))]
    assert len(store.loaded) <= 4


@pytest.mark.anyio
async def test_moved_chunks_are_no_difference() -> None:
    """Entries whose chunks lie in other packs are equal, also in a leaf that differs elsewhere."""

    def entry(pack: int) -> Entry:
        extra = Extra(xattr_ref=chunk(7, pack=pack))
        return Entry(
            0o100644, 0, 0, 1, 1, 10, None, (Extent(0, 10, chunk(1, pack=pack), 0),), extra
        )

    left = await built({b"\0a": entry(1), b"\0b": file_entry(1)}, entry_tree())
    right = await built({b"\0a": entry(2), b"\0b": file_entry(2)}, entry_tree())
    found = [key async for key, _, _ in diff(left._nodes, left.top, right.top)]
    assert found == [b"\0b"]
