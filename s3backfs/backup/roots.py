"""Root objects: reading them, and replacing one's own without ever losing a newer one."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass

import msgspec

from s3backfs.errors import (
    IntegrityError,
    ObjectMissingError,
    OwnershipLostError,
    PreconditionFailedError,
    RepositoryExistsError,
)
from s3backfs.format.keys import Keyring
from s3backfs.format.refs import ID_BYTES
from s3backfs.format.root import BackupState, Root, decode_root, encode_root
from s3backfs.repository.repository import Repository
from s3backfs.store.base import Condition, IfAbsent, IfMatch, Store

log = logging.getLogger(__name__)

OPEN_PREFIX = "open/"
SEALED_PREFIX = "backups/"


@dataclass(frozen=True, slots=True)
class HeldRoot:
    """A root with the etag of its object; an empty etag means that it is not stored yet."""

    root: Root
    key: str
    etag: str

    @property
    def is_unstored(self) -> bool:
        """Whether the object is still to be written."""
        return not self.etag


def open_key(repository: Repository, name: bytes) -> str:
    """The key of an open backup's root."""
    return OPEN_PREFIX + repository.keyring.encode_name(name)


def sealed_key(repository: Repository, name: bytes) -> str:
    """The key of a sealed backup's root."""
    return SEALED_PREFIX + repository.keyring.encode_name(name)


async def load_root(store: Store, keyring: Keyring, key: str) -> HeldRoot:
    """Read and authenticate one root.

    Raises:
        ObjectMissingError: it is not there.
        IntegrityError: it is damaged, or stands under a name that is not its own.
    """
    fetched = await store.get(key)
    root = decode_root(keyring, key, fetched.data)
    if root.repository_id != keyring.repository_id:
        raise IntegrityError("the root belongs to another repository", key=key)
    if not key.endswith("/" + keyring.encode_name(root.name)):
        raise IntegrityError("the root belongs to another name", key=key)
    return HeldRoot(root, key, fetched.etag)


async def create_open_root(repository: Repository, root: Root) -> HeldRoot:
    """Store the first root of a new open backup.

    Raises:
        RepositoryExistsError: somebody else has taken the name.
    """
    key = open_key(repository, root.name)
    try:
        return await _put(repository, key, root, IfAbsent())
    except PreconditionFailedError as error:
        raise RepositoryExistsError("another writer has just taken this name") from error


async def store_open_root(repository: Repository, held: HeldRoot, root: Root) -> HeldRoot:
    """Replace the root of an open backup that this writer owns.

    Raises:
        OwnershipLostError: another writer has taken the backup over.
    """
    condition: Condition = IfMatch(held.etag) if held.etag else IfAbsent()
    if repository.store.has_conditional_put is False:
        await _check_owner(repository, held.key, root)
    try:
        return await _put(repository, held.key, root, condition)
    except PreconditionFailedError as error:
        raise OwnershipLostError(
            "this open backup was taken over or removed by another writer"
        ) from error


async def store_sealed_root(repository: Repository, root: Root) -> HeldRoot:
    """Create the root of a sealed backup; it is never replaced.

    Raises:
        RepositoryExistsError: there is a sealed backup of this name.
    """
    key = sealed_key(repository, root.name)
    sealed: Root = msgspec.structs.replace(root, state=BackupState.SEALED)
    try:
        return await _put(repository, key, sealed, IfAbsent())
    except PreconditionFailedError as error:
        raise RepositoryExistsError("there is a sealed backup of this name already") from error


async def _check_owner(repository: Repository, key: str, root: Root) -> None:
    """Where conditions are not enforced, look before writing."""
    try:
        current = (await load_root(repository.store, repository.keyring, key)).root
    except ObjectMissingError:
        if root.owner.sequence <= 1:
            return
        raise OwnershipLostError("the root of this open backup was removed") from None
    same_backup = current.backup_id == root.backup_id
    if not same_backup or current.owner.epoch > root.owner.epoch:
        raise OwnershipLostError("this open backup was taken over by another writer")


async def _put(repository: Repository, key: str, root: Root, condition: Condition) -> HeldRoot:
    """Write a root with a fresh nonce; after a failed condition its own nonce means success."""
    if repository.store.has_conditional_put is None:
        await repository.store.probe(f"leases/{repository.writer_id.hex()}/probe")
    owner = msgspec.structs.replace(root.owner, nonce=secrets.token_bytes(ID_BYTES))
    root = msgspec.structs.replace(root, owner=owner)
    data = encode_root(repository.keyring, key, root)
    try:
        stored = await repository.store.put(key, data, condition=condition)
    except PreconditionFailedError:
        # An answer that was lost and sent again looks like this too.
        held = await _load_own(repository, key, owner.nonce)
        if held is None:
            raise
        return held
    return HeldRoot(root, key, stored.etag)


async def _load_own(repository: Repository, key: str, nonce: bytes) -> HeldRoot | None:
    try:
        held = await load_root(repository.store, repository.keyring, key)
    except (ObjectMissingError, IntegrityError):
        return None
    return held if held.root.owner.nonce == nonce else None
