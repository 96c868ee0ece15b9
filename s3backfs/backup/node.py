"""Names and inodes of one backup in memory.

A node is one inode that the kernel knows of, or that has changed since the last checkpoint.
Names hang on their parents, not on paths, so that renaming a directory moves one node.
Whatever is not in memory is found in the manifest, through the directory's `base`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from s3backfs.manifest.entry import Entry

if TYPE_CHECKING:
    from s3backfs.backup.backup import Backup


class OpenContent(Protocol):
    """File content that was changed, or is open; the file system's side of a node."""

    def settle_at_once(self) -> bool:
        """Do what `settle` does, if that takes no waiting; False where it does."""

    async def settle(self) -> None:
        """Hand all written bytes to the repository, so that the node's entry is complete."""

    @property
    def is_dirty(self) -> bool:
        """Whether bytes were written that the node's entry does not hold yet."""

    @property
    def allocated_bytes(self) -> int:
        """How many bytes are no holes, as far as that is known while something is written."""

    def swapped(self, captured: Entry, stored: Entry) -> None:
        """Learn that a checkpoint stored `stored` for what was `captured`."""


class Directory:
    """The names of one directory that are in memory.

    `base` is the directory's prefix in the tree of the last checkpoint (None: it is new), and
    `children` stands over it: a node, or None for a name that was removed. `changed` are names
    whose node or mapping differs from the base; `below` are child directories with changes
    further down; `gone` are names below which the base has a subtree that is no longer there.
    `flying` are the names that a checkpoint under way has captured.
    """

    __slots__ = ("base", "below", "changed", "children", "flying", "gone")

    def __init__(self, base: bytes | None) -> None:
        self.base = base
        self.children: dict[bytes, Node | None] = {}
        self.changed: set[bytes] = set()
        self.below: set[bytes] = set()
        self.gone: set[bytes] = set()
        self.flying: set[bytes] = set()

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever in it."""
        return self.base is None and not self.children

    def clear(self) -> None:
        """Be without names for good: the directory was removed."""
        self.base = None
        self.children.clear()
        for names in (self.changed, self.below, self.gone, self.flying):
            names.clear()

    def overlays(self, name: bytes) -> bool:
        """Whether a name must not be taken from the base."""
        return name in self.changed or name in self.flying

    def overlay_names(self) -> set[bytes]:
        """The names that must not be taken from the base."""
        return self.changed | self.flying


class Moving:
    """A directory that somebody is about to move, while names are made below it.

    `longest_bytes` is the length of the longest key below it, without its own prefix. It `is_stale`
    when a directory came in whose names were not looked at.
    """

    __slots__ = ("is_stale", "longest_bytes", "node")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.longest_bytes = 0
        self.is_stale = False

    def note_attached(self, parent: Node, name: bytes, node: Node) -> None:
        """Hear of a new name somewhere in the backup."""
        length_bytes, above = 1 + len(name), parent
        while above is not self.node:
            if above.parent is None:
                return
            length_bytes += len(above.name) + 1
            above = above.parent
        self.longest_bytes = max(self.longest_bytes, length_bytes)
        names = node.directory
        self.is_stale = self.is_stale or (names is not None and not names.is_new)


class Node:
    """One inode in memory.

    `entry` is None while a clean node's attributes are only in the manifest. A hard-linked node
    has a `link_id` and several `names`; any other stands at (`parent`, `name`).
    """

    __slots__ = (
        "backup",
        "clone_of",
        "content",
        "directory",
        "entry",
        "link_id",
        "lookups",
        "name",
        "names",
        "number",
        "opens",
        "parent",
        "pins",
        "wrote",
    )

    def __init__(self, backup: Backup, number: int, entry: Entry | None) -> None:
        self.backup = backup
        self.number = number
        self.entry = entry
        self.parent: Node | None = None
        self.name: bytes = b""
        self.directory: Directory | None = None
        self.link_id: bytes | None = None
        self.names: set[tuple[Node, bytes]] | None = None
        self.clone_of: Entry | None = None
        self.content: OpenContent | None = None
        self.lookups = 0
        self.opens = 0
        self.pins = 0
        self.wrote = False

    @property
    def is_directory(self) -> bool:
        """Whether names can hang below this node."""
        return self.directory is not None

    def places(self) -> Iterator[tuple[Node, bytes]]:
        """Every (parent, name) of this node that is in memory."""
        if self.names is not None:
            yield from self.names
        elif self.parent is not None:
            yield self.parent, self.name

    def components(self) -> list[bytes]:
        """Names from the top of the backup down to this node."""
        names: list[bytes] = []
        node = self
        while node.parent is not None:
            names.append(node.name)
            node = node.parent
        names.reverse()
        return names

    def prefix_bytes(self) -> int:
        """The length of `prefix`."""
        length, node = 0, self
        while node.parent is not None:
            length += len(node.name) + 1
            node = node.parent
        return length

    def prefix(self) -> bytes:
        """The prefix of the keys below this directory, at its present path."""
        return b"".join([name + b"\0" for name in self.components()])
