"""Names, keys and sizes in the bounds of the format, also when a directory moves with all in it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import aclosing

from s3backfs.backup.node import Directory, Moving, Node
from s3backfs.errors import FileSystemError
from s3backfs.manifest.entry import MAX_FILE_BYTES
from s3backfs.manifest.keys import (
    KEY_MAX_BYTES,
    NAME_MAX_BYTES,
    child_prefix,
    subtree_range,
)


def check_directory(node: Node) -> None:
    """Raise ENOTDIR unless names can hang below the node."""
    if node.directory is None:
        raise FileSystemError(errno.ENOTDIR)


def check_name(parent: Node, name: bytes) -> None:
    """Raise ENAMETOOLONG for what has no key in the manifest, ENOENT below what was removed."""
    check_directory(parent)
    if len(name) > NAME_MAX_BYTES:
        raise FileSystemError(errno.ENAMETOOLONG)
    if parent.parent is None and parent is not parent.backup.names.top:
        raise FileSystemError(errno.ENOENT)
    if parent.prefix_bytes() + 1 + len(name) > KEY_MAX_BYTES:
        raise FileSystemError(errno.ENAMETOOLONG)


def check_size(size: int) -> None:
    """Refuse a file size that no manifest can hold.

    Raises:
        FileSystemError: EFBIG.
    """
    if size > MAX_FILE_BYTES:
        raise FileSystemError(errno.EFBIG)


class Move:
    """One name's way to another place; inside `with`, names made below it meanwhile are counted.

    `measure` looks at what is below and may take long; `check` decides at the moment of the move.
    """

    def __init__(self, node: Node, new_parent: Node, new_name: bytes) -> None:
        self._node = node
        self._new_parent = new_parent
        self._new_name = new_name
        self._moving = Moving(node)

    def __enter__(self) -> Move:
        self._node.backup.names.moving.append(self._moving)
        return self

    def __exit__(self, *_: object) -> None:
        self._node.backup.names.moving.remove(self._moving)

    @property
    def is_stale(self) -> bool:
        """Whether it has to be measured again."""
        return self._moving.is_stale

    async def measure(self) -> None:
        """Find the longest key below a directory.

        The tree is only walked if the longest key of all, which is known roughly, does not settle
        it.

        Raises:
            FileSystemError: ENAMETOOLONG.
        """
        self._moving.is_stale = False
        if self._node.directory is None:
            return
        names = self._node.backup.names
        roughly_bytes = names.longest_key_bytes - len(self._node.prefix())
        if self._new_prefix_bytes() + roughly_bytes > KEY_MAX_BYTES:
            roughly_bytes = await _longest_below(self._node)
        self._moving.longest_bytes = max(self._moving.longest_bytes, roughly_bytes)
        self.check()

    def check(self) -> None:
        """Refuse to move a directory to where something in it would have too long a key.

        Raises:
            FileSystemError: ENAMETOOLONG.
        """
        if self._node.directory is None:
            return
        longest_bytes = self._new_prefix_bytes() + self._moving.longest_bytes
        if longest_bytes > KEY_MAX_BYTES:
            raise FileSystemError(errno.ENAMETOOLONG)
        names = self._node.backup.names
        names.longest_key_bytes = max(names.longest_key_bytes, longest_bytes)

    def _new_prefix_bytes(self) -> int:
        return len(child_prefix(self._new_parent.prefix(), self._new_name))


async def _longest_below(node: Node) -> int:
    """The length of the longest key below a directory, without the directory's own prefix.

    Names that were removed since the last checkpoint may count.
    """
    longest_bytes, generation = 0, -1
    while generation != node.backup.generation:
        generation = node.backup.generation
        longest_bytes = 0
        for prefix_bytes, base in list(_places_below(node)):
            longest_bytes = max(longest_bytes, prefix_bytes)
            if base is not None:
                longest_bytes = max(longest_bytes, prefix_bytes + await _longest_at(node, base))
    return longest_bytes


def _places_below(node: Node) -> Iterator[tuple[int, bytes | None]]:
    """Lengths of keys in memory, and of prefixes with the base that stored names come from."""
    assert node.directory is not None
    waiting: list[tuple[int, Directory]] = [(0, node.directory)]
    yield 0, node.directory.base
    while waiting:
        prefix_bytes, directory = waiting.pop()
        for name, child in directory.children.items():
            if child is None:
                continue
            yield prefix_bytes + 1 + len(name), None
            if child.directory is not None:
                below_bytes = prefix_bytes + len(name) + 1
                waiting.append((below_bytes, child.directory))
                base = child.directory.base
                if directory.base is None or base != child_prefix(directory.base, name):
                    yield below_bytes, base


async def _longest_at(node: Node, base: bytes) -> int:
    """The longest stored key below a prefix, without the prefix."""
    longest_bytes = 0
    async with aclosing(node.backup.items(*subtree_range(base))) as items:
        async for key, _ in items:
            longest_bytes = max(longest_bytes, len(key) - len(base))
    return longest_bytes
