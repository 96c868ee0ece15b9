"""Roots: the small object that is a backup.

Source: docs/format.md, "Roots".
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from s3backfs.errors import IntegrityError, UnsupportedFormatError
from s3backfs.format.keys import Keyring
from s3backfs.format.objects import decode_struct, open_object, seal_struct
from s3backfs.format.refs import FORMAT, U16, U63, Buffer, Id, Kind, Top, is_sound

__all__ = [
    "MAX_ROOT_BYTES",
    "BackupState",
    "Owner",
    "Root",
    "Seen",
    "Statistics",
    "Top",
    "decode_root",
    "encode_root",
]

MAX_ROOT_BYTES = 16 * 1024 * 1024

BackupName: TypeAlias = Annotated[bytes, Meta(min_length=1, max_length=255)]
Text: TypeAlias = Annotated[str, Meta(max_length=4096)]
Wandering: TypeAlias = Annotated[bytes, Meta(max_length=6 * 65_536)]


class BackupState(StrEnum):
    """Open backups have one writer; sealed ones never change."""

    OPEN = "open"
    SEALED = "sealed"


class Owner(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Who may write an open backup: the highest (epoch, sequence) of all copies is the state.

    Taking over raises `epoch`, each stored root raises `sequence` and has a `nonce` of its own,
    by which a writer knows its own root again.
    """

    epoch: U63
    writer: Id
    sequence: U63
    nonce: Id


class Seen(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A sealed backup that the writer saw when it sealed: its name, and its root's nonce."""

    name: BackupName
    nonce: Id


class Statistics(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a backup holds (counts and `logical_bytes`), and what storing it took.

    `entries` counts the manifest's, with the top directory's own and the link records.
    """

    entries: U63 = 0
    files: U63 = 0
    directories: U63 = 0
    symlinks: U63 = 0
    others: U63 = 0
    hard_links: U63 = 0
    logical_bytes: U63 = 0
    written_bytes: U63 = 0
    deduplicated_bytes: U63 = 0
    stored_bytes: U63 = 0


class Root(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One state of a backup. `top` is None while it holds nothing."""

    format: Annotated[int, Meta(ge=1)] = FORMAT
    repository_id: Id
    backup_id: Id
    name: BackupName
    slot: U16
    """The upper 16 bits of inode numbers."""
    state: BackupState
    created_ns: U63
    updated_ns: U63
    sealed_ns: U63 = 0
    owner: Owner
    host: Text
    statistics: Statistics
    top: Top | None = None
    seen: tuple[Seen, ...] = ()
    bases: tuple[Id, ...] = ()
    """Ids of the backups that entries were taken over from."""
    tags: dict[Text, Text] = {}
    incomplete: tuple[Id, ...] = ()
    """Packs that were lost while entries still refer to them."""
    wandering: Wandering | None = b""
    """Hashes of paths whose inodes may stand elsewhere, 6 bytes each; None: too many to say."""
    journal: bytes | None = None
    """Reserved for entries changed since the top was made."""


_decoder = msgspec.msgpack.Decoder(Root)


def encode_root(keyring: Keyring, key: str, root: Root) -> bytes:
    """Make the object that is stored under `key`: `open/<name>` or `backups/<name>`."""
    return seal_struct(keyring, Kind.ROOT, key, root)


def decode_root(keyring: Keyring, key: str, data: Buffer) -> Root:
    """Authenticate and read a root.

    Raises:
        UnsupportedFormatError: a newer program wrote it.
        IntegrityError: damaged, forged, or of another key; it carries the key.
    """
    plain = open_object(keyring, Kind.ROOT, key, data, MAX_ROOT_BYTES)
    root = decode_struct(_decoder, key, plain)
    if root.format > FORMAT:
        raise UnsupportedFormatError(f"{key}: the root has format {root.format}")
    ref = None if root.top is None else root.top.ref
    if ref is not None and not is_sound(ref):
        raise IntegrityError("the root refers to bytes that cannot be", key=key)
    return root
