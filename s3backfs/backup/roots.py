"""Root objects: where they are, and reading them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import msgspec

from s3backfs.backup.copies import Copy
from s3backfs.errors import IntegrityError, ObjectMissingError, RepositoryExistsError
from s3backfs.format.keys import Keyring
from s3backfs.format.root import Root, decode_root
from s3backfs.repository.repository import Repository
from s3backfs.store.base import Store

OPEN_PREFIX = "open/"
SEALED_PREFIX = "backups/"


@dataclass(frozen=True, slots=True)
class HeldRoot:
    """A root with the etag of its object; an empty etag means that it is not stored yet."""

    root: Root
    key: str
    etag: str

    @property
    def is_in_place(self) -> bool:
        """Whether it is a sealed root that stands among the sealed ones."""
        return self.key.startswith(SEALED_PREFIX)

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


async def check_absent(store: Store, key: str) -> None:
    """Refuse a name that has a root already.

    Raises:
        RepositoryExistsError: it has.
    """
    with suppress(ObjectMissingError):
        await store.head(key)
        raise RepositoryExistsError("another writer has just taken this name")


async def load_copy(store: Store, keyring: Keyring, copy: Copy) -> Root:
    """Read a copy of an open root.

    Raises:
        ObjectMissingError: it is not there.
        IntegrityError: it is damaged, or is not what its key says.
    """
    root = decode_root(keyring, copy.key, (await store.get(copy.key)).data)
    if root.repository_id != keyring.repository_id or Copy.of(root) != copy:
        raise IntegrityError("the copy of a root is not what its key says", key=copy.key)
    return root


def without_seen(held: HeldRoot) -> HeldRoot:
    """Leave out which backups a root has seen: a thousand roots name half a million."""
    return HeldRoot(msgspec.structs.replace(held.root, seen=()), held.key, held.etag)
