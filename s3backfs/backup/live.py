"""Numbers of the inodes that are in memory, over all backups of a mount.

A number is the backup's slot (16 bits) above 48 bits that derive from the path where the inode was
made, so that it is the same after a remount, on any machine.
"""

from __future__ import annotations

import re
import secrets
from collections import deque

from s3backfs.backup.node import Node
from s3backfs.format.keys import Keyring

SLOT_SHIFT = 48
INO_MASK = (1 << SLOT_SHIFT) - 1
ENTRIES_KEPT = 50_000
"""So many nodes keep attributes that the manifest has, too: the kernel may know millions."""

TOP_INO = 1
"""The 48 bits of every backup's top directory; a path's hash is never below 2."""

_RSYNC_TEMPORARY = re.compile(rb"\.(.+)\.[A-Za-z0-9]{6}", re.DOTALL)


def settled_name(name: bytes) -> bytes:
    """The name that a file will have in the end, where its present name tells.

    rsync writes `.NAME.XXXXXX` and renames it to NAME. With the hash of NAME the inode's number
    needs no place in the manifest, and nightly backups share their nodes.
    """
    match = _RSYNC_TEMPORARY.fullmatch(name)
    return match[1] if match else name


class LiveNodes:
    """Node by number; a number stays taken while its node is in memory."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self.by_number: dict[int, Node] = {}
        self._loaded: deque[Node] = deque()

    def note_loaded(self, node: Node) -> None:
        """Count attributes that were read from a manifest; the oldest go, and are read again."""
        self._loaded.append(node)
        if len(self._loaded) > ENTRIES_KEPT:
            oldest = self._loaded.popleft()
            oldest.backup.names.forget_entry(oldest)

    def path_ino(self, key: bytes) -> int:
        """The 48 bits that the manifest need not store for the entry at `key`."""
        return self._keyring.path_hash(key, 0)

    def new_number(self, slot: int) -> int:
        """A number that derives from no path, and that no node in memory has."""
        while True:
            ino = secrets.randbits(SLOT_SHIFT)
            number = slot << SLOT_SHIFT | ino
            if ino > TOP_INO and number not in self.by_number:
                return number

    def free_number(self, slot: int, key: bytes) -> int:
        """The first number of the path's sequence that no node in memory has."""
        attempt = 0
        while True:
            number = slot << SLOT_SHIFT | self._keyring.path_hash(key, attempt)
            if number not in self.by_number:
                return number
            attempt += 1

    def take_number(self, slot: int, ino: int, key: bytes) -> int:
        """The number that is stored as `ino`, or another one if a node in memory has it."""
        number = slot << SLOT_SHIFT | ino
        return number if number not in self.by_number else self.free_number(slot, key)
