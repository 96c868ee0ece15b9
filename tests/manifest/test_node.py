"""Nodes as bytes: what is written is read, what is forged is refused."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from s3backfs.errors import IntegrityError
from s3backfs.format.refs import Ref
from s3backfs.manifest.entry import (
    MAX_FILE_BYTES,
    Entry,
    Extent,
    ExtentTree,
    External,
    Extra,
)
from s3backfs.manifest.keys import entry_key, extent_key, link_key
from s3backfs.manifest.layouts import ENTRY_LEAF, EXTENT_LEAF, INNER, Child
from s3backfs.manifest.node import ENTRIES, EXTENTS, EncodedNode, Family, decode_node, encode_node
from s3backfs.manifest.wire import encoder
from s3backfs.repository.piece import Piece
from tests.manifest.trees import KeyedHashes, chunk, make_ref, many_names

LOGICAL_ID = KeyedHashes().logical_id

names = st.binary(min_size=1, max_size=8).filter(
    lambda name: not {0, 47} & set(name) and name not in (b".", b"..")
)
prefixes = st.lists(names, max_size=3).map(lambda parts: b"".join(p + b"\0" for p in parts))
entry_keys = st.one_of(
    st.builds(entry_key, prefixes, names),
    st.builds(link_key, st.binary(min_size=16, max_size=16)),
    st.just(b"\0"),
)
u32 = st.integers(0, 2**32 - 1)
times = st.integers(-(2**63), 2**63 - 1)
places = st.builds(chunk, st.integers(0, 9), st.just(1000), st.just(3))
patched = st.builds(
    lambda ref, base: msgspec.structs.replace(ref, base=base, pack_id=b"p" * 16),
    places,
    st.builds(chunk, st.integers(10, 19)),
)
refs = st.one_of(places, patched)
# One id has one place here; which of several is taken has its own test.
extras = st.builds(
    Extra,
    ino=st.integers(0, 2**48),
    rdev=u32,
    xattrs=st.dictionaries(st.binary(max_size=9), st.binary(max_size=9), max_size=3),
    xattr_ref=st.none() | places,
    link_id=st.none() | st.binary(min_size=16, max_size=16),
    nlink=u32,
    extent_tree=st.none() | st.builds(ExtentTree, places, st.integers(0, 9), u32, u32),
    external=st.none() | st.builds(External, st.text(), st.text(), st.text()),
    tags=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
).map(lambda extra: None if extra == Extra() else extra)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    extents, position = [], 0
    for gap, content in draw(st.lists(st.tuples(st.integers(0, 2**60), places), max_size=3)):
        extents.append(Extent(position + gap, 900, content, draw(st.integers(0, 100))))
        position = extents[-1].end
    inline = draw(st.none() | st.binary(max_size=30))
    size = draw(st.integers(position, MAX_FILE_BYTES))
    mode, uid, gid = draw(u32), draw(u32), draw(u32)
    fixed = mode, uid, gid, draw(times), draw(times), size
    return Entry(*fixed, inline, tuple(extents), draw(st.none() | extras))


leaves = st.dictionaries(entry_keys, entries(), min_size=1, max_size=12)


def leaf(items: dict[bytes, Entry]) -> EncodedNode:
    found = sorted(items.items())
    keys, values = [key for key, _ in found], [value for _, value in found]
    return encode_node(ENTRIES.kind, 0, ENTRY_LEAF, keys, values, LOGICAL_ID)


@settings(max_examples=200, deadline=None)
@given(leaves)
def test_leaf_reads_as_written(items: dict[bytes, Entry]) -> None:
    """A decoded leaf has the same keys and entries, and is encoded to the same bytes again."""
    encoded = leaf(items)
    node = decode_node(ENTRIES, encoded.data)
    assert dict(zip(node.keys, node.values(0, len(node)), strict=True)) == items
    assert node.keys == sorted(items)
    assert leaf(items) == encoded
    assert leaf(dict(zip(node.keys, node.values(0, len(node)), strict=True))) == encoded  # type: ignore[arg-type]
    assert all(node.find(key) == value for key, value in items.items())
    assert node.find(b"\0nobody") is None


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(entry_keys, refs, min_size=1, max_size=9), st.integers(1, 9))
def test_inner_reads_as_written(found: dict[bytes, Ref], height: int) -> None:
    """An inner node keeps its children, patches with their bases among them."""
    unique = {ref.id: ref for ref in found.values()}
    items = {key: Child(unique[ref.id], n + 1) for n, (key, ref) in enumerate(found.items())}
    keys = sorted(items)
    encoded = encode_node(
        ENTRIES.kind, height, INNER, keys, [items[key] for key in keys], LOGICAL_ID
    )
    node = decode_node(ENTRIES, encoded.data)
    assert node.values(0, len(node)) == [items[key] for key in keys]
    assert node.height == height
    assert node.entry_count == encoded.entry_count == sum(c.entry_count for c in items.values())


def test_extents_read_as_written() -> None:
    """A leaf of extents up to 16 TiB keeps them; its keys are their offsets."""
    extents = [Extent(n * 2**37, 1000, chunk(n % 7), 0) for n in range(128)]
    keys = [extent_key(extent.file_offset) for extent in extents]
    encoded = encode_node(EXTENTS.kind, 0, EXTENT_LEAF, keys, extents, LOGICAL_ID)
    node = decode_node(EXTENTS, encoded.data)
    assert node.values(0, 128) == extents
    assert node.keys == keys


def test_id_does_not_depend_on_places() -> None:
    """The logical id is that of the content; of several places the smallest pack is taken."""

    def entry(*packs: int) -> Entry:
        extents = [Extent(n * 10, 10, chunk(1, pack=pack), 0) for n, pack in enumerate(packs)]
        return Entry(0o100644, 0, 0, 0, 0, 20, None, tuple(extents))

    one, two, three = (leaf({b"\0a": entry(*packs)}) for packs in ((5, 2), (2, 2), (5, 5)))
    assert one == two
    assert one.id == three.id
    assert one.data != three.data


def test_unsettled_content_is_refused() -> None:
    """Content without a place, or a hole among extents, can not be encoded."""
    for content in (Piece(b"abc"), None):
        entry = Entry(0o100644, 0, 0, 0, 0, 3, None, (Extent(0, 3, content, 0),))
        with pytest.raises(ValueError, match="no place"):
            leaf({b"\0a": entry})


def test_empty_extra_is_none() -> None:
    """An extra that says nothing gives the same bytes as none."""
    plain = Entry(0o100644, 0, 0, 0, 0)
    assert leaf({b"\0a": plain}) == leaf({b"\0a": msgspec.structs.replace(plain, extra=Extra())})


def only_integrity_error(family: Family[object], data: bytes) -> None:
    try:
        node = decode_node(family, data)
    except IntegrityError:
        return
    values = node.values(0, len(node))
    assert len(values) == len(node) > 0


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([ENTRIES, EXTENTS]), st.binary(max_size=200))
@example(ENTRIES, b"\xdd\xff\xff\xff\xff")
@example(ENTRIES, b"\x95\x01\x00\x90\x90" + b"\x91" * 100_000)
@example(ENTRIES, b"\x95\x01\x00\x90\x90\xdd\xff\xff\xff\xff")
def test_any_bytes(family: Family[object], data: bytes) -> None:
    """Arbitrary bytes are a node or an IntegrityError, whatever their lengths claim."""
    only_integrity_error(family, data)


scalars = st.one_of(st.none(), st.integers(-3, 2**64 - 1), st.binary(max_size=20), st.text())
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=10), max_leaves=30)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([ENTRIES, EXTENTS]), st.integers(0, 2), values, values, values)
def test_any_structure(
    family: Family[object], height: int, packs: object, sources: object, body: object
) -> None:
    """Any msgpack in the places of tables and body is a node or an IntegrityError."""
    only_integrity_error(family, encoder.encode([family.kind, height, packs, sources, body]))


@settings(max_examples=300, deadline=None)
@given(leaves, st.randoms(use_true_random=False))
def test_damaged_leaf(items: dict[bytes, Entry], rng: random.Random) -> None:
    """A leaf with changed, cut or doubled bytes is a node or an IntegrityError."""
    data = bytearray(leaf(items).data)
    for _ in range(rng.randrange(1, 4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    only_integrity_error(ENTRIES, bytes(data))  # type: ignore[arg-type]
    only_integrity_error(ENTRIES, bytes(data[: rng.randrange(len(data))]))  # type: ignore[arg-type]
    only_integrity_error(ENTRIES, bytes(data) * 2)  # type: ignore[arg-type]


ROW = [0o100644, 0, 0, 0, 0, 2000, None]
PACKS = [[b"p" * 16, 0]]
SOURCE = [0, 0, 1029, 1000, 0, 1000, b"i" * 16, -1]


def wire(groups: object, sources: object = None, packs: object = None) -> bytes:
    rows = [SOURCE] if sources is None else sources
    return encoder.encode([1, 0, PACKS if packs is None else packs, rows, groups])


def one(*extents: list[int], extra: object = None) -> object:
    return [[b"", [[b"a", *ROW, list(extents), extra]]]]


def test_the_forged_ones_are_good_but_for_one_thing() -> None:
    """The pattern that the next test damages is a node itself."""
    decode_node(ENTRIES, wire(one([0, 1000, 0, 0], [1000, 500, 0, 500])))
    decode_node(
        ENTRIES, wire([[b"", [[b"", *ROW, [], None], [b"\0" + b"l" * 16, *ROW, [], None]]]])
    )


@pytest.mark.parametrize(
    "data",
    [
        wire([]),
        wire([[b"", []]]),
        wire(one([0, 1000, 1, 0])),
        wire(one([0, 1001, 0, 0])),
        wire(one([0, 500, 0, 501])),
        wire(one([0, 0, 0, 0])),
        wire(one([1500, 501, 0, 0])),
        wire(one([0, 500, 0, 0], [499, 500, 0, 0])),
        wire(one(), [[1, *SOURCE[1:]]]),
        wire(one(), [[*SOURCE[:4], 1, *SOURCE[5:]]]),
        wire(one(), [[*SOURCE[:7], 0]]),
        wire(one(), [[*SOURCE[:7], 1]]),
        wire(one(), [[*SOURCE[:6], b"short", -1]]),
        wire(one(), packs=[[b"short", 0]]),
        wire(one(extra={"y": 1})),
        wire(one(extra={"e": [1, 0, 0, 0]})),
        wire(one(extra={"unknown": 1})),
        wire([[b"", [[b"b", *ROW, [], None], [b"a", *ROW, [], None]]]]),
        wire([[b"", [[b"a", *ROW, [], None], [b"a", *ROW, [], None]]]]),
        wire([[b"b\0", [[b"a", *ROW, [], None]]], [b"", [[b"a", *ROW, [], None]]]]),
        *(
            wire([[prefix, [[name, *ROW, [], None]]]])
            for prefix, name in [
                (b"", b"a/b"),
                (b"", b"a\0b"),
                (b"", b"."),
                (b"", b".."),
                (b"", b"\0short"),
                (b"", b"n" * 256),
                (b"d\0", b""),
                (b"d\0", b"\0" + b"l" * 16),
                (b"d", b"a"),
                (b"\0", b"a"),
                (b"d\0\0", b"a"),
                (b"d/e\0", b"a"),
                (b"..\0", b"a"),
                (b"n" * 256 + b"\0", b"a"),
            ]
        ),
        encoder.encode([2, 0, PACKS, [SOURCE], one()]),
        encoder.encode([1, 33, PACKS, [SOURCE], [[b"\0a", 0, 1]]]),
        encoder.encode([1, 1, PACKS, [SOURCE], [[b"\0a", 1, 1]]]),
        encoder.encode([1, 1, PACKS, [SOURCE], [[b"\0a", 0, 0]]]),
        encoder.encode([1, 1, PACKS, [SOURCE], [[b"\0b", 0, 1], [b"\0a", 0, 1]]]),
        encoder.encode([1, 0, PACKS, [SOURCE], one(), 0]),
        b"",
    ],
)
def test_forged_leaf(data: bytes) -> None:
    """A node that breaks one rule of the format is refused."""
    with pytest.raises(IntegrityError):
        decode_node(ENTRIES, data)


def test_entry_bytes_are_few() -> None:
    """A leaf of 500 plain files takes less than 100 bytes for each, tables included."""
    assert math.ceil(len(leaf(many_names(500)).data) / 500) < 100


def test_patch_and_its_base_both_as_children() -> None:
    """A base that is a child itself has one row; a base that is none comes last."""
    base, other = make_ref(b"b" * 16, 50), make_ref(b"o" * 16, 60, pack=2)
    refs = [make_ref(b"a" * 16, 70, pack=3), base, make_ref(b"c" * 16, 80, pack=4)]
    refs[0] = msgspec.structs.replace(refs[0], base=base)
    refs[2] = msgspec.structs.replace(refs[2], base=other)
    children = [Child(ref, 1) for ref in refs]
    keys = [b"\0a", b"\0b", b"\0c"]
    encoded = encode_node(ENTRIES.kind, 1, INNER, keys, children, LOGICAL_ID)
    rows = msgspec.msgpack.decode(encoded.data)[3]
    assert [row[6][:1] for row in rows] == [b"a", b"b", b"c", b"o"]
    assert [row[7] for row in rows] == [1, -1, 3, -1]
    assert decode_node(ENTRIES, encoded.data).values(0, 3) == children
