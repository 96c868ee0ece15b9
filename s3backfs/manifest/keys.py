"""Keys of the manifest: how paths become byte strings that sort the way a tree is walked.

A path is a sequence of names. A directory's prefix is each of its components with a NUL behind it;
the key of an entry is the prefix of its directory, a NUL, and its name. So the names of one
directory lie side by side, before the names of the directories inside it, and a whole subtree is
one range of keys.
Source: docs/format.md, "Manifest keys".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

TOP_PREFIX = b""
"""The prefix of the top directory of a backup."""

TOP_KEY = b"\0"
"""The key of the top directory's own entry."""

NAME_MAX_BYTES = 255
KEY_MAX_BYTES = 8192
"""A longer path has no key; the kernel takes half of it in one call at most."""

LINK_ID_BYTES = 16

LINK_MARK = b"\0"
"""Link records are names of the top directory that begin with this, and are never listed."""

LINK_PREFIX = b"\0" + LINK_MARK
"""What the key of every link record begins with."""

LINK_KEY_BYTES = len(LINK_PREFIX) + LINK_ID_BYTES


def directory_prefix(components: Sequence[bytes]) -> bytes:
    """Return what stands in front of every key of a directory."""
    return b"".join(component + b"\0" for component in components)


def child_prefix(prefix: bytes, name: bytes) -> bytes:
    """Return the prefix of the directory `name` in the directory with `prefix`."""
    return prefix + name + b"\0"


def prefixes_above(prefix: bytes) -> Iterator[bytes]:
    """Yield the prefix of every directory from below the top down to the one with `prefix`."""
    end = prefix.find(b"\0") + 1
    while end:
        yield prefix[:end]
        end = prefix.find(b"\0", end) + 1


def entry_key(prefix: bytes, name: bytes) -> bytes:
    """Return the key of the entry `name` in the directory with `prefix`."""
    return prefix + b"\0" + name


def path_key(components: Sequence[bytes]) -> bytes:
    """Return the key of the entry at a path; that of the top directory where it is empty."""
    if not components:
        return TOP_KEY
    return entry_key(directory_prefix(components[:-1]), components[-1])


def split_key(key: bytes) -> tuple[bytes, bytes]:
    """Return (prefix of the directory, name); the inverse of `entry_key`.

    Raises:
        ValueError: this is no key of a manifest.
    """
    if key.startswith(b"\0"):
        return b"", key[1:]
    at = key.index(b"\0\0")
    return key[: at + 1], key[at + 2 :]


def key_components(key: bytes) -> tuple[bytes, ...]:
    """Return the path a key stands for; the inverse of `path_key`."""
    prefix, name = split_key(key)
    directory = tuple(prefix[:-1].split(b"\0")) if prefix else ()
    return (*directory, name) if name else directory


def link_key(link_id: bytes) -> bytes:
    """Return the key of a link record."""
    return LINK_PREFIX + link_id


def is_link_key(key: bytes) -> bool:
    return key.startswith(LINK_PREFIX)


def key_range(key: bytes) -> tuple[bytes, bytes]:
    """Return the range [lo, hi) that holds this key alone."""
    return key, key + b"\0"


def directory_range(prefix: bytes) -> tuple[bytes, bytes]:
    """Return the range [lo, hi) of the names in a directory, not of what is below them.

    That of the top directory leaves out its own entry and the link records.
    """
    if not prefix:
        return b"\0\x01", b"\x01"
    return prefix + b"\0", prefix + b"\x01"


def subtree_end(prefix: bytes) -> bytes:
    """Return the first key behind all that is below a directory other than the top."""
    return prefix[:-1] + b"\x01"


def subtree_range(prefix: bytes) -> tuple[bytes, bytes]:
    """Return the range [lo, hi) of all that is below a directory, without its own entry.

    That of the top directory leaves out its own entry and the link records.
    """
    if not prefix:
        return b"\0\x01", b"\xff" * (NAME_MAX_BYTES + 1)
    return prefix, subtree_end(prefix)


def rekeyed(key: bytes, old_prefix: bytes, new_prefix: bytes) -> bytes:
    """Return the key an entry below a directory has when that directory is moved."""
    return new_prefix + key[len(old_prefix) :]


def extent_key(file_offset: int) -> bytes:
    """Return the key of an extent in an extent tree."""
    return file_offset.to_bytes(8, "big")


def extent_offset(key: bytes) -> int:
    """Return the file offset of an extent's key."""
    return int.from_bytes(key, "big")
