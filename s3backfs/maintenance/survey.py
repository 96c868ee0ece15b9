"""What is in the bucket that keeps packs alive: every root, wherever it stands.

A root may go from one place to another at any moment, and always is in at least one. So the places
are listed one after the other, there and back, and whatever vanishes meanwhile is looked for anew.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import trio

from s3backfs.backup.copies import Beside, list_beside
from s3backfs.backup.roots import OPEN_PREFIX, SEALED_PREFIX, HeldRoot, load_copy, without_seen
from s3backfs.errors import (
    IntegrityError,
    ObjectMissingError,
    RepositoryBusyError,
    S3backfsError,
)
from s3backfs.format.keys import Keyring
from s3backfs.format.refs import ID_BYTES, Kind
from s3backfs.format.root import Root, decode_root
from s3backfs.maintenance.shelf import no_backup
from s3backfs.repository.packing import pack_key
from s3backfs.store.base import Listed, Store

log = logging.getLogger(__name__)

TRASH_PREFIX = "trash/"
ROOTS_AT_ONCE = 16
_ATTEMPTS = 16


@dataclass(frozen=True, slots=True)
class PackListed:
    """A pack as the store lists it."""

    pack_id: bytes
    kind: Kind
    length_bytes: int
    modified_ns: int

    @property
    def key(self) -> str:
        """The object's key."""
        return pack_key(self.kind, self.pack_id)


async def list_packs(store: Store) -> dict[bytes, PackListed]:
    """List all packs.

    Raises:
        StoreError: the store would not list.
    """
    found: dict[bytes, PackListed] = {}
    for kind in (Kind.DATA, Kind.META):
        prefix = pack_key(kind, b"")
        async for page in store.list(prefix):
            for listed in page:
                pack_id = _id(listed.key[len(prefix) :])
                if pack_id is not None:
                    found[pack_id] = PackListed(
                        pack_id, kind, listed.length_bytes, listed.modified_ns
                    )
    return found


async def list_ids(store: Store, prefix: str) -> list[bytes]:
    """The ids that stand below a prefix, as `moved/<id>` does."""
    found = [listed.key async for page in store.list(prefix) for listed in page]
    return [each for key in found if (each := _id(key[len(prefix) :])) is not None]


def _id(text: str) -> bytes | None:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        return None
    return found if len(found) == ID_BYTES else None


async def load_every_root(
    store: Store,
    keyring: Keyring,
    exceptions: Collection[bytes] = (),
    *,
    with_seen: bool = False,
) -> list[HeldRoot]:
    """Read all roots: open ones and their copies, sealed ones, and those in the trash.

    `exceptions` are names of backups that need not be readable. What each root has seen is left
    out, unless it is asked for: each sealed one names all those before it.

    Raises:
        IntegrityError, UnsupportedFormatError: a root cannot be read.
        RepositoryBusyError: roots change faster than they can be read.
    """
    loaded: dict[tuple[str, str], HeldRoot] = {}
    for _ in range(_ATTEMPTS):
        listing = await _list_roots(store)
        try:
            fresh = [
                listed
                for listed in listing
                if (listed.key, listed.etag) not in loaded
                and not _is_excepted(keyring, listed.key, exceptions)
            ]
            await _load_all(store, keyring, fresh, loaded, with_seen=with_seen)
            beside = await list_beside(store)
            copies = [
                HeldRoot(await load_copy(store, keyring, copy), copy.key, "")
                for copy in beside.copies
            ]
        except ObjectMissingError:
            # It went to another place, or was replaced: where to, the next listing tells.
            continue
        return [*(held for held in loaded.values() if not _is_late(held, beside)), *copies]
    raise RepositoryBusyError("the backups change faster than they can be read; try again")


def _is_late(held: HeldRoot, beside: Beside) -> bool:
    """Whether a late request has brought back the root of a backup that was removed."""
    return held.key.startswith(OPEN_PREFIX) and beside.is_gone(held.root)


async def _list_roots(store: Store) -> list[Listed]:
    found: dict[tuple[str, str], Listed] = {}
    for prefix in (OPEN_PREFIX, SEALED_PREFIX, TRASH_PREFIX, SEALED_PREFIX, OPEN_PREFIX):
        async for page in store.list(prefix):
            found.update({(listed.key, listed.etag): listed for listed in page})
    return list(found.values())


async def _load_all(
    store: Store,
    keyring: Keyring,
    listing: Sequence[Listed],
    into: dict[tuple[str, str], HeldRoot],
    *,
    with_seen: bool,
) -> None:
    """Load some roots, several at once; the first error is raised when all that began have ended.

    Raises:
        S3backfsError: a root is gone or cannot be read; others may have been loaded.
    """
    waiting, failures = iter(listing), list[S3backfsError]()

    async def load() -> None:
        for listed in waiting:
            if failures:
                return
            try:
                held = await _load(store, keyring, listed.key)
            except S3backfsError as error:
                failures.append(error)
                return
            into[listed.key, listed.etag] = held if with_seen else without_seen(held)

    async with trio.open_nursery() as nursery:
        for _ in range(min(ROOTS_AT_ONCE, len(listing))):
            nursery.start_soon(load)
    if failures:
        raise failures[0]


async def _load(store: Store, keyring: Keyring, key: str) -> HeldRoot:
    fetched = await store.get(key)
    return HeldRoot(decode_trashed(keyring, key, fetched.data), key, fetched.etag)


def decode_trashed(keyring: Keyring, key: str, data: bytes) -> Root:
    """Read a root, also one in the trash, where it is as it was among the sealed ones.

    Raises:
        IntegrityError: it is damaged, or of another name or repository.
    """
    encoded = key.rpartition("/")[2]
    own_key = SEALED_PREFIX + encoded if key.startswith(TRASH_PREFIX) else key
    root = decode_root(keyring, own_key, data)
    if root.repository_id != keyring.repository_id or keyring.encode_name(root.name) != encoded:
        raise IntegrityError("the root is of another name or repository", key=key)
    return root


async def check_exceptions(store: Store, keyring: Keyring, exceptions: Collection[bytes]) -> None:
    """Make sure that each name is that of a root, wherever it stands.

    Raises:
        ConfigurationError: one is not.
    """
    roots = await _list_roots(store) if exceptions else ()
    for name in exceptions:
        if not any(_is_excepted(keyring, listed.key, [name]) for listed in roots):
            raise no_backup(name)


def _is_excepted(keyring: Keyring, key: str, exceptions: Collection[bytes]) -> bool:
    if not exceptions:
        return False
    try:
        return keyring.decode_name(key.rpartition("/")[2]) in exceptions
    except IntegrityError:
        return False
