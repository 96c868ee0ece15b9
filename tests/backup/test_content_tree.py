"""Extents of large files, looked up in their trees."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from s3backfs.backup.content_tree import ExtentReader, merge_extents
from s3backfs.manifest.entry import Extent
from s3backfs.manifest.node import EXTENTS
from s3backfs.manifest.tree import Nodes
from tests.manifest.trees import DenseHashes, MemoryNodes, chunk

LENGTHS = (1, 700, 70_000, 1 << 20, 64 << 20)


def make_nodes() -> Any:
    return SimpleNamespace(extents=Nodes(EXTENTS, MemoryNodes(), DenseHashes(), 0))


def make_extents(count: int) -> list[Extent]:
    """Extents of very different lengths, some with holes between them."""
    extents, offset = [], 10
    for number in range(count):
        length = LENGTHS[number % len(LENGTHS)]
        extents.append(Extent(offset, length, chunk(number, length), 0))
        offset += length + (number % 3) * 50
    return extents


@pytest.mark.anyio
async def test_an_extent_of_any_length_is_found_from_its_last_byte() -> None:
    """Every byte of a file leads to its extent, however far before it that begins."""
    nodes, extents = make_nodes(), make_extents(100)
    tree = await merge_extents(nodes, None, extents)
    assert tree is not None
    assert tree.height > 0
    reader = ExtentReader(nodes, tree)
    for extent in extents:
        for lo in (extent.file_offset, extent.file_offset + extent.length // 2, extent.end - 1):
            assert list(await reader.touching(lo, lo + 1)) == [extent]


@pytest.mark.anyio
async def test_holes_and_ranges() -> None:
    """A range gives just the extents that have a byte in it; a hole gives none."""
    nodes, extents = make_nodes(), make_extents(60)
    tree = await merge_extents(nodes, None, extents)
    assert tree is not None
    reader = ExtentReader(nodes, tree)
    assert list(await reader.touching(0, 10)) == []
    assert list(await reader.touching(extents[-1].end, 1 << 60)) == []
    for left, right in itertools.pairwise(extents):
        assert list(await reader.touching(left.end, right.file_offset)) == []
        assert list(await reader.touching(left.end - 1, right.file_offset + 1)) == [left, right]


@pytest.mark.anyio
async def test_a_write_into_a_long_extent_keeps_both_of_its_ends() -> None:
    """Laying a byte over the far end of a long stored extent loses nothing of it."""
    nodes, extents = make_nodes(), make_extents(60)
    tree = await merge_extents(nodes, None, extents)
    long = extents[4]
    over = Extent(long.end - 100, 10, chunk(999, 10), 0)
    merged = await merge_extents(nodes, tree, [over])
    assert merged is not None
    assert merged.allocated_bytes == sum(extent.length for extent in extents)
    found = await ExtentReader(nodes, merged).touching(long.file_offset, long.end)
    assert [(extent.file_offset, extent.length) for extent in found] == [
        (long.file_offset, long.length - 100),
        (over.file_offset, 10),
        (over.end, 90),
    ]
