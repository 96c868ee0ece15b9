"""Single encrypted objects: roots, index segments, leases.

    "s3bk" || format u8 || kind u8 || epoch u32 || plain length u32 || frame     little endian

The frame's key and associated data depend on the object's own key, so no object can stand in for
another.
Source: docs/format.md, "Single objects".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from s3backfs.errors import IntegrityError, NewerKeyError, UnsupportedFormatError
from s3backfs.format.frame import compress, open_frame, seal_frame
from s3backfs.format.keys import Keyring
from s3backfs.format.parameters import MAX_EPOCHS
from s3backfs.format.refs import FORMAT, MAGIC, Buffer, Kind, newer_format

_HEADER = struct.Struct("<4sBBII")
HEADER_BYTES = _HEADER.size
_LEVEL = 3

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Header:
    """What stands in clear in front of a single object's frame."""

    kind: int
    epoch: int
    plain_length: int


def seal_object(keyring: Keyring, kind: Kind, key: str, plain: Buffer) -> bytes:
    """Make the object that is stored under `key` (relative to the repository)."""
    header = _HEADER.pack(MAGIC, FORMAT, kind, keyring.epoch, len(plain))
    cipher = keyring.object_cipher(kind, key)
    return header + seal_frame(cipher, 0, compress(plain, _LEVEL))


def read_header(data: Buffer) -> Header:
    """Read what stands in clear in front of a single object.

    Raises:
        UnsupportedFormatError: a newer program wrote it, or the byte that says so is damaged.
        IntegrityError: this is no such object.
    """
    if len(data) < HEADER_BYTES:
        raise IntegrityError("the object is shorter than any can be")
    magic, version, kind, epoch, plain_length = _HEADER.unpack(data[:HEADER_BYTES])
    if magic != MAGIC or not version:
        raise IntegrityError("the object is not one of s3backfs")
    if version > FORMAT:
        raise UnsupportedFormatError(newer_format("the object", version))
    return Header(kind, epoch, plain_length)


def open_object(keyring: Keyring, kind: Kind, key: str, data: Buffer, max_plain: int) -> bytes:
    """Authenticate an object and return its plaintext of at most `max_plain` bytes.

    Raises:
        UnsupportedFormatError: a newer program wrote it; the text begins with the key.
        NewerKeyError: it was written under a newer key, or says so and is a forgery.
        IntegrityError: damaged, forged, or of another key or kind; it carries the key.
    """
    try:
        header = read_header(data)
        if header.kind != kind or header.plain_length > max_plain:
            raise IntegrityError("the object is of another kind or length than its key says")
        if header.epoch > keyring.epoch:
            _check_epoch_is_sound(keyring, kind, key, data)
        return _open_frame(keyring, kind, key, data, header.epoch)
    except NewerKeyError as error:
        raise NewerKeyError(error.epoch, error.known_epoch, key=key) from error
    except IntegrityError as error:
        raise IntegrityError(error.message, key=key) from error
    except UnsupportedFormatError as error:
        raise UnsupportedFormatError(f"{key}: {error}") from error


def _open_frame(keyring: Keyring, kind: Kind, key: str, data: Buffer, epoch: int) -> bytes:
    cipher = keyring.object_cipher(kind, key, epoch)
    plain_length = read_header(data).plain_length
    return open_frame(cipher, 0, memoryview(data)[HEADER_BYTES:], plain_length)


def _check_epoch_is_sound(keyring: Keyring, kind: Kind, key: str, data: Buffer) -> None:
    """Tell a damaged epoch from a newer one: with a flipped bit there, a known key still opens."""
    damaged = IntegrityError("the object's header is damaged: it names a wrong key epoch")
    if read_header(data).epoch >= MAX_EPOCHS:
        raise damaged
    if any(_opens(keyring, kind, key, data, epoch) for epoch in range(keyring.epoch + 1)):
        raise damaged


def _opens(keyring: Keyring, kind: Kind, key: str, data: Buffer, epoch: int) -> bool:
    try:
        _open_frame(keyring, kind, key, data, epoch)
    except IntegrityError:
        return False
    return True


_encoder = msgspec.msgpack.Encoder()


def seal_struct(keyring: Keyring, kind: Kind, key: str, value: msgspec.Struct) -> bytes:
    """Make the object that holds one msgpack value."""
    return seal_object(keyring, kind, key, _encoder.encode(value))


def decode_struct(decoder: msgspec.msgpack.Decoder[T], key: str, plain: bytes) -> T:
    """Read the msgpack value of an object that was opened.

    Raises:
        IntegrityError: it is none of its kind.
    """
    try:
        return decoder.decode(plain)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        raise IntegrityError(f"the object cannot be read: {error}", key=key) from error
