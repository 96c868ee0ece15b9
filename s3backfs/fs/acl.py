"""POSIX access control lists, as they travel in extended attributes.

Pure. Layout of a value, little endian: version (u32, 2), then entries of tag (u16), permissions
(u16), id (u32).
Source: acl(5), linux/posix_acl_xattr.h.
"""

from __future__ import annotations

import errno
import stat
import struct
from dataclasses import dataclass

from s3backfs.errors import FileSystemError

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"

_VERSION = 2
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_MINIMAL = struct.Struct("<I" + 3 * "HHI")

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_BASE_TAGS = (USER_OBJ, GROUP_OBJ, OTHER)
_KNOWN_TAGS = frozenset((*_BASE_TAGS, USER, GROUP, MASK))


@dataclass(frozen=True, slots=True)
class AclEntry:
    """One line of a list: who, and which of rwx (4, 2, 1)."""

    tag: int
    permissions: int
    id: int


def decode(value: bytes) -> list[AclEntry]:
    """Parse an extended attribute's value.

    Raises:
        FileSystemError: EINVAL, for anything that is no list.
    """
    body = len(value) - _HEADER.size
    if body < 0 or body % _ENTRY.size or _HEADER.unpack_from(value)[0] != _VERSION:
        raise FileSystemError(errno.EINVAL)
    entries = [AclEntry(*fields) for fields in _ENTRY.iter_unpack(value[_HEADER.size :])]
    tags = [entry.tag for entry in entries]
    if not set(tags) <= _KNOWN_TAGS or any(entry.permissions > 7 for entry in entries):
        raise FileSystemError(errno.EINVAL)
    if entries and any(tags.count(tag) != 1 for tag in _BASE_TAGS):
        raise FileSystemError(errno.EINVAL)
    is_named = USER in tags or GROUP in tags
    if tags.count(MASK) > 1 or (is_named and MASK not in tags):
        raise FileSystemError(errno.EINVAL)
    return entries


def encode(entries: list[AclEntry]) -> bytes:
    """Write a list as an extended attribute's value."""
    lines = [_ENTRY.pack(entry.tag, entry.permissions, entry.id) for entry in entries]
    return _HEADER.pack(_VERSION) + b"".join(lines)


def minimal_mode(value: bytes, mode: int) -> int | None:
    """The mode that a list of owner, group and others stands for; None for any other value.

    `cp -a` sets such a list on every file that it copies.
    """
    if len(value) != _MINIMAL.size:
        return None
    version, owner, user, _, owners, group, _, rest, other, _ = _MINIMAL.unpack(value)
    if (version, owner, owners, rest) != (_VERSION, *_BASE_TAGS) or user | group | other > 7:
        return None
    return int((mode & ~0o777) | user << 6 | group << 3 | other)


def folded(entries: list[AclEntry], mode: int) -> tuple[int, list[AclEntry] | None]:
    """Bring an access list into the mode; None if the mode says all that the list says."""
    by_tag = {entry.tag: entry.permissions for entry in entries}
    group = by_tag.get(MASK, by_tag[GROUP_OBJ])
    mode = (mode & ~0o777) | by_tag[USER_OBJ] << 6 | group << 3 | by_tag[OTHER]
    is_minimal = len(entries) == len(_BASE_TAGS)
    return mode, None if is_minimal else entries


def after_chmod(value: bytes, mode: int) -> bytes:
    """The access list after the mode was set: owner, mask (else group) and others follow it."""
    return encode(_masked(decode(value), mode, replace=True))


def inherited(xattrs: dict[bytes, bytes], mode: int) -> tuple[int, dict[bytes, bytes]]:
    """Mode and lists that a new inode takes from its parent directory's default list.

    The kernel has applied the umask to `mode` already. Symbolic links inherit nothing.
    """
    default = xattrs.get(DEFAULT)
    if default is None or stat.S_ISLNK(mode):
        return mode, {}
    mode, access = folded(_masked(decode(default), mode, replace=False), mode)
    taken = {DEFAULT: default} if stat.S_ISDIR(mode) else {}
    if access is not None:
        taken[ACCESS] = encode(access)
    return mode, taken


def _masked(entries: list[AclEntry], mode: int, *, replace: bool) -> list[AclEntry]:
    has_mask = any(entry.tag == MASK for entry in entries)
    bits = {
        USER_OBJ: mode >> 6 & 7,
        OTHER: mode & 7,
        MASK if has_mask else GROUP_OBJ: mode >> 3 & 7,
    }
    return [
        AclEntry(
            entry.tag, bits[entry.tag] if replace else entry.permissions & bits[entry.tag], entry.id
        )
        if entry.tag in bits
        else entry
        for entry in entries
    ]
