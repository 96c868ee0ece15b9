"""Packs: frames back to back, an encrypted table of them, and a footer.

    frame ... frame || table frame || footer (20)
    footer    table frame length u32 || table plain length u32 || epoch u32 || kind u8 || format u8
              || zero u16 || "s3bk"                                        little endian

The table says all that the frames hold, so that an index can be rebuilt from packs alone.
Source: docs/format.md, "Packs".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from s3backfs.errors import IntegrityError, UnsupportedFormatError
from s3backfs.format.frame import FrameCipher, compress, open_frame, seal_frame
from s3backfs.format.refs import FORMAT, MAGIC, U32, U63, Buffer, Id, Kind, Ref, newer_format

TAIL_BYTES = 64 * 1024
"""How much of a pack's end to read at first: table and footer of most packs are in it."""

_FOOTER = struct.Struct("<IIIBBH4s")
FOOTER_BYTES = _FOOTER.size
_TABLE_LEVEL = 3


class SliceRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """One content in a bundle; `offset` counts in the chunk's plaintext."""

    id: Id
    offset: U32
    length: U32


class BaseRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """The whole node that a patch needs."""

    pack_id: Id
    epoch: U32
    offset: U63
    frame_length: U32
    chunk_length: U32
    id: Id


class PackRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One frame of a pack: a chunk, perhaps with slices, or a node, perhaps with a base."""

    offset: U63
    frame_length: U32
    chunk_length: U32
    id: Id
    slices: tuple[SliceRow, ...] = ()
    base: BaseRow | None = None


PackTable: TypeAlias = tuple[PackRow, ...]
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(PackTable)


@dataclass(frozen=True, slots=True)
class Footer:
    """The end of a pack; nothing in it is believed before the table opens with it."""

    table_length: int
    """Length of the table's frame."""
    table_plain_length: int
    epoch: int
    kind: Kind

    @property
    def tail_length(self) -> int:
        """How many bytes the end of a pack has that are not frames of content."""
        return self.table_length + FOOTER_BYTES


# -- writing ----------------------------------------------------------------------------------


def encode_pack_table(rows: Sequence[PackRow]) -> bytes:
    """Write the plaintext of a table; rows are sorted by offset."""
    return _encoder.encode(rows)


def encode_footer(footer: Footer) -> bytes:
    """Write a footer."""
    return _FOOTER.pack(
        footer.table_length,
        footer.table_plain_length,
        footer.epoch,
        footer.kind,
        FORMAT,
        0,
        MAGIC,
    )


def encode_pack_tail(cipher: FrameCipher, table_offset: int, rows: Sequence[PackRow]) -> bytes:
    """Write all that comes after the last frame, which ends at `table_offset`."""
    plain = encode_pack_table(rows)
    frame = seal_frame(cipher, table_offset, compress(plain, _TABLE_LEVEL))
    return frame + encode_footer(Footer(len(frame), len(plain), cipher.epoch, cipher.kind))


# -- reading ----------------------------------------------------------------------------------


def decode_footer(tail: Buffer, pack_length: int) -> Footer:
    """Read the footer out of the last bytes of a pack of `pack_length` bytes.

    Raises:
        UnsupportedFormatError: a newer program wrote this pack.
        IntegrityError: this is not the end of a pack.
    """
    if not FOOTER_BYTES <= len(tail) <= pack_length:
        raise IntegrityError("a pack is shorter than any can be")
    length, plain, epoch, kind, version, zero, magic = _FOOTER.unpack(tail[-FOOTER_BYTES:])
    if magic != MAGIC:
        raise IntegrityError("this is not the end of a pack")
    if version > FORMAT:
        raise UnsupportedFormatError(newer_format("the pack", version))
    footer_is_sound = version == FORMAT and not zero and kind in (Kind.DATA, Kind.META)
    if not footer_is_sound or length + FOOTER_BYTES > pack_length:
        raise IntegrityError("the footer of a pack is damaged")
    return Footer(length, plain, epoch, Kind(kind))


def open_pack_table(
    cipher: FrameCipher, footer: Footer, frame: Buffer, pack_length: int
) -> PackTable:
    """Authenticate and read the table of a pack out of its frame.

    Raises:
        IntegrityError: damaged, or rows that cannot be.
    """
    offset = pack_length - footer.tail_length
    return decode_pack_table(open_frame(cipher, offset, frame, footer.table_plain_length), offset)


def decode_pack_table(plain: bytes, table_offset: int) -> PackTable:
    """Read the plaintext of a table that stands at `table_offset`.

    Raises:
        IntegrityError: no table, or rows that cannot be.
    """
    try:
        rows = _decoder.decode(plain)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise IntegrityError(f"the table of a pack cannot be read: {error}") from error
    check_rows(rows, table_offset)
    return rows


def check_rows(rows: Iterable[PackRow], end: int) -> None:
    """Hold rows to what they must be in a pack whose frames end at `end`.

    Raises:
        IntegrityError: frames overlap or leave the pack, slices leave their chunk.
    """
    position = 0
    for row in rows:
        if row.offset < position:
            raise IntegrityError("frames of a pack overlap")
        position = row.offset + row.frame_length
        for part in row.slices:
            if part.offset + part.length > row.chunk_length:
                raise IntegrityError("a slice leaves its chunk")
    if position > end:
        raise IntegrityError("a frame leaves its pack")


# -- references -------------------------------------------------------------------------------


def chunk_ref(pack_id: bytes, epoch: int, row: PackRow) -> Ref:
    """Return the ref of a row's whole chunk or node."""
    return Ref(
        pack_id=pack_id,
        epoch=epoch,
        pack_offset=row.offset,
        frame_length=row.frame_length,
        chunk_length=row.chunk_length,
        slice_offset=0,
        slice_length=row.chunk_length,
        id=row.id,
        base=None if row.base is None else _base_ref(row.base),
    )


def _base_ref(base: BaseRow) -> Ref:
    return Ref(
        pack_id=base.pack_id,
        epoch=base.epoch,
        pack_offset=base.offset,
        frame_length=base.frame_length,
        chunk_length=base.chunk_length,
        slice_offset=0,
        slice_length=base.chunk_length,
        id=base.id,
    )


def base_row(ref: Ref) -> BaseRow:
    """Return how a table names the base of a patch."""
    return BaseRow(
        ref.pack_id, ref.epoch, ref.pack_offset, ref.frame_length, ref.chunk_length, ref.id
    )


def slice_ref(chunk: Ref, part: SliceRow) -> Ref:
    """Return the ref of one content in a bundle."""
    return Ref(
        pack_id=chunk.pack_id,
        epoch=chunk.epoch,
        pack_offset=chunk.pack_offset,
        frame_length=chunk.frame_length,
        chunk_length=chunk.chunk_length,
        slice_offset=part.offset,
        slice_length=part.length,
        id=part.id,
    )


def content_refs(pack_id: bytes, epoch: int, rows: Iterable[PackRow]) -> Iterator[Ref]:
    """Yield the refs that deduplication may use: slices of bundles, else whole chunks and nodes."""
    for row in rows:
        chunk = chunk_ref(pack_id, epoch, row)
        if row.slices:
            yield from (slice_ref(chunk, part) for part in row.slices)
        else:
            yield chunk
