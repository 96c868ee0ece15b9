"""Dropping notes on removed roots that no sealed backup names any more."""

from __future__ import annotations

from s3backfs.backup.removals import REMOVED_PREFIX, removed_nonce
from s3backfs.format.keys import Keyring
from s3backfs.maintenance.left_behind import LONG_GONE_S
from s3backfs.maintenance.survey import TRASH_PREFIX, load_every_root
from s3backfs.store.base import Store

_NS = 1_000_000_000


async def tidy_removals(store: Store, keyring: Keyring, now_ns: int) -> int:
    """Drop notes that are a week old and explain nothing, and return how many.

    `now_ns` is the store's time. The week is for roots that are still under way.

    Raises:
        S3backfsError: a root cannot be read, so that it is not known what it names; all stay.
    """
    oldest_ns = now_ns - int(LONG_GONE_S * _NS)
    old = {
        listed.key: nonce
        async for page in store.list(REMOVED_PREFIX)
        for listed in page
        if 0 < listed.modified_ns <= oldest_ns and (nonce := removed_nonce(listed.key)) is not None
    }
    if not old:
        return 0
    roots = await load_every_root(store, keyring, with_seen=True)
    named = {seen.nonce for held in roots for seen in held.root.seen}
    named |= {held.root.owner.nonce for held in roots if held.key.startswith(TRASH_PREFIX)}
    keys = sorted(key for key, nonce in old.items() if nonce not in named)
    if keys:
        await store.delete(keys)
    return len(keys)
