"""Objects by which writers and prune know of each other: leases, condemned sets, moved tables.

Source: docs/format.md, "Leases", "Condemned sets", "Moved tables".
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from s3backfs.errors import IntegrityError
from s3backfs.format.keys import Keyring
from s3backfs.format.objects import decode_struct, open_object, seal_struct
from s3backfs.format.refs import U32, U63, Buffer, Id, Kind, Ref, is_sound

MAX_LEASE_BYTES = 1024 * 1024
MAX_CONDEMNED_BYTES = 64 * 1024 * 1024
MAX_MOVED_BYTES = 64 * 1024 * 1024


class Lease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A writer says that it is alive, and which condemned sets it obeys.

    Times are the server's: the `Date` of the answer to the request before, 0 where none is known.
    `is_dead` is written by prune over an expired lease, before it is ignored.
    """

    repository_id: Id
    writer: Id
    host: Annotated[str, Meta(max_length=4096)]
    boot_id: Annotated[str, Meta(max_length=256)]
    process_id: U32
    started_ns: U63
    renewed_ns: U63
    sequence: U63
    duration_ms: U63
    acknowledged: tuple[Id, ...] = ()
    is_dead: bool = False


class Condemned(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Packs that nothing referred to when prune looked, or whose contents it has copied.

    `tables` are packs that are gone already, and whose moved tables nothing needed.
    """

    repository_id: Id
    set_id: Id
    created_ns: U63
    grace_ms: U63
    packs: tuple[Id, ...]
    tables: tuple[Id, ...] = ()


class MovedRange(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Plaintext of a chunk that lies elsewhere now.

    `offset` bytes into the old chunk of the frame at `pack_offset`, `length` bytes, are now the
    content of `target`.
    """

    pack_offset: U63
    offset: U32
    length: U32
    target: Ref


class Moved(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the live ranges of a compacted pack went; sorted, without overlap."""

    repository_id: Id
    pack_id: Id
    ranges: tuple[MovedRange, ...]


_lease_decoder = msgspec.msgpack.Decoder(Lease)
_condemned_decoder = msgspec.msgpack.Decoder(Condemned)
_moved_decoder = msgspec.msgpack.Decoder(Moved)


def encode_lease(keyring: Keyring, key: str, lease: Lease) -> bytes:
    """Make the object that is stored under `key`, below `leases/<writer>/`."""
    return seal_struct(keyring, Kind.LEASE, key, lease)


def decode_lease(keyring: Keyring, key: str, data: Buffer) -> Lease:
    """Authenticate and read a lease.

    Raises:
        UnsupportedFormatError: a newer program wrote it.
        IntegrityError: damaged, forged, or of another key.
    """
    plain = open_object(keyring, Kind.LEASE, key, data, MAX_LEASE_BYTES)
    return decode_struct(_lease_decoder, key, plain)


def encode_condemned(keyring: Keyring, key: str, condemned: Condemned) -> bytes:
    """Make the object that is stored under `key`, `prune/<set id>`."""
    return seal_struct(keyring, Kind.CONDEMNED, key, condemned)


def decode_condemned(keyring: Keyring, key: str, data: Buffer) -> Condemned:
    """Authenticate and read a condemned set.

    Raises:
        UnsupportedFormatError: a newer program wrote it.
        IntegrityError: damaged, forged, or of another key.
    """
    plain = open_object(keyring, Kind.CONDEMNED, key, data, MAX_CONDEMNED_BYTES)
    return decode_struct(_condemned_decoder, key, plain)


def encode_moved(keyring: Keyring, key: str, moved: Moved) -> bytes:
    """Make the object that is stored under `key`, `moved/<pack id>`."""
    return seal_struct(keyring, Kind.MOVED, key, moved)


def decode_moved(keyring: Keyring, key: str, data: Buffer) -> Moved:
    """Authenticate and read a moved table.

    Raises:
        UnsupportedFormatError: a newer program wrote it.
        IntegrityError: damaged, forged, of another key, or ranges that cannot be.
    """
    plain = open_object(keyring, Kind.MOVED, key, data, MAX_MOVED_BYTES)
    moved = decode_struct(_moved_decoder, key, plain)
    position = (-1, 0)
    for part in moved.ranges:
        if (part.pack_offset, part.offset) < position or not is_sound(part.target):
            raise IntegrityError("a moved table has ranges that cannot be", key=key)
        if part.target.slice_length != part.length:
            raise IntegrityError("a moved range changes its length", key=key)
        position = (part.pack_offset, part.offset + part.length)
    return moved
