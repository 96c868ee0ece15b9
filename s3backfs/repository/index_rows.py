"""How the local index writes a place, with a checksum: SQLite's pages have none.

Only this machine reads these rows; the format of the repository does not know them.
"""

from __future__ import annotations

import struct
import zlib
from typing import TypeAlias

import msgspec

from s3backfs.format.pack import PackRow
from s3backfs.format.refs import Ref

_PLACE = struct.Struct("<QIIII")
_CONTEXT = struct.Struct("<QQQ")
_SUM = struct.Struct("<I")

_encoder = msgspec.msgpack.Encoder()
_base_decoder = msgspec.msgpack.Decoder(Ref)
_rows_decoder = msgspec.msgpack.Decoder(tuple[PackRow, ...])

Found: TypeAlias = tuple[bytes, bytes, bytes | None, bytes, int]
"""Content id, place, base, pack id, epoch."""


class DamagedRowError(Exception):
    """A row does not match its checksum."""


def encode_place(ref: Ref) -> tuple[bytes, bytes | None]:
    """Return what is stored of a ref beside its id and its pack: place, and base if it has one."""
    place = _PLACE.pack(
        ref.pack_offset,
        ref.frame_length,
        ref.chunk_length,
        ref.slice_offset,
        ref.slice_length,
    )
    base = None if ref.base is None else _encoder.encode(ref.base)
    return place + _sum(ref.id, ref.pack_id, ref.epoch, place, base), base


def decode_ref(found: Found) -> Ref:
    """Make the ref of a row.

    Raises:
        DamagedRowError: something in it has changed.
    """
    content_id, stored, base, pack_id, epoch = found
    place, checksum = stored[: _PLACE.size], stored[_PLACE.size :]
    if checksum != _sum(content_id, pack_id, epoch, place, base):
        raise DamagedRowError("a row does not match its checksum")
    pack_offset, frame_length, chunk_length, slice_offset, slice_length = _PLACE.unpack(place)
    return Ref(
        pack_id=pack_id,
        epoch=epoch,
        pack_offset=pack_offset,
        frame_length=frame_length,
        chunk_length=chunk_length,
        slice_offset=slice_offset,
        slice_length=slice_length,
        id=content_id,
        base=None if base is None else _base_decoder.decode(base),
    )


def _sum(content_id: bytes, pack_id: bytes, epoch: int, place: bytes, base: bytes | None) -> bytes:
    whole = b"".join((content_id, pack_id, epoch.to_bytes(4, "little"), place, base or b""))
    return _SUM.pack(zlib.crc32(whole))


def encode_rows(rows: tuple[PackRow, ...], epoch: int, kind: int, length: int) -> bytes:
    """Write a pack's table, to be put into a segment later."""
    data = _encoder.encode(rows)
    return data + _SUM.pack(zlib.crc32(data, zlib.crc32(_CONTEXT.pack(epoch, kind, length))))


def decode_rows(stored: bytes, epoch: int, kind: int, length: int) -> tuple[PackRow, ...]:
    """Read a pack's table.

    Raises:
        DamagedRowError: something in it, or about the pack, has changed.
    """
    data, checksum = stored[: -_SUM.size], stored[-_SUM.size :]
    expected = zlib.crc32(data, zlib.crc32(_CONTEXT.pack(epoch, kind, length)))
    if checksum != _SUM.pack(expected):
        raise DamagedRowError("a pack's rows do not match their checksum")
    try:
        return _rows_decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DamagedRowError("a pack's rows cannot be read") from error
