"""The backups of a repository, as the root of the mount shows them."""

from __future__ import annotations

import errno
import functools
import hashlib
import logging
import secrets
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import trio

from s3backfs.backup.backup import Backup, printable
from s3backfs.backup.live import LiveNodes
from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.backup.roots import (
    OPEN_PREFIX,
    SEALED_PREFIX,
    HeldRoot,
    create_open_root,
    load_root,
    store_open_root,
    store_sealed_root,
)
from s3backfs.errors import (
    FileSystemError,
    IntegrityError,
    ObjectMissingError,
    RepositoryExistsError,
    S3backfsError,
    UnsupportedFormatError,
)
from s3backfs.format.keys import Keyring
from s3backfs.format.refs import ID_BYTES
from s3backfs.format.root import BackupState, Owner, Root, Seen, Statistics
from s3backfs.repository.repository import Repository
from s3backfs.store.base import Listed, Store

log = logging.getLogger(__name__)

TRASH_PREFIX = "trash/"

REFRESH_S = 5.0
"""How old the picture of other machines' backups may be."""

ROOTS_AT_ONCE = 32

NAME_MAX_BYTES = 140
"""A longer name does not fit into an object's key, encrypted."""

MAX_SLOT = 0xFFFF


@dataclass(frozen=True, slots=True)
class Found:
    """A root object in a listing."""

    name: bytes
    listed: Listed
    is_sealed: bool


class Catalogue:
    """All backups by name, refreshed from listings.

    A root that cannot be read keeps its place in `damaged`: its name is shown as an error, not as
    something that is not there.
    """

    def __init__(
        self,
        nodes: RepositoryNodes,
        live: LiveNodes,
        *,
        is_read_only: bool,
        may_forget: bool = False,
        only: bytes | None = None,
    ) -> None:
        self.nodes = nodes
        self.repository = nodes.repository
        self.backups: dict[bytes, Backup] = {}
        self.damaged: dict[bytes, S3backfsError] = {}
        self._live = live
        self._is_read_only = is_read_only
        self._may_forget = may_forget and not is_read_only
        self._only = only
        self._slots: dict[int, Backup] = {}
        self._refreshed_s = -REFRESH_S
        self._lock = trio.Lock()

    # -- the picture -------------------------------------------------------------------------

    async def refresh(self, *, is_forced: bool = False) -> None:
        """List the roots anew if the picture is old; several calls share one listing."""
        if not is_forced and trio.current_time() - self._refreshed_s < REFRESH_S:
            return
        begun = trio.current_time()
        async with self._lock:
            if self._refreshed_s >= begun:
                return
            found = await list_roots(self.repository.store, self.repository.keyring)
            await self._take_in(found)
            self._refreshed_s = trio.current_time()

    async def _take_in(self, found: dict[bytes, Found]) -> None:
        if self._only is not None:
            found = {name: entry for name, entry in found.items() if name == self._only}
        for name in set(self.backups) - set(found):
            backup = self.backups[name]
            if not backup.is_own_open:
                self._forget(name)
        for name in set(self.damaged) - set(found):
            del self.damaged[name]
        stale = [entry for entry in found.values() if self._is_stale(entry)]
        for entry, result in await load_all(self.repository.store, self.repository.keyring, stale):
            if isinstance(result, HeldRoot):
                self._take_root(entry.name, result)
            else:
                self._note_damage(entry, result)

    def _is_stale(self, found: Found) -> bool:
        backup = self.backups.get(found.name)
        if backup is None:
            return True
        if backup.is_own_open:
            return False
        return backup.held.key != found.listed.key or backup.held.etag != found.listed.etag

    def _note_damage(self, found: Found, error: S3backfsError) -> None:
        if isinstance(error, ObjectMissingError):
            return
        if found.name not in self.damaged:
            log.error("backup %s cannot be read: %s", printable(found.name), error)
        self.damaged[found.name] = error

    def _take_root(self, name: bytes, held: HeldRoot) -> None:
        self.damaged.pop(name, None)
        known = self.backups.get(name)
        if known is not None and known.id == held.root.backup_id and not known.is_own_open:
            known.take_newer(held)
            return
        if known is not None:
            self._forget(name)
        is_own = not self._is_read_only and self.repository.is_own_writer(held.root.owner.writer)
        self._add(held, is_own=is_own)

    def _add(self, held: HeldRoot, *, is_own: bool) -> Backup:
        slot = self._free_slot(held.root.slot)
        backup = Backup(self.nodes, self._live, held, slot, is_own=is_own)
        backup.may_be_forgotten = self._may_forget
        self._slots[slot] = backup
        self.backups[held.root.name] = backup
        return backup

    def _free_slot(self, wanted: int) -> int:
        slot = wanted or 1
        while slot in self._slots:
            slot = slot % MAX_SLOT + 1
        return slot

    def _forget(self, name: bytes) -> None:
        backup = self.backups.pop(name)
        backup.is_removed = True
        # The slot stays taken while the kernel may know inodes of it.
        if not backup.names.top.lookups:
            self._slots.pop(backup.slot, None)
            self._live.by_number.pop(backup.names.top.number, None)

    def own_open(self) -> list[Backup]:
        """The backups that this mount may write."""
        return [backup for backup in self.backups.values() if backup.is_own_open]

    # -- changing ----------------------------------------------------------------------------

    async def create(self, name: bytes) -> Backup:
        """Begin an open backup.

        Raises:
            FileSystemError: EEXIST, ENAMETOOLONG, EROFS.
        """
        self._check_writable()
        check_backup_name(name)
        await self.refresh(is_forced=True)
        if name in self.backups or name in self.damaged:
            raise FileSystemError(errno.EEXIST)
        root = new_root(self.repository, name)
        try:
            held = await create_open_root(self.repository, root)
        except RepositoryExistsError:
            raise FileSystemError(errno.EEXIST) from None
        return self._add(held, is_own=True)

    async def drop(self, backup: Backup) -> None:
        """Remove one's own open backup for good."""
        self._check_writable()
        await self.repository.store.delete([backup.held.key])
        self._forget(backup.name)

    async def forget(self, backup: Backup) -> None:
        """Move a sealed backup's root to the trash, from where it can be brought back.

        Raises:
            FileSystemError: EROFS on a read-only mount.
        """
        self._check_writable()
        encoded = backup.held.key.removeprefix(SEALED_PREFIX)
        await self.repository.store.copy(
            backup.held.key, f"{TRASH_PREFIX}{time.time_ns()}/{encoded}"
        )
        await self.repository.store.delete([backup.held.key])
        self._forget(backup.name)

    async def seal(self, backup: Backup) -> None:
        """Make an open backup immutable, after a last checkpoint.

        Raises:
            S3backfsError: it could not be stored; it stays open.
        """
        await backup.checkpoint()
        async with backup.changing():
            root = msgspec.structs.replace(
                backup.root,
                state=BackupState.SEALED,
                sealed_ns=time.time_ns(),
                seen=self._seen(),
            )
            held = await store_sealed_root(self.repository, root)
            open_root_key = backup.held.key
            backup.held = held
        await self.repository.writer.store_segment()
        await self.repository.store.delete([open_root_key])

    def _seen(self) -> tuple[Seen, ...]:
        sealed = [backup for backup in self.backups.values() if backup.is_sealed]
        return tuple(Seen(backup.name, backup.root.owner.nonce) for backup in sealed)

    async def reopen(self, backup: Backup) -> None:
        """Make a sealed backup writable by this mount.

        Raises:
            FileSystemError: EBUSY for an open backup of another writer.
        """
        self._check_writable()
        if not backup.is_sealed:
            raise FileSystemError(errno.EBUSY, "this backup is open already")
        owner = Owner(
            epoch=backup.root.owner.epoch + 1,
            writer=self.repository.writer_id,
            sequence=1,
            nonce=secrets.token_bytes(ID_BYTES),
        )
        root = msgspec.structs.replace(
            backup.root, state=BackupState.OPEN, sealed_ns=0, owner=owner
        )
        held = await create_open_root(self.repository, root)
        # A sealed root wins while both are there: a crash in between changes nothing.
        await self.repository.store.delete([backup.held.key])
        backup.held = held
        backup.is_own = True

    async def take_over(self, backup: Backup) -> None:
        """Become the owner of an open backup whose writer is gone."""
        self._check_writable()
        owner = msgspec.structs.replace(
            backup.root.owner,
            epoch=backup.root.owner.epoch + 1,
            writer=self.repository.writer_id,
            sequence=backup.root.owner.sequence + 1,
        )
        root = msgspec.structs.replace(backup.root, owner=owner)
        backup.held = await store_open_root(self.repository, backup.held, root)
        backup.is_own = True

    async def take_over_own(self, *, is_forced: bool) -> None:
        """Go on with the open backups of dead writers of this machine; forced, with all.

        Raises:
            S3backfsError: the root could not be replaced.
        """
        if self._is_read_only:
            return
        for backup in list(self.backups.values()):
            is_present = backup.root.owner.writer == self.repository.writer_id
            if not backup.is_sealed and not is_present and (backup.is_own or is_forced):
                await self.take_over(backup)

    async def rename(self, backup: Backup, new_name: bytes) -> None:
        """Give a backup another name: the new root is stored first, then the old one removed.

        Raises:
            FileSystemError: EEXIST, EPERM for another writer's open backup, ENAMETOOLONG.
        """
        self._check_writable()
        check_backup_name(new_name)
        if not (backup.is_own_open or backup.is_sealed):
            raise FileSystemError(errno.EPERM, "this backup is open on another machine")
        await self.refresh(is_forced=True)
        if new_name in self.backups or new_name in self.damaged:
            raise FileSystemError(errno.EEXIST)
        old_name = backup.name
        async with backup.changing():
            old = backup.held
            root = msgspec.structs.replace(backup.root, name=new_name)
            store = store_sealed_root if backup.is_sealed else create_open_root
            backup.held = await store(self.repository, root)
            await self.repository.store.delete([old.key])
        del self.backups[old_name]
        self.backups[new_name] = backup

    def _check_writable(self) -> None:
        if self._is_read_only:
            raise FileSystemError(errno.EROFS)


# -- parts -----------------------------------------------------------------------------------


def check_backup_name(name: bytes) -> None:
    """Refuse names that no key can hold, and those that belong to the mount itself."""
    if len(name) > NAME_MAX_BYTES:
        raise FileSystemError(
            errno.ENAMETOOLONG, f"a backup's name may have {NAME_MAX_BYTES} bytes at most"
        )


def new_root(repository: Repository, name: bytes) -> Root:
    """The root of a backup that holds nothing yet."""
    now_ns = time.time_ns()
    backup_id = secrets.token_bytes(ID_BYTES)
    owner = Owner(epoch=1, writer=repository.writer_id, sequence=1, nonce=bytes(ID_BYTES))
    digest = hashlib.sha256(backup_id).digest()
    return Root(
        repository_id=repository.keyring.repository_id,
        backup_id=backup_id,
        name=name,
        slot=int.from_bytes(digest[:2], "big") % MAX_SLOT + 1,
        state=BackupState.OPEN,
        created_ns=now_ns,
        updated_ns=now_ns,
        sealed_ns=0,
        owner=owner,
        host=socket.gethostname(),
        statistics=Statistics(directories=1),
        top=None,
    )


async def list_roots(store: Store, keyring: Keyring) -> dict[bytes, Found]:
    """Every backup's root in the store; a sealed one wins over an open one of the same name."""
    found: dict[bool, list[Found]] = {False: [], True: []}

    async def list_one(prefix: str, is_sealed: bool) -> None:
        async for page in store.list(prefix):
            found[is_sealed].extend(_found(keyring, prefix, page, is_sealed))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(list_one, OPEN_PREFIX, False)
        nursery.start_soon(list_one, SEALED_PREFIX, True)
    return {entry.name: entry for entry in [*found[False], *found[True]]}


def _found(keyring: Keyring, prefix: str, page: Iterable[Listed], is_sealed: bool) -> list[Found]:
    found = []
    for listed in page:
        try:
            name = keyring.decode_name(listed.key[len(prefix) :])
        except IntegrityError as error:
            _note_foreign(listed.key, str(error))
            continue
        found.append(Found(name, listed, is_sealed))
    return found


@functools.lru_cache(maxsize=1000)
def _note_foreign(key: str, why: str) -> None:
    """Warn once of an object; every listing finds it again."""
    log.warning("%s is not a root of this repository: %s", key, why)


async def load_all(
    store: Store, keyring: Keyring, found: Iterable[Found]
) -> list[tuple[Found, HeldRoot | S3backfsError]]:
    """Read many roots, several at once; an error stands in the place of its root."""
    results: list[tuple[Found, HeldRoot | S3backfsError]] = []
    limiter = trio.CapacityLimiter(ROOTS_AT_ONCE)

    async def load_one(entry: Found) -> None:
        async with limiter:
            try:
                results.append((entry, await load_root(store, keyring, entry.listed.key)))
            except (ObjectMissingError, IntegrityError, UnsupportedFormatError) as error:
                results.append((entry, error))

    async with trio.open_nursery() as nursery:
        for entry in found:
            nursery.start_soon(load_one, entry)
    return results


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


async def list_backups(store: Store, keyring: Keyring) -> list[BackupSummary]:
    """Read every root, and say what it says."""
    found = await list_roots(store, keyring)
    return [_summary(entry, held) for entry, held in await load_all(store, keyring, found.values())]


def _summary(found: Found, held: HeldRoot | S3backfsError) -> BackupSummary:
    if isinstance(held, S3backfsError):
        log.error("backup %s cannot be read: %s", printable(found.name), held)
        return BackupSummary(found.name, "damaged")
    root = held.root
    return BackupSummary(
        name=root.name,
        state="sealed" if found.is_sealed else "open",
        created_ns=root.created_ns,
        updated_ns=root.updated_ns,
        sealed_ns=root.sealed_ns,
        entries=root.statistics.entries,
        files=root.statistics.files,
        size_bytes=root.statistics.logical_bytes,
        stored_bytes=root.statistics.stored_bytes,
        host=root.host,
    )
