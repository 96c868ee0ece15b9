"""Tables and footers of packs."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3backfs.errors import IntegrityError, UnsupportedFormatError
from s3backfs.format.keys import Keyring
from s3backfs.format.pack import (
    FOOTER_BYTES,
    PackRow,
    PackTable,
    SliceRow,
    base_row,
    chunk_ref,
    content_refs,
    decode_footer,
    decode_pack_table,
    encode_pack_table,
    encode_pack_tail,
    open_pack_table,
)
from s3backfs.format.refs import Kind
from tests.format.samples import (
    AES,
    PACK_ID,
    REF,
    ROTATED,
    ROWS,
    assert_refuses_damage,
    each_keyring,
    sample_id,
)


def read_tail(keyring: Keyring, tail: bytes, pack_length: int) -> PackTable:
    """Read a table as one who has the end of a pack only."""
    footer = decode_footer(tail, pack_length)
    if footer.tail_length > len(tail):
        raise IntegrityError("the tail is too short for this test")
    cipher = keyring.pack_cipher(footer.kind, PACK_ID, footer.epoch)
    frame = memoryview(tail)[-footer.tail_length : -FOOTER_BYTES]
    return open_pack_table(cipher, footer, frame, pack_length)


@each_keyring()
def test_tail_round_trip(keyring: Keyring) -> None:
    """The end of a pack gives all rows back, whatever stands in front of it."""
    tail = encode_pack_tail(keyring.pack_cipher(Kind.META, PACK_ID), 200, ROWS)
    assert read_tail(keyring, tail, 200 + len(tail)) == ROWS
    assert read_tail(keyring, b"frames" + tail, 200 + len(tail)) == ROWS


def test_footer_names_the_epoch() -> None:
    """A table written after a rotation is read with the newer master."""
    tail = encode_pack_tail(ROTATED.pack_cipher(Kind.DATA, PACK_ID), 200, ROWS)
    assert decode_footer(tail, 200 + len(tail)).epoch == 1
    assert read_tail(ROTATED, tail, 200 + len(tail)) == ROWS
    with pytest.raises(IntegrityError):
        read_tail(AES, tail, 200 + len(tail))


@each_keyring()
def test_damage(keyring: Keyring) -> None:
    """Any damage in table or footer is noticed, and a pack of another length too."""
    tail = encode_pack_tail(keyring.pack_cipher(Kind.META, PACK_ID), 200, ROWS)
    length = 200 + len(tail)
    assert_refuses_damage(tail, lambda data: read_tail(keyring, data, length))
    for wrong in (length - 1, length + 1):
        with pytest.raises(IntegrityError):
            read_tail(keyring, tail, wrong)


def test_newer_format() -> None:
    """A pack of a newer format is told from a damaged one."""
    tail = bytearray(encode_pack_tail(AES.pack_cipher(Kind.META, PACK_ID), 200, ROWS))
    tail[-7] = 2
    with pytest.raises(UnsupportedFormatError, match=r"format 2.*damaged.*upgrade"):
        decode_footer(tail, 200 + len(tail))


@pytest.mark.parametrize(
    "rows",
    [
        [PackRow(0, 201, 10, sample_id(1))],
        [PackRow(0, 100, 10, sample_id(1)), PackRow(99, 10, 10, sample_id(2))],
        [PackRow(0, 100, 10, sample_id(1), (SliceRow(sample_id(2), 5, 6),))],
        [PackRow(-1, 100, 10, sample_id(1))],
        [PackRow(0, 100, 10, b"short")],
    ],
)
def test_impossible_rows(rows: list[PackRow]) -> None:
    """Rows that overlap, leave the pack or their chunk, or break bounds are refused."""
    with pytest.raises(IntegrityError):
        decode_pack_table(encode_pack_table(rows), 200)


@given(data=st.binary(max_size=200))
def test_any_table_and_footer(data: bytes) -> None:
    """Whatever bytes come, decoding raises IntegrityError or UnsupportedFormatError at most."""
    with suppress(IntegrityError):
        decode_pack_table(data, 2**40)
    for tail in (data, data[:15] + b"\x00\x00s3bk"):
        with suppress(IntegrityError, UnsupportedFormatError):
            decode_footer(tail, 2**40)


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=8),
    max_leaves=40,
)


@given(value=JSON_LIKE)
def test_any_msgpack(value: object) -> None:
    """Well-formed msgpack that is no table is IntegrityError."""
    with suppress(IntegrityError):
        decode_pack_table(msgspec.msgpack.encode(value), 2**40)


def test_refs() -> None:
    """Rows lead to refs: slices for a bundle, whole chunks, and nodes with their bases."""
    whole, first, second, node = content_refs(PACK_ID, 0, ROWS)
    assert (whole.pack_offset, whole.frame_length, whole.slice_length) == (0, 100, 200)
    assert (first.id, first.slice_offset, first.slice_length) == (sample_id(3), 0, 40)
    assert (second.pack_offset, second.slice_offset, second.slice_length) == (100, 40, 50)
    assert second.chunk_length == 90
    assert node.base is not None
    assert node.base == chunk_ref(PACK_ID, 0, ROWS[0])
    assert base_row(node.base) == ROWS[2].base
    assert base_row(REF).offset == REF.pack_offset
