"""Noting that a sealed root is removed on purpose, before it is.

    removed/<nonce of the root>

Who has no key can remove a root, or move it to the trash, but cannot note it; and a note that was
kept from before a backup came back is older than the next backup that is sealed.
Source: docs/format.md, "Removals".
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

from s3backfs.errors import ObjectMissingError
from s3backfs.format.keys import Keyring
from s3backfs.format.removal import Removal, decode_removal, encode_removal
from s3backfs.format.root import Root
from s3backfs.store.base import Store

REMOVED_PREFIX = "removed/"

_KEY = re.compile(r"removed/([0-9a-f]{32})")


def removal_key(nonce: bytes) -> str:
    """The key of the note on the root with this nonce."""
    return REMOVED_PREFIX + nonce.hex()


def removed_nonce(key: str) -> bytes | None:
    """The nonce that a note's key names; None for what is no note."""
    match = _KEY.fullmatch(key)
    return None if match is None else bytes.fromhex(match[1])


def newest_ns(roots: Iterable[Root]) -> int:
    """When the newest sealed one of some roots was sealed, by its own word."""
    return max((root.sealed_ns for root in roots), default=0)


async def note_removal(store: Store, keyring: Keyring, root: Root, newest_sealed_ns: int) -> None:
    """Note that a sealed root is about to be removed; `newest_sealed_ns` see `newest_ns`.

    Raises:
        StoreError: it could not be noted; the root must stay.
    """
    key = removal_key(root.owner.nonce)
    removal = Removal(
        repository_id=keyring.repository_id,
        backup_id=root.backup_id,
        name=root.name,
        nonce=root.owner.nonce,
        newest_sealed_ns=max(newest_sealed_ns, root.sealed_ns, time.time_ns()),
    )
    await store.put(key, encode_removal(keyring, key, removal))


async def load_removal(store: Store, keyring: Keyring, nonce: bytes) -> Removal | None:
    """Read the note on a root; None where nobody has noted it.

    Raises:
        IntegrityError, UnsupportedFormatError: it cannot be read.
    """
    key = removal_key(nonce)
    try:
        removal = decode_removal(keyring, key, (await store.get(key)).data)
    except ObjectMissingError:
        return None
    return removal if removal.nonce == nonce else None
