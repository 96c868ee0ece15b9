"""Finding backups: listing and loading the roots of a repository.

One backup may stand under two names, where a rename or a seal was interrupted or a late request
has brought an old root back; then one of them counts, the same for everybody.
Source: docs/design.md, "Ownership".
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from s3backfs.backup.backup import printable
from s3backfs.backup.copies import Beside, list_beside
from s3backfs.backup.roots import (
    OPEN_PREFIX,
    SEALED_PREFIX,
    HeldRoot,
    load_copy,
    load_root,
    without_seen,
)
from s3backfs.backup.tags import load_tags, merged
from s3backfs.errors import (
    DeniedError,
    EncryptionRefusedError,
    IntegrityError,
    NewerKeyError,
    ObjectMissingError,
    OldKeysError,
    S3backfsError,
    UnsupportedFormatError,
)
from s3backfs.format.keys import Keyring
from s3backfs.format.root import BackupState
from s3backfs.store.base import Listed, Store
from s3backfs.store.together import open_together

log = logging.getLogger(__name__)

ROOTS_AT_ONCE = 32

Tags = Mapping[bytes, Mapping[str, str | None]]


@dataclass(frozen=True, slots=True)
class Found:
    """A root object in a listing."""

    name: bytes
    listed: Listed
    is_sealed: bool


@dataclass(frozen=True, slots=True)
class RootObjects:
    """A listing of the roots that nobody has decoded yet, and when it was begun."""

    begun_s: float
    by_prefix: Mapping[str, Sequence[Listed]]

    def decoded(self, keyring: Keyring) -> dict[bytes, Found]:
        """The roots by name; a sealed one wins over an open one of the same name."""
        found: dict[bytes, Found] = {}
        for prefix in (OPEN_PREFIX, SEALED_PREFIX):
            for listed in self.by_prefix[prefix]:
                try:
                    name = keyring.decode_name(listed.key[len(prefix) :])
                except IntegrityError as error:
                    _note_foreign(listed.key, str(error))
                    continue
                found[name] = Found(name, listed, prefix == SEALED_PREFIX)
        return found


async def list_roots(store: Store, keyring: Keyring) -> dict[bytes, Found]:
    """Every backup's root in the store; a sealed one wins over an open one of the same name.

    Raises:
        StoreError: the store would not list.
    """
    return (await list_root_objects(store)).decoded(keyring)


async def list_root_objects(store: Store) -> RootObjects:
    """List the roots, which takes no key.

    Raises:
        StoreError: the store would not list.
    """
    begun_s = trio.current_time()
    found: dict[str, list[Listed]] = {OPEN_PREFIX: [], SEALED_PREFIX: []}

    async def list_one(prefix: str) -> None:
        async for page in store.list(prefix):
            found[prefix].extend(page)

    async with open_together() as nursery:
        for prefix in found:
            nursery.start_soon(list_one, prefix)
    return RootObjects(begun_s, found)


@functools.lru_cache(maxsize=1000)
def _note_foreign(key: str, why: str) -> None:
    """Warn once of an object; every listing finds it again."""
    log.warning("%s is not a root of this repository: %s", key, why)


async def look_for(store: Store, keyring: Keyring, name: bytes) -> dict[bytes, Found]:
    """Find the root of one backup by its name, without a listing.

    Raises:
        DeniedError: it is not there, or may not be read, which then is the same.
    """
    denied: S3backfsError | None = None
    for prefix, is_sealed in ((SEALED_PREFIX, True), (OPEN_PREFIX, False)):
        try:
            listed = await store.head(prefix + keyring.encode_name(name))
        except (ObjectMissingError, DeniedError) as error:
            denied = error
        else:
            return {name: Found(name, listed, is_sealed)}
    raise DeniedError(
        f"there is no backup {printable(name)} in {store.url}, or these credentials may not read it"
    ) from denied


async def load_all(
    store: Store, keyring: Keyring, found: Iterable[Found]
) -> list[tuple[Found, HeldRoot | S3backfsError]]:
    """Read many roots, several at once; what is wrong with a root stands in its place.

    Those that are in their place come without what they have seen.

    Raises:
        StoreError: the store would not give one of them.
    """
    results: list[tuple[Found, HeldRoot | S3backfsError]] = []
    limiter = trio.CapacityLimiter(ROOTS_AT_ONCE)

    async def load_one(entry: Found) -> None:
        async with limiter:
            try:
                held = await load_root(store, keyring, entry.listed.key)
                results.append((entry, without_seen(held) if held.is_in_place else held))
            except (
                ObjectMissingError,
                IntegrityError,
                UnsupportedFormatError,
                EncryptionRefusedError,
            ) as error:
                results.append((entry, error))

    async with open_together() as nursery:
        for entry in found:
            nursery.start_soon(load_one, entry)
    return results


def newest_named(results: Iterable[object]) -> NewerKeyError | None:
    """Among what came of reading find the error that names the newest key."""
    errors = [result for result in results if isinstance(result, NewerKeyError)]
    return max(errors, key=lambda error: error.epoch, default=None)


async def look(store: Store, keyring: Keyring) -> tuple[dict[bytes, Found], Beside]:
    """List the roots, and what stands beside them.

    Raises:
        StoreError: the store would not list.
    """
    found = await list_roots(store, keyring)
    # After the roots: a copy is stored before its root.
    return found, await list_beside(store)


async def with_newer_copies(
    store: Store, keyring: Keyring, roots: Mapping[bytes, HeldRoot], beside: Beside
) -> dict[bytes, HeldRoot]:
    """Those open roots of which there is a newer copy, in the copy's state."""
    found: dict[bytes, HeldRoot] = {}
    for name, held in roots.items():
        for copy in [] if held.is_in_place else beside.newer(held.root):
            try:
                root = await load_copy(store, keyring, copy)
            except (ObjectMissingError, IntegrityError, UnsupportedFormatError) as error:
                log.warning("a copy of an open root is left out: %s", error)
                continue
            # That of an interrupted rename bears another name.
            if root.name == name:
                found[name] = HeldRoot(root, held.key, held.etag)
                break
    return found


def gone(roots: Mapping[bytes, HeldRoot], beside: Beside) -> set[bytes]:
    """Names under which a late request has brought back a backup that was removed."""
    return {
        name for name, held in roots.items() if not held.is_in_place and beside.is_gone(held.root)
    }


def outdated(roots: Mapping[bytes, HeldRoot]) -> set[bytes]:
    """Names under which a backup stands that counts under another name."""
    best: dict[bytes, bytes] = {}
    for name, held in sorted(roots.items()):
        known = best.get(held.root.backup_id)
        if known is None or _rank(held) > _rank(roots[known]):
            best[held.root.backup_id] = name
    return set(roots) - set(best.values())


def _rank(held: HeldRoot) -> tuple[bool, int, int]:
    owner = held.root.owner
    return held.is_in_place, owner.epoch, owner.sequence


# -- for the command line ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BackupSummary:
    """One backup for a listing; a damaged root has a state and a name only."""

    name: bytes
    state: str
    created_ns: int = 0
    updated_ns: int = 0
    sealed_ns: int = 0
    entries: int = 0
    files: int = 0
    size_bytes: int = 0
    stored_bytes: int = 0
    host: str = ""
    is_incomplete: bool = False
    """Whether it refers to packs that were lost, or was made of what was left of another one."""
    tags: Mapping[str, str] = field(default_factory=dict)


async def list_backups(store: Store, keyring: Keyring) -> list[BackupSummary]:
    """Read every root and all tags, and say what they say."""
    found, beside = await look(store, keyring)
    loaded = await load_all(store, keyring, found.values())
    if newer := newest_named(result for _, result in loaded):
        log.warning("%s", OldKeysError(newer))
    roots = {entry.name: held for entry, held in loaded if isinstance(held, HeldRoot)}
    roots |= await with_newer_copies(store, keyring, roots, beside)
    hidden = outdated(roots) | gone(roots, beside)
    tags = await _tags(store, keyring)
    return [
        _summary(entry, roots.get(entry.name, held), tags)
        for entry, held in loaded
        if entry.name not in hidden
    ]


async def _tags(store: Store, keyring: Keyring) -> Tags:
    try:
        return await load_tags(store, keyring)
    except DeniedError as error:
        log.warning("tags may not be read: %s", error)
        return {}


def _summary(found: Found, held: HeldRoot | S3backfsError, tags: Tags) -> BackupSummary:
    if isinstance(held, S3backfsError):
        log.error("backup %s cannot be read: %s", printable(found.name), held)
        return BackupSummary(found.name, "damaged")
    root = held.root
    return BackupSummary(
        name=root.name,
        state="sealed" if root.state == BackupState.SEALED else "open",
        created_ns=root.created_ns,
        updated_ns=root.updated_ns,
        sealed_ns=root.sealed_ns,
        entries=root.statistics.entries,
        files=root.statistics.files,
        size_bytes=root.statistics.logical_bytes,
        stored_bytes=root.statistics.stored_bytes,
        host=root.host,
        is_incomplete=bool(root.incomplete),
        tags=merged(root, tags.get(root.backup_id, {})),
    )
