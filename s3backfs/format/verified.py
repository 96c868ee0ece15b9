"""What `check` has read and found sound, and when, so that the next one goes on with the rest.

Source: docs/format.md, "Verified states".
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from s3backfs.errors import IntegrityError
from s3backfs.format.keys import Keyring
from s3backfs.format.objects import decode_struct, open_object, seal_struct
from s3backfs.format.refs import U63, Buffer, Id, Kind

MAX_VERIFIED_BYTES = 64 * 1024 * 1024


class Verified(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Packs, and the second (since 1970, by the server's clock) in which all of each was read."""

    repository_id: Id
    packs: dict[Id, U63]


_decoder = msgspec.msgpack.Decoder(Verified)


def encode_verified(keyring: Keyring, key: str, packs: Mapping[bytes, int]) -> bytes:
    """Make the object that is stored under `key`, `verified/<id>`."""
    value = Verified(repository_id=keyring.repository_id, packs=dict(sorted(packs.items())))
    return seal_struct(keyring, Kind.VERIFIED, key, value)


def decode_verified(keyring: Keyring, key: str, data: Buffer) -> Verified:
    """Authenticate and read a verified state.

    Raises:
        UnsupportedFormatError: a newer program wrote it.
        IntegrityError: damaged, forged, or of another key or repository.
    """
    plain = open_object(keyring, Kind.VERIFIED, key, data, MAX_VERIFIED_BYTES)
    verified = decode_struct(_decoder, key, plain)
    if verified.repository_id != keyring.repository_id:
        raise IntegrityError("the state is of another repository", key=key)
    return verified
