"""Removals: the proof that a sealed root was taken away by somebody who has the key.

Source: docs/format.md, "Removals".
"""

from __future__ import annotations

import msgspec

from s3backfs.errors import IntegrityError
from s3backfs.format.keys import Keyring
from s3backfs.format.objects import decode_struct, open_object, seal_struct
from s3backfs.format.refs import U63, Buffer, Id, Kind

MAX_REMOVAL_BYTES = 64 * 1024


class Removal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A root, and what was the newest sealed one (by its own time) when it was removed."""

    repository_id: Id
    backup_id: Id
    name: bytes
    nonce: Id
    newest_sealed_ns: U63


_decoder = msgspec.msgpack.Decoder(Removal)


def encode_removal(keyring: Keyring, key: str, removal: Removal) -> bytes:
    """Make the object that is stored under `key`, `removed/<nonce of the root>`."""
    return seal_struct(keyring, Kind.REMOVAL, key, removal)


def decode_removal(keyring: Keyring, key: str, data: Buffer) -> Removal:
    """Authenticate and read a removal.

    Raises:
        UnsupportedFormatError: a newer program wrote it.
        IntegrityError: damaged, forged, or of another key or repository.
    """
    plain = open_object(keyring, Kind.REMOVAL, key, data, MAX_REMOVAL_BYTES)
    removal = decode_struct(_decoder, key, plain)
    if removal.repository_id != keyring.repository_id:
        raise IntegrityError("the removal is of another repository", key=key)
    return removal
