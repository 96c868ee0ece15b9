"""The backups of a repository, as the root of the mount shows them."""

from __future__ import annotations

import errno
import functools
import hashlib
import logging
import secrets
import socket
import time
from collections.abc import Callable

import msgspec
import trio

from s3backfs.backup.backup import Backup, printable
from s3backfs.backup.copies import Beside, list_beside
from s3backfs.backup.finding import (
    Found,
    RootObjects,
    gone,
    list_roots,
    load_all,
    look,
    look_for,
    outdated,
    with_newer_copies,
)
from s3backfs.backup.glances import Glances
from s3backfs.backup.live import LiveNodes
from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.backup.owning import RootWriter, base_age, rolled_back
from s3backfs.backup.removals import newest_ns, note_removal
from s3backfs.backup.roots import HeldRoot
from s3backfs.backup.standing import Standing
from s3backfs.backup.trash import move_to_trash
from s3backfs.errors import (
    DeniedError,
    FileSystemError,
    ObjectMissingError,
    OwnershipLostError,
    RepositoryExistsError,
    RolledBackError,
    S3backfsError,
)
from s3backfs.format.refs import ID_BYTES
from s3backfs.format.root import BackupState, Owner, Root, Seen, Statistics
from s3backfs.repository.leases import has_run_out
from s3backfs.repository.repository import Repository
from s3backfs.repository.root_memory import Age
from s3backfs.store.together import open_together

log = logging.getLogger(__name__)

REFRESH_S = 5.0
"""How old the picture of other machines' backups may be."""

NAME_MAX_BYTES = 140
"""A longer name does not fit into an object's key, encrypted."""

MAX_SLOT = 0xFFFF


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
        is_away: Callable[[], bool] = lambda: False,
    ) -> None:
        self.nodes = nodes
        self.repository = nodes.repository
        self.backups: dict[bytes, Backup] = {}
        self.damaged: dict[bytes, S3backfsError] = {}
        self._live = live
        self._is_read_only = is_read_only
        self._may_forget = may_forget and not is_read_only
        self._only = only
        self._is_blind = False
        self._slots: dict[int, Backup] = {}
        self._refreshed_s = -REFRESH_S
        self._lock = trio.Lock()
        self.standing = Standing(nodes.repository, self)
        self._roots = RootWriter(nodes.repository, self.standing)
        self._outdated: dict[bytes, HeldRoot] = {}
        self._lost: list[Backup] = []
        self._claiming = trio.Lock()
        self._asked_s: dict[bytes, float] = {}
        self._glances = Glances(nodes.repository.reader.background, self.refresh, is_away)
        # Read before the roots are, so that none of them can rightly be older.
        self._remembered = self.repository.root_memory.load()
        self.rolled_back: dict[bytes, RolledBackError] = {}

    # -- the picture -------------------------------------------------------------------------

    async def refresh(self, *, is_forced: bool = False, listed: RootObjects | None = None) -> None:
        """List the roots anew if the picture is old; several calls share one listing.

        One that was `listed` just now is taken instead.
        """
        if not is_forced and trio.current_time() - self._refreshed_s < REFRESH_S:
            return
        begun = trio.current_time()
        async with self._lock:
            if self._refreshed_s >= begun:
                return
            if listed is not None and begun - listed.begun_s < REFRESH_S:
                await self._take_in(listed.decoded(self.repository.keyring))
            else:
                await self._take_in(await self._look())
            self._refreshed_s = trio.current_time()

    async def glance(self) -> None:
        """See to it that the picture is not old; while the store is away an old one has to do."""
        if trio.current_time() - self._refreshed_s >= REFRESH_S:
            await self._glances.glance()

    async def _look(self) -> dict[bytes, Found]:
        """List all roots; who may not, and wants but one to read, looks for that."""
        store, keyring = self.repository.store, self.repository.keyring
        if not self._is_blind:
            try:
                return await list_roots(store, keyring)
            except DeniedError as error:
                self._go_blind(error)
        assert self._only is not None
        return await look_for(store, keyring, self._only)

    def _go_blind(self, error: DeniedError) -> None:
        """Do without listings, as far as that is possible."""
        if self._only is None or not self._is_read_only:
            text = f"{error}; who may not list mounts with -o ro --backup NAME"
            raise DeniedError(text) from error
        self._is_blind = True

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
        fresh, beside = await self._read(stale)
        for name in gone(fresh, beside):
            del fresh[name]
        fresh |= await self._newer(fresh, beside)
        self._hide_outdated(fresh)
        for name, held in fresh.items():
            self._take_root(name, held)

    async def _read(self, stale: list[Found]) -> tuple[dict[bytes, HeldRoot], Beside]:
        """Read roots, and meanwhile list what stands beside them.

        That comes after the listing of the roots: a copy is stored before its root.
        """
        beside = Beside()

        async def look_beside() -> None:
            nonlocal beside
            try:
                beside = await list_beside(self.repository.store)
            except DeniedError as error:
                self._go_blind(error)

        async with open_together() as nursery:
            if not self._is_blind:
                nursery.start_soon(look_beside)
            fresh = await self._load(stale)
        return fresh, beside

    async def _load(self, stale: list[Found]) -> dict[bytes, HeldRoot]:
        fresh = {}
        for entry, result in await load_all(self.repository.store, self.repository.keyring, stale):
            if isinstance(result, HeldRoot):
                fresh[entry.name] = result
            else:
                self._note_damage(entry, result)
        return fresh

    async def _newer(self, fresh: dict[bytes, HeldRoot], beside: Beside) -> dict[bytes, HeldRoot]:
        """Open roots that are older than a copy of theirs."""
        others = {name: each.held for name, each in self.backups.items() if not each.is_own_open}
        store, keyring = self.repository.store, self.repository.keyring
        return await with_newer_copies(store, keyring, {**others, **fresh}, beside)

    def _hide_outdated(self, fresh: dict[bytes, HeldRoot]) -> None:
        """Of a backup with two names leave the one that counts."""
        known = {name: backup.held for name, backup in self.backups.items()}
        names = outdated({**known, **fresh})
        self._outdated = {name: held for name, held in fresh.items() if name in names}
        for name in names:
            if fresh.pop(name, None) is None and not self.backups[name].is_own_open:
                self._forget(name)

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
        if known is not None and known.id == held.root.backup_id and not known.is_own:
            self._note_lost_source(known)
            known.take_newer(held)
            return
        if known is not None:
            self._forget(name)
        is_own = not self._is_read_only and self.repository.is_own_writer(held.root.owner.writer)
        self._add(held, is_own=is_own)

    def _add(self, held: HeldRoot, *, is_own: bool) -> Backup:
        slot = self._free_slot(held.root.slot)
        backup = Backup(self.nodes, self._live, held, slot, self._roots, is_own=is_own)
        if not self._is_read_only:
            backup.claim = functools.partial(self._claim, backup)
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
        self._note_lost_source(backup)
        if backup.is_lost:
            self._lost.append(backup)
        # The slot stays taken while the kernel may know inodes of it.
        if not backup.names.top.lookups:
            self._slots.pop(backup.slot, None)
            self._live.by_number.pop(backup.names.top.number, None)

    def _note_lost_source(self, source: Backup) -> None:
        """What entries were taken over from is no longer what it was."""
        for backup in self.own_open():
            if source.id in backup.bases and not backup.is_settled:
                backup.lost_sources.add(source.id)

    def own_open(self) -> list[Backup]:
        """The backups that this mount may write."""
        return [backup for backup in self.backups.values() if backup.is_own_open]

    def lost(self) -> list[Backup]:
        """The backups that another writer took over from this mount."""
        return [*self._lost, *(backup for backup in self.backups.values() if backup.is_lost)]

    # -- changing ----------------------------------------------------------------------------

    async def create(self, name: bytes) -> Backup:
        """Begin an open backup.

        Raises:
            FileSystemError: EEXIST, ENAMETOOLONG, EROFS.
        """
        self._check_writable()
        check_backup_name(name)
        await self.refresh()
        self._check_free(name)
        self.repository.writer.look_anew()
        root = new_root(self.repository, name)
        try:
            held = await self._roots.create(root)
        except RepositoryExistsError:
            # Who looks now shall see what is in the way.
            await self.refresh(is_forced=True)
            raise FileSystemError(errno.EEXIST) from None
        return self._add(held, is_own=True)

    async def drop(self, backup: Backup) -> None:
        """Remove one's own open backup for good."""
        self._check_writable()
        async with backup.changing():
            held = await self._proven(backup)
            with backup.noting_loss():
                await self._roots.bury(held)
        self._forget(backup.name)

    async def forget(self, backup: Backup) -> None:
        """Move a sealed backup's root to the trash, from where it can be brought back.

        Raises:
            FileSystemError: EROFS on a read-only mount.
            LockedError: its tags say that it stays.
        """
        self._check_writable()
        await self._complete_seal(backup)
        store, keyring = self.repository.store, self.repository.keyring
        nonce = backup.root.owner.nonce
        await move_to_trash(store, keyring, backup.held.key, nonce, self._newest_ns())
        self._forget(backup.name)

    async def seal(self, backup: Backup) -> None:
        """Make an open backup immutable, after a last checkpoint.

        Raises:
            S3backfsError: it could not be stored; it stays open.
        """
        await self.repository.writer.look_if_old()
        await backup.checkpoint()
        # What others have forgotten meanwhile is not to be named as seen.
        await self.refresh()
        async with backup.changing():
            root = msgspec.structs.replace(backup.root, sealed_ns=time.time_ns(), seen=self._seen())
            with backup.noting_loss():
                backup.held = await self._roots.decide_seal(backup.held, root)
            await self._complete_seal(backup)
        backup.is_resumed, backup.refused = False, None
        try:
            await self.repository.writer.store_segment()
        except S3backfsError as error:
            log.warning("an index segment was not stored, so less is deduplicated: %s", error)

    async def _complete_seal(self, backup: Backup) -> None:
        """Bring a sealed root to its place, if it is not there yet."""
        if backup.is_sealed and not backup.held.is_in_place:
            backup.held = await self._roots.complete_seal(backup.held)

    def _seen(self) -> tuple[Seen, ...]:
        return tuple(Seen(root.name, root.owner.nonce) for root in self._sealed_roots())

    def _sealed_roots(self) -> list[Root]:
        # One that is not in its place yet gets another nonce there.
        return [each.root for each in self.backups.values() if each.held.is_in_place]

    def _newest_ns(self) -> int:
        return newest_ns(self._sealed_roots())

    async def _note_removal(self, held: HeldRoot) -> None:
        """Note that a root is about to be removed, for `check`."""
        store, keyring = self.repository.store, self.repository.keyring
        await note_removal(store, keyring, held.root, self._newest_ns())

    async def reopen(self, backup: Backup) -> None:
        """Make a sealed backup writable by this mount.

        Raises:
            FileSystemError: EBUSY for an open backup of another writer.
        """
        self._check_writable()
        if not backup.is_sealed:
            raise FileSystemError(errno.EBUSY, "this backup is open already")
        await self._complete_seal(backup)
        owner = msgspec.structs.replace(
            backup.root.owner,
            epoch=backup.root.owner.epoch + 1,
            writer=self.repository.writer_id,
        )
        root = msgspec.structs.replace(
            backup.root, state=BackupState.OPEN, sealed_ns=0, owner=owner
        )
        held = await self._roots.create(root, over=backup.held)
        await self._note_removal(backup.held)
        # A sealed root wins while both are there: a crash in between changes nothing.
        await self.repository.store.delete([backup.held.key])
        backup.held = held
        backup.is_own = True

    async def take_over(self, backup: Backup) -> None:
        """Become the owner of an open backup whose writer is gone.

        Raises:
            OwnershipLostError: another writer has changed it just now.
        """
        self._check_writable()
        known, before = backup.root.top, backup.held
        held = await self._roots.take_over(before)
        if not self.repository.is_own_writer(before.root.owner.writer):
            await self._check_stays(before)
        if held.root.top == known:
            backup.held = held
        else:
            backup.take_newer(held)
        backup.is_own = backup.is_resumed = True

    async def _check_stays(self, before: HeldRoot) -> None:
        """After a take-over: see whether the owner was renaming or removing the backup just then.

        Raises:
            OwnershipLostError: it was; look again.
        """
        store, keyring = self.repository.store, self.repository.keyring
        found, beside = await look(store, keyring)
        fresh = [entry for name, entry in found.items() if name not in self.backups]
        loaded = [held for _, held in await load_all(store, keyring, fresh)]
        backup_ids = {held.root.backup_id for held in loaded if isinstance(held, HeldRoot)}
        if beside.is_gone(before.root) or before.root.backup_id in backup_ids:
            raise OwnershipLostError("the owner of this open backup is renaming or removing it")

    async def _claim(self, backup: Backup) -> None:
        """Take an open backup of another writer over, if that writer's lease has run out.

        Raises:
            FileSystemError: ESTALE where names have to be looked up again.
        """
        async with self._claiming:
            now_s = trio.current_time()
            if backup.is_own or now_s - self._asked_s.get(backup.id, -REFRESH_S) < REFRESH_S:
                return
            self._asked_s[backup.id] = now_s
            store, keyring = self.repository.store, self.repository.keyring
            if not await has_run_out(store, keyring, backup.root.owner.writer):
                return
            generation = backup.generation
            await self.refresh(is_forced=True)
            if self.backups.get(backup.name) is backup:
                log.warning("backup %s: its writer is gone, going on", printable(backup.name))
                await self.take_over(backup)
            if backup.is_removed or backup.generation != generation:
                raise FileSystemError(errno.ESTALE)

    async def take_over_own(self, *, is_forced: bool) -> None:
        """Go on with the open backups of dead writers of this machine; forced, with all.

        Raises:
            S3backfsError: the root could not be replaced.
        """
        await self._find_rolled_back()
        if self._is_read_only:
            return
        for backup in list(self.backups.values()):
            if not (backup.is_own or is_forced):
                continue
            if backup.is_sealed:
                await self._complete_seal(backup)
            else:
                self.rolled_back.pop(backup.id, None)
                # Also where the writer's id is the same: what a dead process sent may still land.
                await self.take_over(backup)
        for held in self._outdated.values():
            if self.repository.is_own_writer(held.root.owner.writer):
                await self._remove_outdated(held)

    async def _find_rolled_back(self) -> None:
        """Go on with no open backup that is older than this machine has left it."""
        if self._older():
            # One that was renamed just then stands under a name that was not listed yet.
            await self.refresh(is_forced=True)
        for backup in self._older():
            error = rolled_back(backup.root, self._remembered[backup.id])
            log.error("%s", error)
            self.rolled_back[backup.id] = error
            backup.is_own, backup.claim = False, None

    def _older(self) -> list[Backup]:
        backups = [each for each in self.backups.values() if each.id in self._remembered]
        newest: dict[bytes, Age] = {}
        for each in backups:
            newest[each.id] = max(newest.get(each.id, (0, 0)), base_age(each.root))
        return [
            each
            for each in backups
            if not each.is_sealed and newest[each.id] < self._remembered[each.id]
        ]

    async def _remove_outdated(self, held: HeldRoot) -> None:
        """Complete a rename that was interrupted."""
        try:
            await self.repository.store.delete([held.key])
        except S3backfsError as error:
            log.info("%s could not be removed, which does no harm: %s", held.key, error)

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
        self._check_free(new_name)
        old_name = backup.name
        async with backup.changing():
            await self._complete_seal(backup)
            old = await self._proven(backup)
            root = msgspec.structs.replace(backup.root, name=new_name)
            store = self._roots.create_sealed if backup.is_sealed else self._roots.create
            held = await store(root)
            if backup.is_sealed:
                await self._note_removal(old)
            else:
                with backup.noting_loss():
                    await self._roots.check_renamed(old, held)
            backup.held = held
            # No await from here: from now on this is its name, whatever becomes of the old one.
            del self.backups[old_name]
            self.backups[new_name] = backup
            await self._remove_outdated(old)

    async def _proven(self, backup: Backup) -> HeldRoot:
        """The root of a backup, which nobody has taken over by now."""
        if not backup.is_sealed:
            with backup.noting_loss():
                backup.held = await self._roots.replace(backup.held, backup.root)
        return backup.held

    def _check_free(self, name: bytes) -> None:
        if name in self.backups or name in self.damaged or name in self._outdated:
            raise FileSystemError(errno.EEXIST)

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
