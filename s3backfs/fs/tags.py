"""The tags of a backup as extended attributes of its top directory.

`user.s3backfs.tag.NAME` is one tag, `user.s3backfs.tags` the names of all, a line each. They are
not listed: `rsync -X` would remove those that its source does not have, and copy others along.
"""

from __future__ import annotations

import errno

from s3backfs.backup.node import Node
from s3backfs.backup.tags import load_tag, load_tags_of, remove_tag, set_tag
from s3backfs.errors import ConfigurationError, FileSystemError

NAMES_XATTR = b"user.s3backfs.tags"
TAG_XATTR_PREFIX = b"user.s3backfs.tag."


def is_tag_xattr(node: Node, name: bytes) -> bool:
    """Whether an attribute is a tag, or the list of them."""
    is_top = node is node.backup.names.top
    return is_top and (name == NAMES_XATTR or name.startswith(TAG_XATTR_PREFIX))


async def get_tag_xattr(node: Node, name: bytes) -> bytes:
    """Read a tag from the store, or name all.

    Raises:
        FileSystemError: ENODATA.
    """
    repository, root = node.backup.repository, node.backup.root
    if name == NAMES_XATTR:
        tags = await load_tags_of(repository.store, repository.keyring, root)
        return "".join(f"{each}\n" for each in tags).encode()
    value = await load_tag(repository.store, repository.keyring, root, _tag_name(name))
    if value is None:
        raise FileSystemError(errno.ENODATA)
    return value.encode()


async def set_tag_xattr(node: Node, name: bytes, value: bytes) -> None:
    """Set a tag, on a sealed backup too; on return it is stored.

    Raises:
        FileSystemError: EROFS on a read-only mount, EINVAL for what no tag can be, EPERM.
    """
    _check_settable(node, name)
    repository = node.backup.repository
    try:
        text = value.decode()
        root = node.backup.root
        await set_tag(repository.store, repository.keyring, root, _tag_name(name), text)
    except (UnicodeDecodeError, ConfigurationError) as error:
        raise FileSystemError(errno.EINVAL, str(error)) from error


async def remove_tag_xattr(node: Node, name: bytes) -> None:
    """Take a tag away.

    Raises:
        FileSystemError: EROFS on a read-only mount, ENODATA where there is none, EPERM.
    """
    _check_settable(node, name)
    await get_tag_xattr(node, name)
    repository = node.backup.repository
    await remove_tag(repository.store, repository.keyring, node.backup.root, _tag_name(name))


def _check_settable(node: Node, name: bytes) -> None:
    if node.backup.repository.lease is None:
        raise FileSystemError(errno.EROFS)
    if name == NAMES_XATTR:
        raise FileSystemError(errno.EPERM)


def _tag_name(name: bytes) -> str:
    try:
        return name.removeprefix(TAG_XATTR_PREFIX).decode()
    except UnicodeDecodeError:
        raise FileSystemError(errno.EINVAL, "tags have names in UTF-8") from None
