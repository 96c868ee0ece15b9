"""What a backup's names lead to: the nodes in memory, over the tree of the last checkpoint."""

from __future__ import annotations

import errno
import stat
from collections.abc import Awaitable, Callable
from enum import Enum
from itertools import chain
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from s3backfs.backup.live import INO_MASK, SLOT_SHIFT, LiveNodes, settled_name
from s3backfs.backup.node import Directory, Moving, Node
from s3backfs.backup.xattrs import are_xattrs_loaded
from s3backfs.errors import FileSystemError
from s3backfs.manifest.entry import Entry, Extra, is_link_name
from s3backfs.manifest.keys import (
    KEY_MAX_BYTES,
    TOP_KEY,
    child_prefix,
    entry_key,
    link_key,
    prefixes_above,
)

if TYPE_CHECKING:
    from s3backfs.backup.backup import Backup

Find = Callable[[bytes], Awaitable[Entry | None]]


class _Missing(Enum):
    MISSING = 0


MISSING: Final = _Missing.MISSING
"""Not in memory: the tree has to be asked."""

LINK_INO_BYTES = 6


class NameTree:
    """The names of one backup.

    Between two awaits the tree is consistent: every node in a directory's `children` is in the
    table of live nodes, and every change since the last checkpoint can be reached from the top
    through `changed` and `below`. No key is longer than `longest_key_bytes`.
    """

    def __init__(self, backup: Backup, live: LiveNodes, find: Find) -> None:
        self._backup = backup
        self._live = live
        self._find = find
        self.links: dict[bytes, Node] = {}
        self.changed_links: set[bytes] = set()
        self.flying_links: set[bytes] = set()
        self.moving: list[Moving] = []
        self.is_top_changed = False
        self.changed_count = 0
        self.longest_key_bytes = 0 if backup.root.top is None else KEY_MAX_BYTES
        self.top: Node

    # -- finding -----------------------------------------------------------------------------

    def known(self, directory: Node, name: bytes) -> Node | Literal[_Missing.MISSING] | None:
        """What memory alone says about a name."""
        names = directory.directory
        assert names is not None
        child = names.children.get(name, MISSING)
        if child is MISSING and (names.base is None or names.overlays(name)):
            return None
        return child

    async def child(self, directory: Node, name: bytes) -> Node | None:
        """Find a name, in memory or in the manifest."""
        while True:
            child = self.known(directory, name)
            if child is not MISSING:
                return child
            generation = self._backup.generation
            loaded = await self._load(directory, name)
            if self._backup.generation == generation:
                return loaded

    async def _load(self, directory: Node, name: bytes) -> Node | None:
        base = directory.directory.base if directory.directory else None
        assert base is not None
        entry = await self._find(entry_key(base, name))
        record = None
        if entry is not None and entry.extra and entry.extra.link_id and is_link_name(entry):
            record = await self._find(link_key(entry.extra.link_id))
        # No await from here on: what was found is attached as it was found.
        child = self.known(directory, name)
        if child is not MISSING or entry is None:
            return None if child is MISSING else child
        return self.adopt(directory, name, entry, record)

    def adopt(self, directory: Node, name: bytes, entry: Entry, record: Entry | None) -> Node:
        """Make the node of an entry that the manifest holds at a name not in memory."""
        base = directory.directory.base if directory.directory else None
        assert base is not None
        link_id = entry.extra.link_id if entry.extra and is_link_name(entry) else None
        if link_id is not None:
            node = self.links.get(link_id) or self._adopt_link(link_id, record or entry)
            assert node.names is not None
            node.names.add((directory, name))
        else:
            key = entry_key(base, name)
            ino = (entry.extra.ino if entry.extra else 0) or self._live.path_ino(key)
            number = self._live.take_number(self._backup.slot, ino, key)
            node = self._adopted(number, entry)
            node.parent, node.name = directory, name
            if stat.S_ISDIR(entry.mode):
                node.directory = Directory(child_prefix(base, name))
        assert directory.directory is not None
        directory.directory.children[name] = node
        return node

    def _adopt_link(self, link_id: bytes, record: Entry) -> Node:
        ino = (record.extra.ino if record.extra else 0) or link_ino(link_id)
        number = self._live.take_number(self._backup.slot, ino, link_id)
        node = self._adopted(number, record)
        node.link_id, node.names = link_id, set()
        self.links[link_id] = node
        return node

    def _register(self, number: int, entry: Entry | None) -> Node:
        node = Node(self._backup, number, entry)
        self._live.by_number[number] = node
        return node

    def _adopted(self, number: int, entry: Entry) -> Node:
        node = self._register(number, entry if are_xattrs_loaded(entry) else None)
        self._live.note_loaded(node)
        return node

    async def entry(self, node: Node) -> Entry | None:
        """The node's attributes, from the manifest if they are not in memory; None: it is gone."""
        while node.entry is None:
            generation = self._backup.generation
            entry = await self._find(self.stored_key(node))
            if node.entry is None and self._backup.generation == generation:
                if entry is None and node is self.top:
                    entry = self._backup.first_top()
                if entry is None:
                    return None
                node.entry = entry
                self._live.note_loaded(node)
        return node.entry

    async def present_entry(self, node: Node) -> Entry:
        """The node's attributes, from the manifest if they are not in memory.

        Raises:
            FileSystemError: ESTALE, it is gone.
        """
        entry = node.entry or await self.entry(node)
        if entry is None:
            raise FileSystemError(errno.ESTALE)
        return entry

    def stored_key(self, node: Node) -> bytes:
        """The key under which the last checkpoint stored a clean node."""
        if node.link_id is not None:
            return link_key(node.link_id)
        if node.parent is None:
            return TOP_KEY
        assert node.parent.directory is not None
        assert node.parent.directory.base is not None
        return entry_key(node.parent.directory.base, node.name)

    # -- changing ----------------------------------------------------------------------------

    async def birth_name(self, parent: Node, name: bytes) -> bytes | None:
        """The name that a new inode's number derives from; None where that is another's."""
        settled = settled_name(name)
        if settled == name:
            return name
        while (child := self.known(parent, settled)) is MISSING:
            generation = self._backup.generation
            assert parent.directory is not None
            assert parent.directory.base is not None
            entry = await self._find(entry_key(parent.directory.base, settled))
            if self._backup.generation == generation:
                return settled if entry is None else None
        return settled if child is None else None

    def create(self, parent: Node, name: bytes, entry: Entry, birth_name: bytes | None) -> Node:
        """Make a new inode at a free name; its number is that of `birth_name`, if it is free."""
        node = self._register(self._birth_number(parent, birth_name), entry)
        if birth_name is not None and birth_name != name:
            self.note_left(parent, birth_name, node)
        if stat.S_ISDIR(entry.mode):
            node.directory = Directory(None)
        self._backup.tally.add(entry)
        self.attach(parent, name, node)
        return node

    def _birth_number(self, parent: Node, name: bytes | None) -> int:
        slot = self._backup.slot
        if name is None:
            return self._live.new_number(slot)
        prefix = parent.prefix()
        number = slot << SLOT_SHIFT | self._live.path_ino(entry_key(prefix, name))
        above = prefixes_above(prefix)
        hashes = chain([number & INO_MASK], map(self._live.path_ino, above))
        if number in self._live.by_number or self._backup.wandering.may_have(hashes):
            return self._live.new_number(slot)
        return number

    def note_left(self, parent: Node, name: bytes, node: Node) -> None:
        """Remember that an inode which lives on is not, or no longer, at this name."""
        prefix = parent.prefix()
        path_ino = self._live.path_ino(entry_key(prefix, name))
        if node.number & INO_MASK == path_ino:
            self._backup.wandering.add(path_ino)
        if node.directory is not None:
            self._backup.wandering.add(self._live.path_ino(child_prefix(prefix, name)))

    def note_came(self, parent: Node, name: bytes, node: Node) -> None:
        """Remember that an inode was moved to this name, which may be its birthplace."""
        if node.number & INO_MASK == self._live.path_ino(entry_key(parent.prefix(), name)):
            self.note_gone(node)

    def note_gone(self, node: Node) -> None:
        """Remember that nothing but the inode's own path, if any, leads to its number."""
        self._backup.wandering.discard(node.number & INO_MASK)

    def attach(self, parent: Node, name: bytes, node: Node) -> None:
        """Put a node at a free name."""
        assert parent.directory is not None
        parent.directory.children[name] = node
        key_bytes = parent.prefix_bytes() + 1 + len(name)
        self.longest_key_bytes = max(self.longest_key_bytes, key_bytes)
        for moving in self.moving:
            moving.note_attached(parent, name, node)
        if node.names is not None:
            node.names.add((parent, name))
        else:
            node.parent, node.name = parent, name
        self._mark(parent, name)

    def detach(self, parent: Node, name: bytes, node: Node) -> None:
        """Take a node's name away; the node itself stays as it is."""
        names = parent.directory
        assert names is not None
        if node.directory is not None:
            names.below.discard(name)
            names.gone.add(name)
        if names.base is None and name not in names.flying:
            del names.children[name]
            names.changed.discard(name)
        else:
            names.children[name] = None
            self._mark(parent, name)
        if node.names is not None:
            node.names.discard((parent, name))
        else:
            node.parent = None

    def replace(self, node: Node, **changes: object) -> Entry:
        """Change attributes of a node, and remember that it has changed."""
        old = node.entry
        assert old is not None
        node.entry = msgspec.structs.replace(old, **changes)
        if node.entry.size != old.size and self._is_named(node):
            self._backup.tally.size_bytes += node.entry.size - old.size
        self.touch(node)
        return node.entry

    def _is_named(self, node: Node) -> bool:
        """Whether an inode counts: one that is unlinked and still open does no longer."""
        if node.link_id is not None:
            return node.link_id in self.links
        return node.parent is not None

    def touch(self, node: Node) -> None:
        """Remember that a node has changed since the last checkpoint."""
        if node.parent is not None:
            self._mark(node.parent, node.name)
            return
        self._backup.note_change()
        if node.link_id is not None:
            if node.link_id in self.links:
                self.changed_links.add(node.link_id)
        elif node is self.top:
            self.is_top_changed = True

    def make_link_group(self, node: Node, link_id: bytes) -> None:
        """Turn a node with one name into one that may have several."""
        assert node.parent is not None
        parent, name = node.parent, node.name
        node.link_id = link_id
        node.names = {(parent, name)}
        node.parent = None
        self.links[link_id] = node
        self._mark(parent, name)
        self.changed_links.add(link_id)

    def drop_link_group(self, node: Node) -> None:
        """Forget the record of a node whose last name went."""
        assert node.link_id is not None
        del self.links[node.link_id]
        self.changed_links.add(node.link_id)

    def _mark(self, parent: Node, name: bytes) -> None:
        assert parent.directory is not None
        self._backup.note_change()
        if name not in parent.directory.changed:
            parent.directory.changed.add(name)
            self.changed_count += 1
            self.mark_below(parent)

    def mark_below(self, directory: Node) -> None:
        """Make a changed directory reachable from the top."""
        while directory.parent is not None:
            above = directory.parent.directory
            assert above is not None
            if directory.name in above.below:
                return
            above.below.add(directory.name)
            directory = directory.parent

    def forget_entry(self, node: Node) -> None:
        """Let go of attributes that the manifest holds just so, unless somebody uses them."""
        is_used = node.content is not None or node.opens or node.pins or node is self.top
        if not (is_used or node.clone_of or self.is_changed(node)) and any(node.places()):
            node.entry = None

    def forget_entries(self) -> None:
        """Let every attribute in memory be read anew; for backups that others write."""
        self.longest_key_bytes = KEY_MAX_BYTES
        waiting = [self.top]
        while waiting:
            node = waiting.pop()
            node.entry = None
            if node.directory is not None:
                waiting.extend(child for child in node.directory.children.values() if child)

    def read_anew(self) -> None:
        """Let the attributes in memory that the manifest holds be read from there again."""
        for node in list(self._live.by_number.values()):
            if node.backup is self._backup:
                self.forget_entry(node)

    # -- letting go --------------------------------------------------------------------------

    def release(self, node: Node) -> None:
        """Drop a node from memory if nobody needs it there, and then its parents alike."""
        waiting = [node]
        while waiting:
            current = waiting.pop()
            if not self._is_idle(current):
                continue
            for parent, name in list(current.places()):
                assert parent.directory is not None
                parent.directory.children.pop(name, None)
                waiting.append(parent)
            if current.link_id is not None and self.links.get(current.link_id) is current:
                del self.links[current.link_id]
            self._live.by_number.pop(current.number, None)
            current.parent = None

    def _is_idle(self, node: Node) -> bool:
        if node.lookups or node.opens or node.pins or node is self.top:
            return False
        if node.content is not None and node.content.is_dirty:
            return False
        names = node.directory
        if names is not None and (names.children or names.changed or names.flying or names.gone):
            return False
        return not self.is_changed(node)

    def is_changed(self, node: Node) -> bool:
        """Whether a node, or one of its names, has changed since the last stored checkpoint."""
        if node is self.top:
            return self.is_top_changed
        if node.link_id is not None and (
            node.link_id in self.changed_links or node.link_id in self.flying_links
        ):
            return node.link_id in self.links
        return any(
            name in parent.directory.changed or name in parent.directory.flying
            for parent, name in node.places()
            if parent.directory is not None
        )


def link_ino(link_id: bytes) -> int:
    """The inode number that a link record's id carries."""
    return int.from_bytes(link_id[:LINK_INO_BYTES], "big")


def new_link_id(number: int, digest: bytes) -> bytes:
    """A link id for the inode `number`: its 48 bits, then ten bytes of the path's digest."""
    return (number & INO_MASK).to_bytes(LINK_INO_BYTES, "big") + digest[:10]


def link_pointer(entry: Entry, link_id: bytes) -> Entry:
    """What a name of a hard-linked inode holds in the manifest."""
    return Entry(
        mode=stat.S_IFMT(entry.mode),
        uid=0,
        gid=0,
        mtime_ns=0,
        ctime_ns=0,
        size=0,
        extra=Extra(link_id=link_id),
    )
