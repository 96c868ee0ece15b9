"""Keys that stay within the format's bound when a directory moves with all that is in it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import aclosing

from s3backfs.backup.node import Directory, Node
from s3backfs.errors import FileSystemError
from s3backfs.manifest.keys import KEY_MAX_BYTES, child_prefix, subtree_range


async def check_moved(node: Node, new_parent: Node, new_name: bytes) -> None:
    """Refuse to move a directory to where something in it would have too long a key.

    The tree is only walked if the longest key of all, which is known roughly, does not settle it.

    Raises:
        FileSystemError: ENAMETOOLONG.
    """
    if node.directory is None:
        return
    names = node.backup.names
    new_prefix_bytes = len(child_prefix(new_parent.prefix(), new_name))
    longest_bytes = new_prefix_bytes + names.longest_key_bytes - len(node.prefix())
    if longest_bytes > KEY_MAX_BYTES:
        longest_bytes = new_prefix_bytes + await _longest_below(node)
        if longest_bytes > KEY_MAX_BYTES:
            raise FileSystemError(errno.ENAMETOOLONG)
    names.longest_key_bytes = max(names.longest_key_bytes, longest_bytes)


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
