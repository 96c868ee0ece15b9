"""Tags: short texts about a backup, each an object of its own.

Source: docs/format.md, "Tags".
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from s3backfs.errors import IntegrityError
from s3backfs.format.keys import Keyring
from s3backfs.format.objects import decode_struct, open_object, seal_struct
from s3backfs.format.refs import Buffer, Id, Kind

MAX_TAG_BYTES = 64 * 1024

TagText: TypeAlias = Annotated[str, Meta(max_length=4096)]


class Tag(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tag of one backup; a value of None takes back one that stands in the root."""

    repository_id: Id
    backup_id: Id
    name: TagText
    value: TagText | None


_decoder = msgspec.msgpack.Decoder(Tag)


def encode_tag(keyring: Keyring, key: str, tag: Tag) -> bytes:
    """Make the object that is stored under `key`, `tags/<backup id>/<name>`."""
    return seal_struct(keyring, Kind.TAG, key, tag)


def decode_tag(keyring: Keyring, key: str, data: Buffer) -> Tag:
    """Authenticate and read a tag.

    Raises:
        UnsupportedFormatError: a newer program wrote it.
        IntegrityError: damaged, forged, or of another key or repository.
    """
    tag = decode_struct(_decoder, key, open_object(keyring, Kind.TAG, key, data, MAX_TAG_BYTES))
    if tag.repository_id != keyring.repository_id:
        raise IntegrityError("the tag is of another repository", key=key)
    return tag
