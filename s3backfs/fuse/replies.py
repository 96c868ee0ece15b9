"""From nodes and entries to what the kernel is told."""

from __future__ import annotations

import stat
import zlib
from collections.abc import Sequence

import pyfuse3
from pyfuse3 import EntryAttributes, StatvfsData

from s3backfs.backup.node import Node
from s3backfs.format.root import Root
from s3backfs.fs import control_files
from s3backfs.fs.joining import link_count
from s3backfs.fs.privileges import has_privileges
from s3backfs.manifest.entry import Entry, block_count
from s3backfs.manifest.keys import NAME_MAX_BYTES

FOREVER_S = 10 * 365 * 24 * 3600.0
FOREIGN_S = 5.0
"""How long the kernel may believe what other machines can change."""

BLOCK_BYTES = 4096
IO_BLOCK_BYTES = 128 * 1024
STAT_BLOCK_BYTES = 512

_CONTROL_TIME_NS = 0


def attributes(node: Node, entry: Entry) -> EntryAttributes:
    """What stat(2) shows of a node."""
    timeout_s = FOREVER_S if node.backup.is_lasting else FOREIGN_S
    is_provisional = _is_provisional(node, entry)
    reply = EntryAttributes()
    reply.st_ino = node.number
    reply.st_mode = entry.mode
    reply.st_nlink = link_count(node, entry)
    reply.st_uid = entry.uid
    reply.st_gid = entry.gid
    reply.st_size = entry.size
    reply.st_blocks = _blocks(node, entry)
    reply.st_blksize = IO_BLOCK_BYTES
    reply.st_mtime_ns = entry.mtime_ns
    reply.st_atime_ns = entry.mtime_ns
    reply.st_ctime_ns = entry.ctime_ns
    reply.attr_timeout = 0.0 if is_provisional else timeout_s
    # A backup's own name can be changed by other machines at any time.
    reply.entry_timeout = timeout_s if node.parent is not None or node.names else FOREIGN_S
    if entry.extra is not None:
        reply.st_rdev = entry.extra.rdev
    return reply


def _is_provisional(node: Node, entry: Entry) -> bool:
    """Whether the next write, or that what was written is stored, changes more than is told.

    The number of blocks changes, and the mode where a write past the page cache takes setuid.
    """
    if node.content is not None and (node.content.is_dirty or has_privileges(entry)):
        return True
    return entry.extra is not None and entry.extra.extent_tree is not None and bool(entry.extents)


def _blocks(node: Node, entry: Entry) -> int:
    """Blocks of 512 bytes; never 0 for a file that has data, or tar would take it for a hole."""
    if node.content is None or not node.content.is_dirty:
        return block_count(entry)
    return -(-min(entry.size, node.content.allocated_bytes) // STAT_BLOCK_BYTES)


def _missing() -> EntryAttributes:
    reply = EntryAttributes()
    reply.st_ino = 0
    reply.entry_timeout = FOREVER_S
    return reply


MISSING = _missing()
"""A name that is not there, for the kernel to remember."""


def unreadable_attributes(name: bytes, mode: int = stat.S_IFDIR) -> EntryAttributes:
    """A name that is there and cannot be read: looked at, it answers with the error."""
    reply = EntryAttributes()
    # Slot 0 is no backup's; numbers below 2**32 are kept for what is fixed.
    reply.st_ino = 1 << 32 | zlib.crc32(name)
    reply.st_mode = stat.S_IFMT(mode)
    reply.attr_timeout = reply.entry_timeout = 0.0
    return reply


def root_attributes(uid: int, gid: int, backups_count: int, time_ns: int) -> EntryAttributes:
    """The directory of backups."""
    reply = EntryAttributes()
    reply.st_ino = pyfuse3.ROOT_INODE
    reply.st_mode = stat.S_IFDIR | 0o755
    reply.st_nlink = 2 + backups_count
    reply.st_uid, reply.st_gid = uid, gid
    reply.st_blksize = IO_BLOCK_BYTES
    reply.st_atime_ns = reply.st_mtime_ns = reply.st_ctime_ns = time_ns
    reply.attr_timeout = reply.entry_timeout = FOREIGN_S
    return reply


def control_attributes(number: int, uid: int, gid: int) -> EntryAttributes:
    """`.s3backfs` and what is in it; its sizes are not known before it is opened."""
    is_directory = number == control_files.DIRECTORY_NUMBER
    mode = stat.S_IFDIR | 0o555 if is_directory else stat.S_IFREG | 0o444
    reply = EntryAttributes()
    reply.st_ino = number
    reply.st_mode = mode
    reply.st_nlink = 2 if is_directory else 1
    reply.st_uid, reply.st_gid = uid, gid
    reply.st_blksize = IO_BLOCK_BYTES
    reply.st_atime_ns = reply.st_mtime_ns = reply.st_ctime_ns = _CONTROL_TIME_NS
    reply.attr_timeout = reply.entry_timeout = FOREIGN_S
    return reply


def space(roots: Sequence[Root]) -> StatvfsData:
    """What statfs(2) shows of some backups together."""
    reply = StatvfsData()
    reply.f_bsize = reply.f_frsize = BLOCK_BYTES
    used_blocks = sum(root.statistics.stored_bytes for root in roots) // BLOCK_BYTES
    # The bucket has no end: as much as 1 PiB is always said to be free.
    reply.f_bfree = reply.f_bavail = 2**50 // BLOCK_BYTES
    reply.f_blocks = used_blocks + reply.f_bfree
    reply.f_ffree = reply.f_favail = 2**40
    reply.f_files = sum(root.statistics.entries for root in roots) + reply.f_ffree
    reply.f_namemax = NAME_MAX_BYTES
    return reply
