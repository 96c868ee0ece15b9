"""Tags of backups: what people and policies say about them, sealed or not.

    tags/<backup id>/<name>     one object for each tag

A sealed root never changes, so tags stand beside it. Two machines that set different tags write
different objects, and neither can lose the other's. They hang on the backup's id: a renamed backup,
and one that comes back from the trash, has its tags.
Source: docs/format.md, "Tags".
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from contextlib import suppress

import trio

from s3backfs.errors import (
    ConfigurationError,
    IntegrityError,
    ObjectMissingError,
    UnsupportedFormatError,
)
from s3backfs.format.keys import Keyring
from s3backfs.format.root import Root
from s3backfs.format.tag import Tag, decode_tag, encode_tag
from s3backfs.store.base import Store
from s3backfs.store.together import open_together

log = logging.getLogger(__name__)

TAGS_PREFIX = "tags/"

LOCK = "locked"
"""A backup with this tag, whatever its value, is not forgotten."""

NAME_MAX_BYTES = 140
VALUE_MAX_CHARS = 4096
TAGS_AT_ONCE = 16

_KEY = re.compile(r"tags/([0-9a-f]{32})/([^/]+)")


def tag_key(keyring: Keyring, backup_id: bytes, name: str) -> str:
    """The key of one tag."""
    return f"{TAGS_PREFIX}{backup_id.hex()}/{keyring.encode_name(name.encode())}"


def check_tag(name: str, value: str) -> None:
    """Refuse what no tag can be.

    Raises:
        ConfigurationError: the name is empty, too long or has bytes that names cannot have.
    """
    try:
        size = len(name.encode())
        value.encode()
    except UnicodeEncodeError:
        raise ConfigurationError("tags are text in UTF-8") from None
    if not 1 <= size <= NAME_MAX_BYTES or name in (".", ".."):
        raise ConfigurationError(f"a tag's name has 1 to {NAME_MAX_BYTES} bytes")
    if not name.isprintable() or set(name) & set("/="):
        raise ConfigurationError("a tag's name has no '/', no '=' and no control characters")
    if len(value) > VALUE_MAX_CHARS:
        raise ConfigurationError(f"a tag's value has {VALUE_MAX_CHARS} characters at most")


async def load_tags(store: Store, keyring: Keyring) -> dict[bytes, dict[str, str | None]]:
    """Read all tags of a repository, by the backups' ids.

    Raises:
        StoreError: the store would not list or give.
    """
    return await _load(store, keyring, TAGS_PREFIX)


async def load_tags_of(store: Store, keyring: Keyring, root: Root) -> dict[str, str]:
    """Read the tags of one backup, see `load_tags`."""
    found = await _load(store, keyring, f"{TAGS_PREFIX}{root.backup_id.hex()}/")
    return merged(root, found.get(root.backup_id, {}))


async def load_tag(store: Store, keyring: Keyring, root: Root, name: str) -> str | None:
    """Read one tag of a backup; None where it does not have it."""
    if not 1 <= len(name.encode()) <= NAME_MAX_BYTES:
        return None
    try:
        return await _load_value(store, keyring, tag_key(keyring, root.backup_id, name))
    except ObjectMissingError:
        return root.tags.get(name)


def merged(root: Root, stored: Mapping[str, str | None]) -> dict[str, str]:
    """The tags that count: those in the root, and over them those that stand alone."""
    tags = {**root.tags, **stored}
    return {name: value for name, value in sorted(tags.items()) if value is not None}


async def _load(store: Store, keyring: Keyring, prefix: str) -> dict[bytes, dict[str, str | None]]:
    found: dict[bytes, dict[str, str | None]] = {}
    limiter = trio.CapacityLimiter(TAGS_AT_ONCE)

    async def load_one(key: str, backup_id: bytes, name: str) -> None:
        async with limiter:
            with suppress(ObjectMissingError):
                value = await _load_value(store, keyring, key)
                found.setdefault(backup_id, {})[name] = value

    async with open_together() as nursery:
        async for page in store.list(prefix):
            for listed in page:
                place = _place(keyring, listed.key)
                if place is not None:
                    nursery.start_soon(load_one, listed.key, *place)
    return found


def tagged_backup(key: str) -> bytes | None:
    """The backup that a tag's key names; None for what is no tag."""
    match = _KEY.fullmatch(key)
    return None if match is None else bytes.fromhex(match[1])


def _place(keyring: Keyring, key: str) -> tuple[bytes, str] | None:
    """The backup and the name that a key says."""
    backup_id, (_, _, encoded) = tagged_backup(key), key.rpartition("/")
    if backup_id is None:
        return None
    try:
        return backup_id, keyring.decode_name(encoded).decode()
    except (IntegrityError, UnicodeDecodeError):
        log.warning("%s is no tag of this repository", key)
        return None


async def _load_value(store: Store, keyring: Keyring, key: str) -> str | None:
    data = (await store.get(key)).data
    try:
        return decode_tag(keyring, key, data).value
    except (IntegrityError, UnsupportedFormatError) as error:
        # That there is such a tag is known by its key: a lock with a damaged value still locks.
        log.warning("the value of a tag cannot be read: %s", error)
        return ""


async def set_tag(store: Store, keyring: Keyring, root: Root, name: str, value: str) -> None:
    """Give a backup a tag, or a tag another value.

    Raises:
        ConfigurationError: no tag can be like this.
    """
    check_tag(name, value)
    await _store(store, keyring, root, name, value)


async def remove_tag(store: Store, keyring: Keyring, root: Root, name: str) -> None:
    """Take a tag away; one that is not there is no error."""
    if name in root.tags:
        await _store(store, keyring, root, name, None)
    else:
        await store.delete([tag_key(keyring, root.backup_id, name)])


async def _store(store: Store, keyring: Keyring, root: Root, name: str, value: str | None) -> None:
    key = tag_key(keyring, root.backup_id, name)
    tag = Tag(repository_id=keyring.repository_id, backup_id=root.backup_id, name=name, value=value)
    await store.put(key, encode_tag(keyring, key, tag))


async def is_locked(store: Store, keyring: Keyring, root: Root) -> bool:
    """Whether a backup may not be forgotten."""
    return await load_tag(store, keyring, root, LOCK) is not None
