"""Entries and what is told from them."""

from __future__ import annotations

import stat

import pytest

from s3backfs.manifest.entry import (
    NO_EXTRA,
    Entry,
    Extent,
    ExtentTree,
    Extra,
    allocated_bytes,
    block_count,
    extra_of,
    is_device,
    is_directory,
    is_file,
    is_link_name,
    is_settled,
    is_symlink,
    settled,
    with_extra,
)
from s3backfs.repository.piece import Piece
from tests.manifest.trees import chunk


def entry(mode: int = stat.S_IFREG, **fields: object) -> Entry:
    return Entry(mode, 0, 0, 0, 0, **fields)  # type: ignore[arg-type]


def test_types() -> None:
    """The type is that of the mode."""
    assert is_directory(entry(stat.S_IFDIR | 0o755))
    assert is_file(entry(stat.S_IFREG))
    assert is_symlink(entry(stat.S_IFLNK))
    assert is_device(entry(stat.S_IFBLK))
    assert is_device(entry(stat.S_IFCHR))
    assert not is_device(entry(stat.S_IFIFO))


def test_holes_take_no_blocks() -> None:
    """Blocks are counted for what is not a hole, rounded up."""
    assert block_count(entry(size=10**12)) == 0
    extents = (Extent(0, 513, chunk(1), 0), Extent(10**9, 512, chunk(2), 0))
    assert allocated_bytes(entry(size=10**12, extents=extents)) == 1025
    assert block_count(entry(size=10**12, extents=extents)) == 3
    tree = ExtentTree(chunk(1), 2, 1000, 10**9)
    assert allocated_bytes(entry(extra=Extra(extent_tree=tree))) == 10**9
    assert block_count(entry(inline=b"a")) == 1


def test_pieces_settle() -> None:
    """Pieces become the refs they were given, in extents and xattrs; before, it is an error."""
    piece, xattrs = Piece(b"abc"), Piece(b"def")
    value = entry(size=3, extents=(Extent(0, 3, piece, 0),), extra=Extra(xattr_ref=xattrs))
    assert not is_settled(value)
    with pytest.raises(ValueError, match="no place"):
        settled(value)
    piece.settle(chunk(1))
    assert not is_settled(value)
    xattrs.settle(chunk(2))
    assert is_settled(value)
    found = settled(value)
    assert found.extents == (Extent(0, 3, chunk(1), 0),)
    assert extra_of(found).xattr_ref == chunk(2)
    assert settled(found) is found


def test_link_names_and_records() -> None:
    """A name of a hard-linked file has the id of the record and no count."""
    assert is_link_name(entry(extra=Extra(link_id=bytes(16))))
    assert not is_link_name(entry(extra=Extra(link_id=bytes(16), nlink=2)))
    assert not is_link_name(entry())


def test_empty_extra_is_dropped() -> None:
    """An extra without content is none."""
    assert with_extra(entry(), Extra()) == entry()
    assert extra_of(entry()) == NO_EXTRA
