"""The backups of a repository, as the root of the mount shows them; every change of a root."""

from __future__ import annotations

import errno
import functools
import logging
import time
from collections.abc import Callable

import msgspec

from s3backfs.backup.backup import Backup
from s3backfs.backup.finding import RootObjects
from s3backfs.backup.live import LiveNodes
from s3backfs.backup.looking import Looking
from s3backfs.backup.new_root import check_backup_name, new_root
from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.backup.owning import RootWriter
from s3backfs.backup.picture import Picture
from s3backfs.backup.removals import newest_ns, note_removal
from s3backfs.backup.roots import HeldRoot, load_root
from s3backfs.backup.standing import Standing
from s3backfs.backup.taking_over import TakingOver, complete_rename, complete_seal
from s3backfs.backup.trash import move_to_trash
from s3backfs.errors import FileSystemError, RepositoryExistsError, S3backfsError
from s3backfs.format.root import BackupState, Root, Seen

log = logging.getLogger(__name__)


class Catalogue:
    """All backups by name, and every change of a root.

    `backups` and `damaged` are those of the picture; `rolled_back` those of taking over.
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
        self.repository = repository = nodes.repository
        self._live = live
        self._is_read_only = is_read_only
        self._may_forget = may_forget and not is_read_only
        self._picture = Picture(
            repository,
            live,
            Looking(repository.store, repository.keyring, only=only, is_read_only=is_read_only),
            self._make,
            is_read_only=is_read_only,
            is_away=is_away,
        )
        self.backups = self._picture.backups
        self.damaged = self._picture.damaged
        self.standing = Standing(repository, self._picture)
        self._roots = RootWriter(repository, self.standing)
        self._taking_over = TakingOver(repository, self._picture, self._roots)
        self.rolled_back = self._taking_over.rolled_back

    def _make(self, held: HeldRoot, slot: int, is_own: bool) -> Backup:
        backup = Backup(self.nodes, self._live, held, slot, self._roots, is_own=is_own)
        if not self._is_read_only:
            backup.claim = functools.partial(self._taking_over.claim, backup)
        backup.may_be_forgotten = self._may_forget
        return backup

    # -- the picture -------------------------------------------------------------------------

    async def refresh(self, *, is_forced: bool = False, listed: RootObjects | None = None) -> None:
        """List the roots anew if the picture is old; one that was `listed` just now is taken."""
        await self._picture.refresh(is_forced=is_forced, listed=listed)

    async def glance(self) -> None:
        """See to it that the picture is not old; while the store is away an old one has to do."""
        await self._picture.glance()

    def own_open(self) -> list[Backup]:
        """The backups that this mount may write."""
        return self._picture.own_open()

    def lost(self) -> list[Backup]:
        """The backups that another writer took over from this mount."""
        return self._picture.lost()

    # -- going on ----------------------------------------------------------------------------

    async def take_over(self, backup: Backup) -> None:
        """Become the owner of an open backup whose writer is gone.

        Raises:
            OwnershipLostError: another writer has changed it just now.
        """
        self._check_writable()
        await self._taking_over.take_over(backup)

    async def take_over_own(self, *, is_forced: bool) -> None:
        """Go on with the open backups of dead writers of this machine; forced, with all.

        Raises:
            S3backfsError: the root could not be replaced.
        """
        await self._taking_over.find_rolled_back()
        if not self._is_read_only:
            await self._taking_over.take_over_own(is_forced=is_forced)

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
        return self._picture.add(held, is_own=True)

    async def drop(self, backup: Backup) -> None:
        """Remove one's own open backup for good."""
        self._check_writable()
        async with backup.changing():
            held = await self._proven(backup)
            with backup.noting_loss():
                await self._roots.bury(held)
        self._picture.take_out(backup.name)

    async def forget(self, backup: Backup) -> None:
        """Move a sealed backup's root to the trash, from where it can be brought back.

        Raises:
            FileSystemError: EROFS on a read-only mount.
            LockedError: its tags say that it stays.
        """
        self._check_writable()
        await complete_seal(backup)
        store, keyring = self.repository.store, self.repository.keyring
        nonce = backup.root.owner.nonce
        await move_to_trash(store, keyring, backup.held.key, nonce, self._newest_ns())
        self._picture.take_out(backup.name)

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
            await complete_seal(backup)
        backup.is_resumed, backup.refused = False, None
        try:
            await self.repository.writer.store_segment()
        except S3backfsError as error:
            log.warning("an index segment was not stored, so less is deduplicated: %s", error)

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
        await complete_seal(backup)
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
            await complete_seal(backup)
            old = await self._proven(backup)
            root = msgspec.structs.replace(old.root, name=new_name)
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
            await complete_rename(self.repository.store, old)

    async def _proven(self, backup: Backup) -> HeldRoot:
        """The whole root of a backup, which nobody has taken over by now."""
        if backup.is_sealed:
            return await load_root(self.repository.store, self.repository.keyring, backup.held.key)
        with backup.noting_loss():
            backup.held = await self._roots.replace(backup.held, backup.root)
        return backup.held

    def _check_free(self, name: bytes) -> None:
        if self._picture.is_taken(name):
            raise FileSystemError(errno.EEXIST)

    def _check_writable(self) -> None:
        if self._is_read_only:
            raise FileSystemError(errno.EROFS)
