"""Removing what writers that are long gone have left below `leases/`.

A week without a sign is more than the longest lease and more than any request is under way. A lease
of which the writer still owns an open backup stays: by it prune knows whom to fence.
"""

from __future__ import annotations

import re

from s3backfs.backup.finding import load_all, look, with_newer_copies
from s3backfs.backup.roots import HeldRoot
from s3backfs.format.keys import Keyring
from s3backfs.repository.leases import LEASES_PREFIX
from s3backfs.store.base import Store

LONG_GONE_S = 7 * 24 * 3600.0

_NS = 1_000_000_000
_LEASE = re.compile(r"leases/([0-9a-f]{32})/lease")
_CLAIM_OR_GRAVE = re.compile(r"leases/[0-9a-f]{32}/(names|gone)/.+")


async def tidy_leases(store: Store, keyring: Keyring, now_ns: int) -> int:
    """Remove old leases, claims and graves, and return how many; `now_ns` is the store's time.

    Copies of open roots stay: they may be the state of a backup.

    Raises:
        S3backfsError: a root cannot be read, so that it is not known who owns it; all stays.
    """
    old = await _old_keys(store, now_ns - int(LONG_GONE_S * _NS))
    if not old:
        return 0
    owners = await _owners(store, keyring)
    keys = [key for key in old if _may_go(key, owners)]
    if keys:
        await store.delete(keys)
    return len(keys)


async def _old_keys(store: Store, oldest_ns: int) -> list[str]:
    return [
        listed.key
        async for page in store.list(LEASES_PREFIX)
        for listed in page
        if 0 < listed.modified_ns <= oldest_ns
    ]


async def _owners(store: Store, keyring: Keyring) -> set[str]:
    """The writers that own open backups, in hex."""
    found, beside = await look(store, keyring)
    opened = [entry for entry in found.values() if not entry.is_sealed]
    roots: dict[bytes, HeldRoot] = {}
    for entry, held in await load_all(store, keyring, opened):
        if not isinstance(held, HeldRoot):
            raise held
        roots[entry.name] = held
    newer = await with_newer_copies(store, keyring, roots, beside)
    held_roots = [*roots.values(), *newer.values()]
    return {held.root.owner.writer.hex() for held in held_roots}


def _may_go(key: str, owners: set[str]) -> bool:
    if match := _LEASE.fullmatch(key):
        return match[1] not in owners
    return _CLAIM_OR_GRAVE.fullmatch(key) is not None
