"""Sealed backups that are gone, or others by now, without anybody with the key having said so.

Each sealed root says which sealed roots its writer saw; the newest one counts. Who removes one on
purpose notes that first. A note is believed if no backup was sealed since: a newer one that saw the
root again proves that it had come back.
Source: docs/format.md, "Removals".
"""

from __future__ import annotations

from s3backfs.backup.removals import load_removal
from s3backfs.errors import IntegrityError, UnsupportedFormatError
from s3backfs.format.removal import Removal
from s3backfs.format.root import Root, Seen
from s3backfs.maintenance.findings import Damage, What
from s3backfs.maintenance.structure import Structure
from s3backfs.maintenance.survey import TRASH_PREFIX
from s3backfs.repository.repository import Repository

SLACK_NS = 600 * 1_000_000_000
"""Who seals while another machine forgets may still have seen what goes; clocks differ a little."""

REMEDY = "bring the object's older version back; if it was you, seal another backup"
TRASH_REMEDY = "bring it back with `s3backfs unforget`; to remove it, forget it then"


async def find_missing(repository: Repository, structure: Structure) -> list[Damage]:
    """Hold what the writer of the newest sealed backup saw against what is there.

    Raises:
        StoreError: the store would not give something.
    """
    sealed = [held.root for held in structure.roots if held.is_in_place]
    newest = structure.newest
    if newest is None:
        return []
    there = {(root.name, root.owner.nonce) for root in sealed}
    damaged = {damage.key.rpartition("/")[2] for damage in structure.damages}
    damages = []
    for seen in newest.seen:
        key = structure.sealed_key(seen.name)
        if (seen.name, seen.nonce) in there or key.rpartition("/")[2] in damaged:
            continue
        removal = await _removal(repository, seen)
        if not _is_explained(removal, seen, newest, structure):
            damages.append(_damage(key, seen, structure))
    return damages


async def _removal(repository: Repository, seen: Seen) -> Removal | None:
    try:
        return await load_removal(repository.store, repository.keyring, seen.nonce)
    except (IntegrityError, UnsupportedFormatError):
        return None


def _is_explained(removal: Removal | None, seen: Seen, newest: Root, structure: Structure) -> bool:
    if removal is None or removal.name != seen.name:
        return False
    is_fresh = removal.newest_sealed_ns + SLACK_NS >= newest.sealed_ns
    return is_fresh or _is_in_trash(seen, structure)


def _is_in_trash(seen: Seen, structure: Structure) -> bool:
    return any(
        held.key.startswith(TRASH_PREFIX) and held.root.owner.nonce == seen.nonce
        for held in structure.roots
    )


def _damage(key: str, seen: Seen, structure: Structure) -> Damage:
    if _is_in_trash(seen, structure):
        text = "a sealed backup is in the trash, and nobody who has the key has put it there"
        return Damage(What.BACKUP, key, 0, text, TRASH_REMEDY)
    if any(held.is_in_place and held.root.name == seen.name for held in structure.roots):
        text = "another root stands in the place of the one that was sealed"
    else:
        text = "a sealed backup is gone that was there when the newest one was sealed"
    return Damage(What.BACKUP, key, 0, text, REMEDY)
