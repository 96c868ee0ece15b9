"""Laying extents over a stored extent tree, against the same done in memory."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from s3backfs.backup.content_tree import ExtentReader, merge_extents, top_of
from s3backfs.manifest.entry import Extent, ExtentTree
from s3backfs.manifest.extents import ExtentMap, overlaid
from s3backfs.manifest.node import EXTENTS
from s3backfs.manifest.tree import Nodes, Tree
from tests.fs.strategies import examples
from tests.manifest.trees import DenseHashes, MemoryNodes, chunk

STRIDE = 100
"""Extents begin at multiples of this, or near them."""


def make_nodes() -> Any:
    return SimpleNamespace(extents=Nodes(EXTENTS, MemoryNodes(), DenseHashes(), 0))


def changed(extents: ExtentMap, source: random.Random, count: int, changes: int) -> ExtentMap:
    """Write and punch at random places."""
    for _ in range(changes):
        offset = source.randrange(count) * STRIDE + source.choice([0, 0, 1, 50, 99])
        length = source.choice([1, 10, 50, 100, 150, 1000])
        if source.random() < 0.3:
            extents.punch(offset, length)
        else:
            extents.write(offset, length, chunk(source.randrange(1 << 30), length), 0)
    return extents


async def stored(nodes: Any, tree: ExtentTree | None) -> list[Extent]:
    if tree is None:
        return []
    return [extent async for _, extent in Tree(top_of(tree), nodes.extents).items()]


@settings(deadline=None, max_examples=examples(25, 1500))
@given(
    seed=st.integers(0, 1 << 30),
    count=st.sampled_from([3, 40, 400, 2000]),
    rounds=st.lists(st.sampled_from([1, 5, 50, 500]), min_size=1, max_size=4),
    cut=st.booleans(),
)
def test_merging_is_overlaying(seed: int, count: int, rounds: list[int], cut: bool) -> None:
    """After any rounds of changes the tree holds what memory holds, in the nodes of a new tree."""

    async def run() -> None:
        source, nodes = random.Random(seed), make_nodes()
        expected = changed(ExtentMap(), source, count, count).extents()
        tree = await merge_extents(nodes, None, expected)
        for changes in rounds:
            over = changed(ExtentMap(is_overlay=True), source, count, changes)
            if cut:
                over.truncate(source.randrange(count * STRIDE))
            tree = await merge_extents(nodes, tree, over.extents())
            expected = tuple(overlaid(over, expected))
            assert tuple(await stored(nodes, tree)) == expected
            fresh = await merge_extents(make_nodes(), None, expected)
            assert _shape(tree) == _shape(fresh)
            if tree is not None:
                await _check_ranges(ExtentReader(nodes, tree), expected, source, count)

    trio.run(run)


def _shape(tree: ExtentTree | None) -> tuple[object, ...] | None:
    if tree is None:
        return None
    return tree.top.id, tree.height, tree.count, tree.allocated_bytes


async def _check_ranges(
    reader: ExtentReader, expected: tuple[Extent, ...], source: random.Random, count: int
) -> None:
    for _ in range(5):
        lo = source.randrange(count * STRIDE)
        hi = lo + source.randrange(1, 500)
        touching = [extent for extent in expected if extent.file_offset < hi and extent.end > lo]
        assert list(await reader.touching(lo, hi)) == touching
