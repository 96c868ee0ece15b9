"""Index segments: the tables of many packs in one object, so that a writer need not read each.

Source: docs/format.md, "Index segments".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from s3backfs.errors import IntegrityError
from s3backfs.format.codec import MAX_PLAIN_BYTES
from s3backfs.format.keys import Keyring
from s3backfs.format.objects import decode_struct, open_object, seal_object
from s3backfs.format.pack import FOOTER_BYTES, PackRow, check_rows
from s3backfs.format.refs import U32, U63, Buffer, Id, Kind

MAX_SEGMENT_BYTES = MAX_PLAIN_BYTES
"""A writer begins another segment before one grows longer than this."""


class SegmentPack(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One pack: what its own table says, and how long the object is."""

    pack_id: Id
    epoch: U32
    kind: Kind
    length: U63
    """Length of the pack's object in bytes; a pack of another length is not this one."""
    rows: tuple[PackRow, ...]


Segment: TypeAlias = tuple[SegmentPack, ...]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Segment)


def encode_segment(keyring: Keyring, key: str, packs: Iterable[SegmentPack]) -> bytes:
    """Make the object that is stored under `key`, `index/<id>`."""
    return seal_object(keyring, Kind.INDEX, key, _encoder.encode(tuple(packs)))


def decode_segment(keyring: Keyring, key: str, data: Buffer) -> Segment:
    """Authenticate and read an index segment.

    Raises:
        UnsupportedFormatError: a newer program wrote it.
        IntegrityError: damaged, forged, of another key, or rows that cannot be.
    """
    plain = open_object(keyring, Kind.INDEX, key, data, MAX_SEGMENT_BYTES)
    packs = decode_struct(_decoder, key, plain)
    for pack in packs:
        if pack.kind not in (Kind.DATA, Kind.META):
            raise IntegrityError("a segment lists what is no pack", key=key)
        check_rows(pack.rows, pack.length - FOOTER_BYTES)
    return packs
