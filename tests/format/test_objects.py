"""Single encrypted objects and what they hold: roots, segments, leases, sets, moved tables."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3backfs.errors import IntegrityError, UnsupportedFormatError
from s3backfs.format.keys import Keyring
from s3backfs.format.lease import (
    Condemned,
    Lease,
    Moved,
    MovedRange,
    decode_condemned,
    decode_lease,
    decode_moved,
    encode_condemned,
    encode_lease,
    encode_moved,
)
from s3backfs.format.objects import open_object, seal_object
from s3backfs.format.refs import Kind, Top
from s3backfs.format.root import BackupState, Owner, Root, Statistics, decode_root, encode_root
from s3backfs.format.segment import SegmentPack, decode_segment, encode_segment
from tests.format.samples import (
    AES,
    KEYRINGS,
    PACK_ID,
    PATCHED,
    REF,
    ROTATED,
    ROWS,
    assert_refuses_damage,
    each_keyring,
    sample_id,
    sample_root,
)

SEGMENT = (SegmentPack(PACK_ID, 0, Kind.META, 1000, ROWS),)
LEASE = Lease(
    repository_id=AES.repository_id,
    writer=sample_id(1),
    host="web1",
    boot_id="b",
    process_id=42,
    started_ns=1,
    renewed_ns=2,
    sequence=3,
    duration_ms=4,
    acknowledged=(sample_id(2),),
)
CONDEMNED = Condemned(
    repository_id=AES.repository_id,
    set_id=sample_id(1),
    created_ns=1,
    grace_ms=2,
    packs=(PACK_ID,),
)
MOVED = Moved(
    repository_id=AES.repository_id,
    pack_id=PACK_ID,
    ranges=(MovedRange(0, 0, 20, REF), MovedRange(0, 20, 20, REF), MovedRange(7, 0, 20, REF)),
)

Encode = Callable[[Keyring, str, Any], bytes]
Decode = Callable[[Keyring, str, bytes], Any]
FORMS: list[tuple[Encode, Decode, Any]] = [
    (encode_root, decode_root, sample_root(AES)),
    (encode_segment, decode_segment, SEGMENT),
    (encode_lease, decode_lease, LEASE),
    (encode_condemned, decode_condemned, CONDEMNED),
    (encode_moved, decode_moved, MOVED),
]
each_form = pytest.mark.parametrize(
    ("encode", "decode", "value"), FORMS, ids=["root", "segment", "lease", "condemned", "moved"]
)


@each_keyring()
@each_form
def test_round_trip(keyring: Keyring, encode: Encode, decode: Decode, value: Any) -> None:
    """What was stored under a key is read back under it, with every field."""
    assert decode(keyring, "dir/name", encode(keyring, "dir/name", value)) == value


@each_keyring()
@each_form
def test_damage(keyring: Keyring, encode: Encode, decode: Decode, value: Any) -> None:
    """Any flipped bit, cut or appendage is noticed, and the error names the object."""
    data = encode(keyring, "dir/name", value)
    assert_refuses_damage(data, lambda broken: decode(keyring, "dir/name", broken))
    with pytest.raises(IntegrityError, match="dir/name") as caught:
        decode(keyring, "dir/name", data[:-1])
    assert caught.value.key == "dir/name"


@each_keyring()
@each_form
def test_objects_do_not_stand_in(
    keyring: Keyring, encode: Encode, decode: Decode, value: Any
) -> None:
    """An object under another's key, or read as another kind, does not open."""
    data = encode(keyring, "dir/name", value)
    with pytest.raises(IntegrityError):
        decode(keyring, "dir/other", data)
    for _, other, _ in FORMS:
        if other is not decode:
            with pytest.raises(IntegrityError):
                other(keyring, "dir/name", data)


@each_form
def test_newer_format(encode: Encode, decode: Decode, value: Any) -> None:
    """An object of a newer format is told from a damaged one."""
    data = bytearray(encode(AES, "dir/name", value))
    data[4] = 2
    with pytest.raises(UnsupportedFormatError, match=r"dir/name.*format 2.*damaged.*upgrade"):
        decode(AES, "dir/name", bytes(data))


@each_form
def test_rotation(encode: Encode, decode: Decode, value: Any) -> None:
    """Objects of both epochs are read after a rotation; new ones are of the newer epoch."""
    old, new = encode(AES, "a/b", value), encode(ROTATED, "a/b", value)
    assert decode(ROTATED, "a/b", old) == decode(ROTATED, "a/b", new) == value
    assert new[6:10] == b"\x01\0\0\0"
    with pytest.raises(IntegrityError, match="epoch 1"):
        decode(AES, "a/b", new)


def test_length_is_bounded() -> None:
    """An object longer than its kind allows is refused before it is decompressed."""
    data = seal_object(AES, Kind.ROOT, "open/a", bytes(1001))
    assert open_object(AES, Kind.ROOT, "open/a", data, 1001) == bytes(1001)
    with pytest.raises(IntegrityError):
        open_object(AES, Kind.ROOT, "open/a", data, 1000)


@given(data=st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Whatever bytes stand under a key, reading them raises one of two errors."""
    for keyring in KEYRINGS:
        for _, decode, _ in FORMS:
            for read in (data, b"s3bk\x01\x03\0\0\0\0" + data):
                with suppress(IntegrityError, UnsupportedFormatError):
                    decode(keyring, "dir/name", read)


JSON_LIKE = st.recursive(
    st.none() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=20) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(st.sampled_from(Root.__struct_fields__), inner, max_size=16)
    ),
    max_leaves=40,
)


@given(value=JSON_LIKE)
def test_any_msgpack(value: object) -> None:
    """Authentic objects that hold anything else than they should are IntegrityError."""
    kinds = [Kind.ROOT, Kind.INDEX, Kind.LEASE, Kind.CONDEMNED, Kind.MOVED]
    for kind, (_, decode, _) in zip(kinds, FORMS, strict=True):
        data = seal_object(AES, kind, "a/b", msgspec.msgpack.encode(value))
        with suppress(IntegrityError, UnsupportedFormatError):
            decode(AES, "a/b", data)


def test_root_of_an_empty_backup() -> None:
    """A root without a top is read back with its defaults."""
    root = Root(
        repository_id=AES.repository_id,
        backup_id=sample_id(1),
        name=b"a",
        slot=1,
        state=BackupState.OPEN,
        created_ns=1,
        updated_ns=1,
        owner=Owner(1, sample_id(2), 1, sample_id(3)),
        host="",
        statistics=Statistics(),
    )
    assert decode_root(AES, "open/a", encode_root(AES, "open/a", root)) == root


def test_root_with_an_inline_top() -> None:
    """The top node's own bytes can stand in the root, up to 64 KiB."""
    for length, is_fine in [(64 * 1024, True), (64 * 1024 + 1, False)]:
        root = msgspec.structs.replace(sample_root(AES), top=Top(0, None, bytes(length), 3))
        data = encode_root(AES, "open/a", root)
        if is_fine:
            assert decode_root(AES, "open/a", data) == root
        else:
            with pytest.raises(IntegrityError):
                decode_root(AES, "open/a", data)


def test_root_refuses_impossible_refs() -> None:
    """A top whose base is a patch itself, or whose slice leaves its chunk, is refused."""
    deep = msgspec.structs.replace(REF, base=PATCHED)
    wide = msgspec.structs.replace(REF, slice_length=301)
    for ref in (deep, wide):
        root = msgspec.structs.replace(sample_root(AES), top=Top(0, ref, None, 3))
        with pytest.raises(IntegrityError):
            decode_root(AES, "open/a", encode_root(AES, "open/a", root))


def test_newer_root() -> None:
    """A root that says it is of a newer format is UnsupportedFormatError."""
    root = msgspec.structs.replace(sample_root(AES), format=2)
    with pytest.raises(UnsupportedFormatError):
        decode_root(AES, "open/a", encode_root(AES, "open/a", root))


def test_segment_refuses_impossible_packs() -> None:
    """A segment whose rows leave their pack, or that lists no pack at all, is refused."""
    for kind, length in [(Kind.META, 219), (Kind.ROOT, 1000)]:
        data = encode_segment(AES, "index/a", [SegmentPack(PACK_ID, 0, kind, length, ROWS)])
        with pytest.raises(IntegrityError):
            decode_segment(AES, "index/a", data)


def test_moved_refuses_impossible_ranges() -> None:
    """Ranges that overlap, are not sorted or change their length are refused."""
    first, second = MovedRange(0, 0, 20, REF), MovedRange(0, 19, 20, REF)
    for ranges in [(first, second), (second, first), (MovedRange(0, 0, 21, REF),)]:
        moved = msgspec.structs.replace(MOVED, ranges=ranges)
        with pytest.raises(IntegrityError):
            decode_moved(AES, "moved/a", encode_moved(AES, "moved/a", moved))
