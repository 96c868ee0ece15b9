"""Keys of the manifest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from s3backfs.manifest.keys import (
    TOP_KEY,
    directory_prefix,
    directory_range,
    is_link_key,
    key_components,
    key_range,
    link_key,
    path_key,
    prefixes_above,
    rekeyed,
    split_key,
    subtree_range,
)

names = st.binary(min_size=1, max_size=3).map(lambda name: name.replace(b"\0", b"\1"))
paths = st.lists(names, max_size=4).map(tuple)


@given(paths)
def test_key_and_back(path: tuple[bytes, ...]) -> None:
    """A path is found again in its key."""
    assert key_components(path_key(path)) == path
    prefix, name = split_key(path_key(path))
    assert prefix + b"\0" + name == path_key(path)


@given(paths, paths.filter(bool))
def test_ranges(directory: tuple[bytes, ...], path: tuple[bytes, ...]) -> None:
    """A subtree's range holds just what is below; a directory's range just its names."""
    prefix, key = directory_prefix(directory), path_key(path)
    lo, hi = subtree_range(prefix)
    is_below = len(path) > len(directory) and path[: len(directory)] == directory
    assert (lo <= key < hi) == is_below
    lo, hi = directory_range(prefix)
    assert (lo <= key < hi) == (is_below and len(path) == len(directory) + 1)


@given(st.binary(min_size=16, max_size=16), paths.filter(bool))
def test_link_records_are_apart(link_id: bytes, path: tuple[bytes, ...]) -> None:
    """Link records are in the range of no directory, and no path has their key."""
    key = link_key(link_id)
    assert is_link_key(key)
    assert not is_link_key(path_key(path))
    assert split_key(key) == (b"", b"\0" + link_id)
    for lo, hi in (subtree_range(b""), directory_range(b"")):
        assert not lo <= key < hi
        assert not lo <= TOP_KEY < hi


@given(paths.filter(bool), paths.filter(bool))
def test_one_key_in_its_range(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> None:
    """The range of a key holds no other key."""
    lo, hi = key_range(path_key(one))
    assert (lo <= path_key(other) < hi) == (one == other)


@given(paths.filter(bool), paths.filter(bool), paths.filter(bool))
def test_moved_subtree(old: tuple[bytes, ...], new: tuple[bytes, ...], rest: tuple[bytes]) -> None:
    """A key below a moved directory is that of the path at the new place, in the same order."""
    moved = rekeyed(path_key(old + rest), directory_prefix(old), directory_prefix(new))
    assert moved == path_key(new + rest)


@given(paths)
def test_prefixes_above(path: tuple[bytes, ...]) -> None:
    """A prefix is made of those of all directories above, the nearest last."""
    above = [directory_prefix(path[:depth]) for depth in range(1, len(path) + 1)]
    assert list(prefixes_above(directory_prefix(path))) == above


@given(paths, paths)
def test_components_compare_one_by_one(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> None:
    """Directories sort by their components, names of one directory by their bytes."""
    if one[:-1] == other[:-1] and one and other:
        assert (path_key(one) < path_key(other)) == (one < other)
