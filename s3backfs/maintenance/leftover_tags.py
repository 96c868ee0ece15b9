"""Removing the tags of backups that are gone for good: neither there nor in the trash."""

from __future__ import annotations

from s3backfs.backup.tags import TAGS_PREFIX, tagged_backup
from s3backfs.format.keys import Keyring
from s3backfs.maintenance.left_behind import LONG_GONE_S
from s3backfs.maintenance.survey import load_every_root
from s3backfs.store.base import Store

_NS = 1_000_000_000


async def tidy_tags(store: Store, keyring: Keyring, now_ns: int) -> int:
    """Remove tags that are a week old and of no backup, and return how many.

    `now_ns` is the store's time. The week is for backups whose first root is still under way.

    Raises:
        S3backfsError: a root cannot be read, so that it is not known whose tags are left; all stay.
    """
    oldest_ns = now_ns - int(LONG_GONE_S * _NS)
    old = {
        listed.key: backup_id
        async for page in store.list(TAGS_PREFIX)
        for listed in page
        if 0 < listed.modified_ns <= oldest_ns
        and (backup_id := tagged_backup(listed.key)) is not None
    }
    if not old:
        return 0
    roots = await load_every_root(store, keyring)
    present = {held.root.backup_id for held in roots}
    keys = sorted(key for key, backup_id in old.items() if backup_id not in present)
    if keys:
        await store.delete(keys)
    return len(keys)
