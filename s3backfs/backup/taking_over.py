"""Going on with open backups that another process has left, and with what it was in the middle of.

Source: docs/design.md, "Ownership".
"""

from __future__ import annotations

import errno
import logging

import trio

from s3backfs.backup.ages import base_age
from s3backfs.backup.backup import Backup, printable
from s3backfs.backup.finding import load_all, look
from s3backfs.backup.owning import RootWriter
from s3backfs.backup.picture import REFRESH_S, Picture
from s3backfs.backup.roots import HeldRoot
from s3backfs.errors import (
    FileSystemError,
    OwnershipLostError,
    RolledBackError,
    S3backfsError,
)
from s3backfs.format.root import BackupState, Root
from s3backfs.repository.leases import has_run_out
from s3backfs.repository.repository import Repository
from s3backfs.repository.root_memory import Age
from s3backfs.store.base import Store

log = logging.getLogger(__name__)


class TakingOver:
    """Makes this mount the owner of backups whose writers are gone.

    `rolled_back` are those of which somebody has put an old root back, by id. It does not go on
    with the open ones among them.
    """

    def __init__(self, repository: Repository, picture: Picture, roots: RootWriter) -> None:
        self.rolled_back: dict[bytes, RolledBackError] = {}
        self._repository = repository
        self._picture = picture
        self._roots = roots
        # Read before the roots are, so that none of them can rightly be older.
        self._remembered = repository.root_memory.load()
        self._claiming = trio.Lock()
        self._asked_s: dict[bytes, float] = {}

    # -- one backup --------------------------------------------------------------------------

    async def take_over(self, backup: Backup) -> None:
        """Become the owner of an open backup whose writer is gone.

        Raises:
            OwnershipLostError: another writer has changed it just now.
        """
        known, before = backup.root.top, backup.held
        held = await self._roots.take_over(before)
        if not self._repository.is_own_writer(before.root.owner.writer):
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
        store, keyring = self._repository.store, self._repository.keyring
        found, beside = await look(store, keyring)
        fresh = [entry for name, entry in found.items() if name not in self._picture.backups]
        loaded = [held for _, held in await load_all(store, keyring, fresh)]
        backup_ids = {held.root.backup_id for held in loaded if isinstance(held, HeldRoot)}
        if beside.is_gone(before.root) or before.root.backup_id in backup_ids:
            raise OwnershipLostError("the owner of this open backup is renaming or removing it")

    async def claim(self, backup: Backup) -> None:
        """Take an open backup of another writer over, if that writer's lease has run out.

        Raises:
            FileSystemError: ESTALE where names have to be looked up again.
        """
        async with self._claiming:
            now_s = trio.current_time()
            if backup.is_own or now_s - self._asked_s.get(backup.id, -REFRESH_S) < REFRESH_S:
                return
            self._asked_s[backup.id] = now_s
            store, keyring = self._repository.store, self._repository.keyring
            if not await has_run_out(store, keyring, backup.root.owner.writer):
                return
            generation = backup.generation
            await self._picture.refresh(is_forced=True)
            if self._picture.backups.get(backup.name) is backup:
                log.warning("backup %s: its writer is gone, going on", printable(backup.name))
                await self.take_over(backup)
            if backup.is_removed or backup.generation != generation:
                raise FileSystemError(errno.ESTALE)

    # -- all of this machine -----------------------------------------------------------------

    async def take_over_own(self, *, is_forced: bool) -> None:
        """Go on with the open backups of dead writers of this machine; forced, with all.

        Raises:
            S3backfsError: the root could not be replaced.
        """
        for backup in list(self._picture.backups.values()):
            if not (backup.is_own or is_forced):
                continue
            if backup.is_sealed:
                await complete_seal(backup)
            else:
                self.rolled_back.pop(backup.id, None)
                # Also where the writer's id is the same: what a dead process sent may still land.
                await self.take_over(backup)
        for held in self._picture.outdated.values():
            if self._repository.is_own_writer(held.root.owner.writer):
                await complete_rename(self._repository.store, held)

    async def find_rolled_back(self) -> None:
        """Find the backups that are older than this machine has left them."""
        if self._older():
            # One that was renamed just then stands under a name that was not listed yet.
            await self._picture.refresh(is_forced=True)
        for backup in self._older():
            error = _rolled_back(backup.root, self._remembered[backup.id])
            log.error("%s", error)
            self.rolled_back[backup.id] = error
            if not backup.is_sealed:
                backup.is_own, backup.claim = False, None

    def _older(self) -> list[Backup]:
        known = self._picture.backups.values()
        backups = [each for each in known if each.id in self._remembered]
        newest: dict[bytes, Age] = {}
        for each in backups:
            newest[each.id] = max(newest.get(each.id, (0, 0)), base_age(each.root))
        return [each for each in backups if newest[each.id] < self._remembered[each.id]]


def _rolled_back(root: Root, remembered: Age) -> RolledBackError:
    """Say that a root is older than the one that this machine stored last."""
    name = root.name.decode("utf-8", "backslashreplace")
    (epoch, sequence), (was_epoch, was_sequence) = base_age(root), remembered
    what, then = "open backup", "it stays as it is, and mount --take-over goes on from there"
    if root.state == BackupState.SEALED:
        what, then = "backup", "it is shown as it was then; bring the newer object back"
    return RolledBackError(
        f"{what} {name} is older than this machine has left it (epoch {epoch}, root {sequence}; "
        f"it was {was_epoch}, {was_sequence}): somebody has put an old root back; {then}"
    )


# -- what was interrupted --------------------------------------------------------------------


async def complete_seal(backup: Backup) -> None:
    """Bring a sealed root to its place, if it is not there yet."""
    if backup.is_sealed and not backup.held.is_in_place:
        backup.held = await backup.roots.complete_seal(backup.held)


async def complete_rename(store: Store, old: HeldRoot) -> None:
    """Remove the root under a backup's old name, now that it stands under the new one."""
    try:
        await store.delete([old.key])
    except S3backfsError as error:
        log.info("%s could not be removed, which does no harm: %s", old.key, error)
