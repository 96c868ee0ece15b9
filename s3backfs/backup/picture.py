"""The picture of a repository's backups: what is there by name, kept fresh from listings."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from s3backfs.backup.backup import Backup, printable
from s3backfs.backup.copies import Beside
from s3backfs.backup.finding import (
    Found,
    RootObjects,
    gone,
    load_all,
    outdated,
    with_newer_copies,
)
from s3backfs.backup.glances import Glances
from s3backfs.backup.live import LiveNodes
from s3backfs.backup.looking import Looking
from s3backfs.backup.new_root import MAX_SLOT
from s3backfs.backup.roots import HeldRoot
from s3backfs.errors import ObjectMissingError, S3backfsError
from s3backfs.format.root import BackupState, Root
from s3backfs.repository.repository import Repository
from s3backfs.store.together import open_together

log = logging.getLogger(__name__)

REFRESH_S = 5.0
"""How old the picture of other machines' backups may be."""

MakeBackup = Callable[[HeldRoot, int, bool], Backup]
"""Makes a backup of a root, a slot, and whether this mount is its writer."""


class Picture:
    """All backups by name.

    A root that cannot be read keeps its place in `damaged`: its name is shown as an error, not as
    something that is not there. `outdated` are roots of backups that count under another name.
    """

    def __init__(
        self,
        repository: Repository,
        live: LiveNodes,
        looking: Looking,
        make: MakeBackup,
        *,
        is_read_only: bool,
        is_away: Callable[[], bool],
    ) -> None:
        self.backups: dict[bytes, Backup] = {}
        self.damaged: dict[bytes, S3backfsError] = {}
        self.outdated: dict[bytes, HeldRoot] = {}
        self._repository = repository
        self._live = live
        self._looking = looking
        self._make = make
        self._is_read_only = is_read_only
        self._slots: dict[int, Backup] = {}
        self._lost: list[Backup] = []
        self._refreshed_s = -REFRESH_S
        self._lock = trio.Lock()
        self._glances = Glances(repository.reader.background, self.refresh, is_away)

    def own_open(self) -> list[Backup]:
        """The backups that this mount may write."""
        return [backup for backup in self.backups.values() if backup.is_own_open]

    def lost(self) -> list[Backup]:
        """The backups that another writer took over from this mount."""
        return [*self._lost, *(backup for backup in self.backups.values() if backup.is_lost)]

    def is_taken(self, name: bytes) -> bool:
        """Whether a root is known under a name, whatever it is worth."""
        return name in self.backups or name in self.damaged or name in self.outdated

    # -- looking -----------------------------------------------------------------------------

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
                await self._take_in(listed.decoded(self._repository.keyring))
            else:
                await self._take_in(await self._looking.find())
            self._refreshed_s = trio.current_time()

    async def glance(self) -> None:
        """See to it that the picture is not old; while the store is away an old one has to do."""
        if trio.current_time() - self._refreshed_s >= REFRESH_S:
            await self._glances.glance()

    async def _take_in(self, found: dict[bytes, Found]) -> None:
        found = self._looking.wanted(found)
        for name in set(self.backups) - set(found):
            backup = self.backups[name]
            if not backup.is_own_open:
                self.take_out(name)
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

    def _is_stale(self, found: Found) -> bool:
        backup = self.backups.get(found.name)
        if backup is None:
            return True
        if backup.is_own_open:
            return False
        return backup.held.key != found.listed.key or backup.held.etag != found.listed.etag

    async def _read(self, stale: list[Found]) -> tuple[dict[bytes, HeldRoot], Beside]:
        """Read roots, and meanwhile list what stands beside them.

        That comes after the listing of the roots: a copy is stored before its root.
        """
        beside = Beside()

        async def look_beside() -> None:
            nonlocal beside
            beside = await self._looking.beside()

        async with open_together() as nursery:
            nursery.start_soon(look_beside)
            fresh = await self._load(stale)
        return fresh, beside

    async def _load(self, stale: list[Found]) -> dict[bytes, HeldRoot]:
        store, keyring = self._repository.store, self._repository.keyring
        fresh = {}
        for entry, result in await load_all(store, keyring, stale):
            if isinstance(result, HeldRoot):
                fresh[entry.name] = result
            else:
                self._note_damage(entry, result)
        return fresh

    def _note_damage(self, found: Found, error: S3backfsError) -> None:
        if isinstance(error, ObjectMissingError):
            return
        if found.name not in self.damaged:
            log.error("backup %s cannot be read: %s", printable(found.name), error)
        self.damaged[found.name] = error

    async def _newer(self, fresh: dict[bytes, HeldRoot], beside: Beside) -> dict[bytes, HeldRoot]:
        """Open roots that are older than a copy of theirs."""
        others = {name: each.held for name, each in self.backups.items() if not each.is_own_open}
        store, keyring = self._repository.store, self._repository.keyring
        return await with_newer_copies(store, keyring, {**others, **fresh}, beside)

    def _hide_outdated(self, fresh: dict[bytes, HeldRoot]) -> None:
        """Of a backup with two names leave the one that counts."""
        known = {name: backup.held for name, backup in self.backups.items()}
        names = outdated({**known, **fresh})
        self.outdated = {name: held for name, held in fresh.items() if name in names}
        for name in names:
            if fresh.pop(name, None) is None and not self.backups[name].is_own_open:
                self.take_out(name)

    def _take_root(self, name: bytes, held: HeldRoot) -> None:
        self.damaged.pop(name, None)
        known = self.backups.get(name)
        if known is not None and _may_follow(known, held.root):
            self._note_lost_source(known)
            known.take_newer(held)
            return
        if known is not None:
            self.take_out(name)
        is_own = not self._is_read_only and self._repository.is_own_writer(held.root.owner.writer)
        self.add(held, is_own=is_own)

    # -- what comes and goes -----------------------------------------------------------------

    def add(self, held: HeldRoot, *, is_own: bool) -> Backup:
        """Show the backup of a root."""
        slot = self._free_slot(held.root.slot)
        backup = self._make(held, slot, is_own)
        self._slots[slot] = backup
        self.backups[held.root.name] = backup
        return backup

    def _free_slot(self, wanted: int) -> int:
        slot = wanted or 1
        while slot in self._slots:
            slot = slot % MAX_SLOT + 1
        return slot

    def take_out(self, name: bytes) -> None:
        """Show a backup no more."""
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


def _may_follow(known: Backup, root: Root) -> bool:
    """Whether a backup becomes what a newer root of it says, with the same inodes.

    Not so where the kernel was told that names and attributes stay for ever.
    """
    if known.id != root.backup_id or known.is_own:
        return False
    is_same = root.state == BackupState.SEALED and root.top == known.root.top
    return is_same or not known.is_lasting
