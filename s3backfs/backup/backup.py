"""One backup, open or sealed: its names, its tree, and how its state becomes durable."""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager

import trio

from s3backfs.backup.ahead import FilesAhead
from s3backfs.backup.checkpoint import run_checkpoint
from s3backfs.backup.live import SLOT_SHIFT, TOP_INO, LiveNodes
from s3backfs.backup.losing import LossFinder
from s3backfs.backup.names import NameTree
from s3backfs.backup.node import Directory, Node
from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.backup.owning import RootWriter
from s3backfs.backup.roots import HeldRoot
from s3backfs.backup.statistics import Tally
from s3backfs.backup.wandering import Wandering
from s3backfs.backup.xattrs import with_loaded_xattrs
from s3backfs.errors import (
    FileSystemError,
    IncompleteError,
    IntegrityError,
    OwnershipLostError,
    S3backfsError,
)
from s3backfs.format.root import BackupState, Root
from s3backfs.manifest.entry import Entry
from s3backfs.manifest.keys import directory_range
from s3backfs.manifest.tree import Tree

log = logging.getLogger(__name__)


class Backup:
    """A backup as this mount sees it.

    `generation` counts the trees that its names were read from. Changes are allowed only while
    `is_own_open`, and wait while a checkpoint captures. `failure` is what went wrong for good: it
    stays, reads go on, and every writer is told once. `refused` is the first error by which a
    program was told that a change is not there: whatever is stored later, something is missing.
    """

    def __init__(
        self,
        nodes: RepositoryNodes,
        live: LiveNodes,
        held: HeldRoot,
        slot: int,
        roots: RootWriter,
        *,
        is_own: bool,
    ) -> None:
        self.nodes = nodes
        self.repository = nodes.repository
        self.held = held
        self.slot = slot
        self.roots = roots
        self.is_own = is_own
        self.is_removed = False
        self.is_lost = False
        self.is_resumed = False
        self.claim: Callable[[], Awaitable[None]] | None = None
        self.may_be_forgotten = False
        self.generation = 0
        self.failure: S3backfsError | None = None
        self.refused: Exception | None = None
        self.tally = Tally.of(held.root.statistics)
        self.wandering = Wandering(held.root.wandering)
        self.dirty: set[Node] = set()
        self.clones: dict[tuple[bytes, bytes], Node] = {}
        self.bases: dict[bytes, Backup] = {}
        # Bases that were forgotten or changed while changes were not stored yet.
        self.lost_sources: set[bytes] = set()
        self.losses = LossFinder(nodes)
        self.change_count = 0
        self.stored_count = 0
        self.last_checkpoint_s = trio.current_time()
        self.last_checkpoint_ns = held.root.updated_ns
        self.tree = Tree(held.root.top, nodes.entries)
        self.names = NameTree(self, live, self.find)
        self.ahead = FilesAhead(self)
        self._thawed: trio.Event | None = None
        self._checkpoint_lock = trio.Lock()
        self._begun = 0
        self._done = 0
        self._make_top(live)

    def _make_top(self, live: LiveNodes) -> None:
        top = Node(self, self.slot << SLOT_SHIFT | TOP_INO, None)
        top.directory = Directory(b"")
        self.names.top = top
        live.by_number[top.number] = top

    # -- what it is --------------------------------------------------------------------------

    @property
    def root(self) -> Root:
        """The root as last read or stored."""
        return self.held.root

    @property
    def id(self) -> bytes:
        """The backup's identity: it keeps it when it is renamed."""
        return self.root.backup_id

    @property
    def name(self) -> bytes:
        """The directory's name at the root of the mount."""
        return self.root.name

    @property
    def is_sealed(self) -> bool:
        """Whether it is immutable."""
        return self.root.state == BackupState.SEALED

    @property
    def is_lasting(self) -> bool:
        """Whether what is in it changes by this mount alone, if at all: the kernel may keep it."""
        return self.is_own or self.is_sealed

    @property
    def is_own_open(self) -> bool:
        """Whether this mount may write it."""
        is_there = self.is_own and not self.is_removed and not self.is_lost
        return is_there and self.held.root.state != BackupState.SEALED

    @property
    def may_be_hidden(self) -> bool:
        """Whether names of this sealed backup may be hidden, as `rm -rf` does before it forgets it.

        Hiding changes memory alone: after a remount, or on another machine, all is there again.
        """
        return self.may_be_forgotten and self.is_sealed and not self.is_removed

    @property
    def is_settled(self) -> bool:
        """Whether the stored root says all that is in memory."""
        return not self.has_changes and not self._checkpoint_lock.locked()

    @property
    def has_changes(self) -> bool:
        """Whether something was changed that no checkpoint has captured."""
        return self.change_count != self.stored_count

    def first_top(self) -> Entry:
        """The top directory of a backup that no checkpoint has given one."""
        created_ns = self.root.created_ns
        return Entry(
            mode=stat.S_IFDIR | 0o755,
            uid=os.geteuid(),
            gid=os.getegid(),
            mtime_ns=created_ns,
            ctime_ns=created_ns,
        )

    # -- reading -----------------------------------------------------------------------------

    async def find(self, key: bytes) -> Entry | None:
        """The entry at a key of the last checkpoint's tree."""
        entry = await self.tree.find(key)
        if entry is None:
            return None
        return await with_loaded_xattrs(self.repository, entry)

    def items(
        self, lo: bytes, hi: bytes, passed: list[IntegrityError] | None = None
    ) -> AsyncGenerator[tuple[bytes, Entry]]:
        """The entries of the last checkpoint's tree from `lo` up to `hi`, see `Tree.pages`."""
        return self.tree.items(lo, hi, passed)

    async def is_empty(self, directory: Node) -> bool:
        """Whether a directory has no names."""
        while True:
            generation = self.generation
            is_empty = await self._is_empty(directory)
            # A tree that was replaced meanwhile may have names that are gone.
            if generation == self.generation:
                return is_empty

    async def _is_empty(self, directory: Node) -> bool:
        names = directory.directory
        assert names is not None
        if any(child is not None for child in names.children.values()):
            return False
        if names.base is None:
            return True
        prefix_length = len(names.base) + 1
        async with aclosing(self.items(*directory_range(names.base))) as items:
            async for key, _ in items:
                if names.children.get(key[prefix_length:], directory) is not None:
                    return False
        return True

    # -- changing ----------------------------------------------------------------------------

    async def writable(self) -> None:
        """Wait until changes are allowed; call it last before a change, which may not await.

        Raises:
            FileSystemError: EROFS, or ESTALE for a backup that is no longer there.
        """
        if not self.is_own and not self.is_sealed and self.claim is not None:
            await self.claim()
        while self._thawed is not None:
            await self._thawed.wait()
        if not self.is_own_open:
            is_gone = self.is_removed or self.is_lost
            raise FileSystemError(errno.ESTALE if is_gone else errno.EROFS)

    def note_change(self) -> None:
        """Count a change, for the checkpoints that run by themselves."""
        self.change_count += 1

    def note_base(self, source: Backup) -> None:
        """Remember a backup that entries were taken over from."""
        self.bases[source.id] = source

    def keep_clone(self, group: tuple[bytes, bytes], clone: Node) -> None:
        """Hold the clone of one name of a link group in memory until the other names join it."""
        self.forget_clone(group)
        clone.pins += 1
        self.clones[group] = clone

    def forget_clone(self, group: tuple[bytes, bytes]) -> None:
        """Let go of a clone that no more names are to join."""
        clone = self.clones.pop(group, None)
        if clone is not None:
            clone.pins -= 1
            self.names.release(clone)

    def fail(self, error: S3backfsError) -> None:
        """Remember what went wrong for good."""
        if self.failure is None:
            log.error("backup %s: %s", printable(self.name), error)
        self.failure = error

    def note_refused(self, error: Exception) -> None:
        """Remember that a program lost something by an error."""
        if self.refused is None:
            log.error("backup %s: a change was refused, it stays open", printable(self.name))
            self.refused = error

    # -- checkpoints -------------------------------------------------------------------------

    async def store_older_references(self) -> None:
        """See to it that every reference made before the call is in a stored root.

        Raises:
            S3backfsError: it could not be stored.
        """
        await self.checkpoint()
        # One that had begun before may still be under way.
        async with self._checkpoint_lock:
            pass

    def lose(self, error: S3backfsError) -> None:
        """Give up what is not stored: nothing is written here any more."""
        self.fail(error)
        self.is_lost = True

    async def checkpoint(self) -> None:
        """Make everything durable that was written before the call; calls share the work.

        Raises:
            S3backfsError: it could not be stored.
        """
        if self.is_lost and self.failure is not None:
            raise self.failure
        if not self.is_own_open:
            return
        begun = self._begun
        async with self._checkpoint_lock:
            # Another call's checkpoint, begun after this call was made, did our work too.
            is_due = self.has_changes or self.held.is_unstored or self.losses.has_news
            if self._done > begun or not is_due:
                return
            self._begun += 1
            number = self._begun
            try:
                with self.noting_loss():
                    await run_checkpoint(self)
            except S3backfsError as error:
                self.fail(error)
                raise
            self._done = number
            self.last_checkpoint_s = trio.current_time()
            self.last_checkpoint_ns = time.time_ns()
            # An error that a complete checkpoint has overcome is over.
            self._note_incomplete()

    def _note_incomplete(self) -> None:
        """Let the failure say what the stored root says: writers hear of a new loss once."""
        error = incompleteness(self.root)
        known = self.failure
        if error is None or not isinstance(known, IncompleteError) or str(known) != str(error):
            self.failure = None
            if error is not None:
                self.fail(error)

    @contextmanager
    def noting_loss(self) -> Iterator[None]:
        """After the loss of ownership nothing is written here any more."""
        try:
            yield
        except OwnershipLostError as error:
            self.lose(error)
            raise

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """Keep checkpoints and changes away while the root gets another name or state.

        What was written before is stored first.
        """
        async with self._checkpoint_lock:
            self.freeze()
            try:
                await self.settle_contents()
                if self.has_changes and self.is_own_open:
                    with self.noting_loss():
                        await run_checkpoint(self, is_frozen=True)
                    self._note_incomplete()
                yield
            finally:
                self.thaw()

    def take_newer(self, held: HeldRoot) -> None:
        """Follow another writer's backup to its newer root."""
        self.held = held
        self.tree = Tree(held.root.top, self.nodes.entries)
        self.tally = Tally.of(held.root.statistics)
        self.wandering = Wandering(held.root.wandering)
        self.generation += 1
        self.names.forget_entries()

    def freeze(self) -> None:
        """Hold up changes until `thaw`."""
        self._thawed = trio.Event()

    def thaw(self) -> None:
        """Let changes go on."""
        if self._thawed is not None:
            self._thawed.set()
            self._thawed = None

    async def settle_contents(self) -> None:
        """Hand over the written bytes of every open file, once each unless changes are held up."""
        writer = self.repository.writer
        if writer.failure is not None:
            # The writer takes nothing before what failed is stored.
            await writer.barrier()
        while self.dirty:
            for node in list(self.dirty):
                await self._settle_content(node)
            if self._thawed is None:
                return

    async def _settle_content(self, node: Node) -> None:
        self.dirty.discard(node)
        content = node.content
        if content is None:
            return
        try:
            await content.settle()
        finally:
            if content.is_dirty:
                self.dirty.add(node)
        if node.content is content and not node.opens and not content.is_dirty:
            # Its last close could not hand the bytes over, so letting go was left to us.
            node.content = None
            self.names.release(node)


def incompleteness(root: Root) -> IncompleteError | None:
    """What is wrong with a backup whose packs were lost."""
    if not root.incomplete:
        return None
    count, first = len(root.incomplete), root.incomplete[0].hex()
    lost = f"1 pack is lost, {first}" if count == 1 else f"{count} packs are lost, as {first}"
    return IncompleteError(
        f"the backup is incomplete: {lost}; write again the files that cannot be read"
    )


def printable(name: bytes) -> str:
    """A name for people: bytes that are no UTF-8 are escaped."""
    return name.decode("utf-8", "backslashreplace")
