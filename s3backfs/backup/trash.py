"""Forgetting: a sealed root goes to the trash, from where it can be brought back.

    trash/<time>/<name>     the root's bytes, as they were under `backups/<name>`

The copy is read back before the root is removed, so that at every moment one of the two is there.
"""

from __future__ import annotations

import secrets

from s3backfs.backup.removals import note_removal
from s3backfs.backup.roots import SEALED_PREFIX
from s3backfs.backup.tags import is_locked
from s3backfs.errors import IntegrityError, LockedError, ObjectMissingError, RepositoryBusyError
from s3backfs.format.keys import Keyring
from s3backfs.format.root import Root, decode_root
from s3backfs.store.base import Store

TRASH_PREFIX = "trash/"

_NS = 1_000_000_000


async def move_to_trash(
    store: Store, keyring: Keyring, key: str, nonce: bytes, newest_sealed_ns: int
) -> str:
    """Move the root at `key` to the trash, and return its key there.

    `nonce` is that of the root that was decided on: another one stays. `newest_sealed_ns` is noted
    with the removal, see `note_removal`.

    Raises:
        LockedError: the backup's tags say that it stays.
        RepositoryBusyError: another root stands there by now.
        IntegrityError: the root, or the copy of it, cannot be read; the root stays.
    """
    fetched = await store.get(key)
    root = decode_root(keyring, key, fetched.data)
    _check_nonce(root, nonce)
    if await is_locked(store, keyring, root):
        raise LockedError("this backup is locked: it has the tag 'locked'")
    trash_key = _new_key(key, fetched.server_time_ns)
    await store.copy(key, trash_key)
    if await _data(store, trash_key) != fetched.data:
        raise IntegrityError("the copy of a root is not what was copied", key=trash_key)
    # Somebody may have reopened and sealed it meanwhile.
    _check_nonce(decode_root(keyring, key, (await store.get(key)).data), nonce)
    await note_removal(store, keyring, root, newest_sealed_ns)
    await store.delete([key])
    return trash_key


async def _data(store: Store, trash_key: str) -> bytes:
    try:
        return (await store.get(trash_key)).data
    except ObjectMissingError as error:
        text = "a prune without grace has emptied the trash just now; the backup stays: try again"
        raise RepositoryBusyError(text) from error


def _new_key(key: str, server_time_ns: int) -> str:
    """A key of its own, also where one name is forgotten twice in a second."""
    time_ns = server_time_ns // _NS * _NS + secrets.randbelow(_NS)
    return f"{TRASH_PREFIX}{time_ns}/{key.removeprefix(SEALED_PREFIX)}"


def _check_nonce(root: Root, nonce: bytes) -> None:
    if root.owner.nonce != nonce:
        raise RepositoryBusyError("another root stands in the place of this backup's by now")
