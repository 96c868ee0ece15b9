"""Repair of a backup: a new one with all that can still be read of an old one's manifest.

    readable nodes -> entries in order -> a new tree, and a note on disk of what names what
      -> directories whose own entries are lost, right link counts
      -> a sealed root under a new name, marked as incomplete

The old root stays as it is. Contents are not read: a file whose content is lost keeps its name.
Source: docs/design.md, "Check and repair".
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from s3backfs.backup.new_root import NAME_MAX_BYTES, new_root
from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.backup.owning import RootWriter
from s3backfs.backup.roots import HeldRoot
from s3backfs.backup.statistics import Tally
from s3backfs.errors import ConfigurationError, IntegrityError
from s3backfs.format.refs import Ref, Top
from s3backfs.format.root import BackupState, Root
from s3backfs.maintenance.affected import printable_key
from s3backfs.maintenance.content_loss import ContentLoss
from s3backfs.maintenance.kept_names import Correction, KeptNames
from s3backfs.manifest.entry import Entry, extra_of, is_link_name, with_extra
from s3backfs.manifest.keys import is_link_key, link_key
from s3backfs.manifest.node import Node
from s3backfs.manifest.tree import Replace, Tree
from s3backfs.reporting import Report
from s3backfs.repository.packing import pack_id_of
from s3backfs.repository.repository import Repository

SUFFIX = b"-repaired"
PATHS_MAX_COUNT = 1000
_MODE = stat.S_IFDIR | 0o700
"""Nobody but its owner may look into a directory whose own entry is lost."""

Items = AsyncGenerator[tuple[bytes, Entry]]


@dataclass(slots=True)
class RebuildResult:
    """What was made; `lost` are paths, or ranges of names that are not known, the first of them."""

    name: str = ""
    entries: int = 0
    lost_names: int = 0
    lost_contents: int = 0
    made_directories: int = 0
    lost: list[str] = field(default_factory=list)


class Rebuild:
    """One run."""

    def __init__(self, repository: Repository, report: Report) -> None:
        self._repository = repository
        self._nodes = RepositoryNodes(repository)
        self._contents = ContentLoss(repository)
        self._report = report
        self._result = RebuildResult()
        self._tally = Tally()
        self._lost_packs: set[bytes] = set()
        self._last_key = b""

    async def run(self, held: HeldRoot) -> RebuildResult:
        """Make the new backup; without any loss nothing is stored.

        Raises:
            ConfigurationError: the new name is too long.
            RepositoryExistsError: a backup has the new name.
            S3backfsError: the store did not give or take something.
        """
        name = held.root.name + SUFFIX
        if len(name) > NAME_MAX_BYTES:
            raise ConfigurationError("the name of this backup is too long to add to; rename it")
        await self._contents.begin()
        with (
            tempfile.TemporaryDirectory(prefix="s3backfs-repair-") as scratch,
            KeptNames(Path(scratch) / "names.sqlite") as names,
        ):
            top = await self._build(held.root.top, names)
        if self._result.lost:
            await self._repository.writer.barrier()
            await self._store_root(held.root, name, top)
            await self._repository.writer.store_segment()
            self._result.name = os.fsdecode(name)
        return self._result

    async def _build(self, old: Top | None, names: KeptNames) -> Top | None:
        if old is None:
            return None
        tree: Tree[Entry] = Tree(None, self._nodes.entries)
        async with aclosing(self._kept(old, names)) as rows:
            top = await tree.update([Replace(b"", None, rows)])
        if self._result.lost:
            self._report("counting names")
            tree = Tree(top, self._nodes.entries)
            async with aclosing(self._corrected(tree, names)) as edits:
                top = await tree.update(edits)
        self._result.entries = top.entry_count if top else 0
        return top

    async def _corrected(
        self, tree: Tree[Entry], names: KeptNames
    ) -> AsyncGenerator[Replace[Entry]]:
        """Yield what no longer fits the names that are left."""
        for correction in names.corrections():
            key = correction.key
            entry = _made_directory() if correction.is_made else await tree.find(key)
            assert entry is not None
            fitting = self._fitting(correction, entry)
            yield Replace(key, key + b"\0", [] if fitting is None else [(key, fitting)])

    def _fitting(self, correction: Correction, entry: Entry) -> Entry | None:
        """Say what should stand there; nothing where a file behind hard links has no name left."""
        if correction.is_made:
            self._result.made_directories += 1
            self._tally.directories += 1
        elif is_link_key(correction.key) and not correction.nlink:
            self._tally.add(entry, -1)
            return None
        extra = msgspec.structs.replace(extra_of(entry), nlink=correction.nlink)
        return with_extra(entry, extra)

    # -- what is kept ------------------------------------------------------------------------

    async def _kept(self, old: Top, names: KeptNames) -> Items:
        """Yield the entries that can be read, in order."""
        async with aclosing(self._below(old, None)) as items:
            async for key, entry in items:
                self._last_key = key
                if await self._is_kept(key, entry, names):
                    yield key, entry
        names.add_made(())

    async def _below(self, top: Top, last_key: bytes | None) -> Items:
        try:
            node = await self._nodes.entries.load_top(top)
            _check_place(node, self._last_key, last_key)
        except IntegrityError as error:
            self._note_lost_range(top, last_key, error)
            return
        self._report(f"reading names: {self._tally.files + self._tally.directories}")
        if not node.height:
            for item in zip(node.keys, node.values(0, len(node)), strict=True):
                yield item
            return
        for key, child in zip(node.keys, node.values(0, len(node)), strict=True):
            below = Top(node.height - 1, child.ref, None, child.entry_count)
            async with aclosing(self._below(below, key)) as items:
                async for item in items:
                    yield item
            self._last_key = key

    async def _is_kept(self, key: bytes, entry: Entry, names: KeptNames) -> bool:
        """Say whether an entry is of use, and count it; the loss of its content is noted."""
        if is_link_name(entry):
            return self._is_name_kept(key, entry, names)
        lost = await self._contents.of(entry)
        self._lost_packs |= lost.packs
        if lost.is_tree:
            # The names of a link record are told when they are met.
            return False if is_link_key(key) else self._note_lost_name(key)
        self._tally.add(entry)
        if is_link_key(key):
            names.add_record(key, entry, is_lost=bool(lost.packs))
            return True
        if lost.packs:
            self._result.lost_contents += 1
            self._note(printable_key(key))
        names.add(key, entry)
        return True

    def _is_name_kept(self, key: bytes, entry: Entry, names: KeptNames) -> bool:
        """Say whether a name leads to its link record; each tells the loss of that content."""
        link_id = extra_of(entry).link_id
        assert link_id is not None
        link = names.add_name(link_key(link_id))
        if link is None:
            return self._note_lost_name(key)
        self._tally.hard_links += not link.is_first
        if link.is_lost:
            self._result.lost_contents += link.is_first
            self._note(printable_key(key))
        names.add(key, entry)
        return True

    # -- what is lost ------------------------------------------------------------------------

    def _note(self, text: str) -> None:
        if len(self._result.lost) < PATHS_MAX_COUNT:
            self._result.lost.append(text)

    def _note_lost_name(self, key: bytes) -> bool:
        self._result.lost_names += 1
        self._note(printable_key(key))
        return False

    def _note_lost_range(self, top: Top, last_key: bytes | None, error: IntegrityError) -> None:
        places = [pack_id_of(error.key), top.ref.pack_id if isinstance(top.ref, Ref) else None]
        self._lost_packs |= {place for place in places if place is not None}
        self._result.lost_names += top.entry_count
        first = f"behind {printable_key(self._last_key)}" if self._last_key else "from the first"
        last = f"up to {printable_key(last_key)}" if last_key else "to the last"
        self._note(f"({top.entry_count} names {first} {last})")

    # -- the root ----------------------------------------------------------------------------

    async def _store_root(self, old: Root, name: bytes, top: Top | None) -> None:
        fresh = new_root(self._repository, name)
        statistics = self._tally.stored(
            fresh.statistics,
            entries=self._result.entries,
            new_bytes=self._repository.writer.progress.take_new(),
        )
        lease = self._repository.lease
        assert lease is not None
        lease.check()
        root: Root = msgspec.structs.replace(
            old,
            backup_id=fresh.backup_id,
            name=name,
            state=BackupState.SEALED,
            updated_ns=fresh.updated_ns,
            sealed_ns=time.time_ns(),
            owner=fresh.owner,
            statistics=statistics,
            top=top,
            bases=tuple(sorted({*old.bases, old.backup_id})),
            seen=(),
            incomplete=tuple(sorted({*old.incomplete, *self._lost_packs})),
        )
        await RootWriter(self._repository).create_sealed(root)


def _made_directory() -> Entry:
    now_ns = time.time_ns()
    return Entry(_MODE, os.getuid(), os.getgid(), now_ns, now_ns)


def _check_place(node: Node[Any], last_key: bytes, own_last_key: bytes | None) -> None:
    """Hold a node to its place in the tree, so that what is read stays in order."""
    is_behind = not last_key or node.keys[0] > last_key
    if not is_behind or (own_last_key is not None and node.keys[-1] != own_last_key):
        raise IntegrityError("a node does not fit its place in the tree")
