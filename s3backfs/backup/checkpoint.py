"""Making the present state of an open backup durable.

    settle open files -> freeze, capture, thaw -> data packs durable -> tree -> meta packs durable
      -> root stored -> the new tree becomes the base of what is in memory

Until the root is stored nothing that a reader can see has changed, so a crash anywhere leaves the
last checkpoint. After a failure the captured changes are changes again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from s3backfs.backup.bases import BaseEntries
from s3backfs.backup.capture import Capture, CapturedNode, capture, give_back, land
from s3backfs.backup.content_tree import with_merged_extents
from s3backfs.backup.edits import EditMaker
from s3backfs.backup.live import TOP_INO
from s3backfs.backup.losing import store_again
from s3backfs.backup.names import link_ino
from s3backfs.backup.patching import PatchingNodes
from s3backfs.backup.xattrs import with_stored_xattrs
from s3backfs.format.refs import ID_BYTES
from s3backfs.format.root import Root
from s3backfs.manifest.entry import (
    Entry,
    extra_of,
    is_link_name,
    settled,
    with_extra,
)
from s3backfs.manifest.keys import LINK_KEY_BYTES, is_link_key
from s3backfs.manifest.tree import Top, Tree

if TYPE_CHECKING:
    from s3backfs.backup.backup import Backup


async def run_checkpoint(backup: Backup, *, is_frozen: bool = False) -> None:
    """Store everything that changed up to now; the caller holds the checkpoint lock.

    `is_frozen` says that the caller has frozen the backup, settled it, and will thaw it.

    Raises:
        S3backfsError: nothing visible has changed, and every change is still in memory.
    """
    if is_frozen:
        taken, change_count = _capture(backup), backup.change_count
    else:
        await backup.settle_contents()
        taken, change_count = await _capture_frozen(backup)
    previous_count, backup.stored_count = backup.stored_count, change_count
    lost_sources = frozenset(backup.lost_sources)
    try:
        run = _Checkpoint(backup, taken)
        top = await run.store_tree()
        found = await run.find_losses(top)
        await _store_root(backup, found.top, found.lost_packs, taken)
    except BaseException:
        give_back(taken, backup.names)
        backup.stored_count = previous_count
        raise
    # No await from here: the tree and what stands over it change together.
    backup.tree = Tree(found.top, backup.nodes.entries)
    backup.generation += 1
    backup.lost_sources -= lost_sources
    land(taken, backup.names)
    run.tell_contents()
    if found.top is not top:
        backup.names.read_anew()


async def _capture_frozen(backup: Backup) -> tuple[Capture, int]:
    backup.freeze()
    try:
        await backup.settle_contents()
        # No await between the last settled file and the capture.
        return _capture(backup), backup.change_count
    finally:
        backup.thaw()


def _capture(backup: Backup) -> Capture:
    return capture(backup.names, backup.tally, backup.wandering)


@dataclass(frozen=True, slots=True)
class _Checked:
    """A tree in which all is stored again that can be, and the packs that it misses."""

    top: Top | None
    lost_packs: tuple[bytes, ...]


async def _store_root(
    backup: Backup, top: Top | None, lost_packs: tuple[bytes, ...], taken: Capture
) -> None:
    root = backup.root
    statistics = taken.tally.stored(
        root.statistics,
        entries=top.entry_count if top else 0,
        new_bytes=backup.repository.writer.progress.take_new(),
    )
    changed: Root = msgspec.structs.replace(
        root,
        top=top,
        updated_ns=time.time_ns(),
        statistics=statistics,
        bases=tuple(sorted({*root.bases, *backup.bases})),
        wandering=taken.wandering,
        incomplete=lost_packs,
    )
    backup.held = await backup.roots.replace(backup.held, changed)


class _Checkpoint:
    """One run: turns captured values into stored entries."""

    def __init__(self, backup: Backup, taken: Capture) -> None:
        self._backup = backup
        self._repository = backup.repository
        self._keyring = backup.repository.keyring
        self._taken = taken
        self._bases = BaseEntries(backup)
        self._stored: list[tuple[CapturedNode, Entry]] = []

    async def store_tree(self) -> Top | None:
        """Write data, then nodes; on return everything the top refers to is durable."""
        await self._store_xattrs()
        await self._repository.writer.barrier()
        maker = EditMaker(self._backup.items, self._finish, self._rekeyed)
        bases = [base.tree for base in self._backup.bases.values() if not base.is_removed]
        nodes = PatchingNodes(self._backup.nodes, bases)
        tree = Tree(self._backup.tree.top, nodes.entries)
        top = await tree.update(maker.edits(self._taken.top))
        await self._repository.writer.barrier()
        return top

    async def find_losses(self, top: Top | None) -> _Checked:
        """See what of a tree is lost, and store again what is still in memory."""
        losses = self._repository.losses
        losses.note(self._backup.root.incomplete)
        if not losses.version:
            return _Checked(top, ())
        losses.look_anew()
        finder = self._backup.losses
        if losses.packs_version != finder.packs_version:
            # One loss seldom comes alone, and what is in memory of the others may yet be saved.
            await self._repository.writer.look()
        found = await finder.look(top)
        mended = await store_again(self._backup.nodes, top, found)
        if mended is not top:
            await self._repository.writer.barrier()
            found = await finder.look(mended)
        return _Checked(mended, tuple(sorted(found.packs)))

    async def _store_xattrs(self) -> None:
        for captured in self._taken.nodes:
            captured.entry = await with_stored_xattrs(self._repository, captured.entry)

    async def _finish(self, key: bytes, value: CapturedNode | Entry) -> Entry:
        """Make a captured value ready to be stored: refs, number, extent tree, ctime."""
        if isinstance(value, Entry):
            return value
        entry = await with_merged_extents(self._backup.nodes, settled(value.entry))
        entry = self._with_ino(entry, key, value.ino)
        entry = await self._bases.aligned(key, entry, value.clone_of)
        self._stored.append((value, entry))
        return entry

    def _with_ino(self, entry: Entry, key: bytes, ino: int) -> Entry:
        if ino == TOP_INO:
            default = TOP_INO
        elif is_link_key(key):
            default = link_ino(key[LINK_KEY_BYTES - ID_BYTES :])
        else:
            default = self._keyring.path_hash(key, 0)
        stored = 0 if ino == default else ino
        extra = extra_of(entry)
        if extra.ino == stored:
            return entry
        return with_extra(entry, msgspec.structs.replace(extra, ino=stored))

    def _rekeyed(self, entry: Entry, old_key: bytes, key: bytes) -> Entry:
        """Keep the inode number of an entry whose path changes."""
        if is_link_name(entry):
            return entry
        ino = extra_of(entry).ino or self._keyring.path_hash(old_key, 0)
        return self._with_ino(entry, key, ino)

    def tell_contents(self) -> None:
        """Let open files go on from what was stored."""
        for captured, stored in self._stored:
            content = captured.node.content
            if content is not None:
                content.swapped(captured.entry, stored)
