"""Keeping nightly backups alike: an entry that equals its base takes the base's ctime.

A copy made by `cp -al` or `rsync --link-dest` changes nothing but ctimes; with the base's ctime its
leaves are the base's leaves, and are not stored again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from s3backfs.backup.xattrs import with_loaded_xattrs
from s3backfs.errors import S3backfsError
from s3backfs.manifest.entry import Entry
from s3backfs.manifest.tree import SequentialFinder

if TYPE_CHECKING:
    from s3backfs.backup.backup import Backup


class BaseEntries:
    """What the backups that entries were taken over from hold at the same paths."""

    def __init__(self, backup: Backup) -> None:
        self._repository = backup.repository
        bases = [base for base in backup.bases.values() if not base.is_removed]
        self._bases = [SequentialFinder(base.tree) for base in bases]

    async def aligned(self, key: bytes, entry: Entry, clone_of: Entry | None) -> Entry:
        """The entry with its base's ctime, if all else is equal."""
        if clone_of is not None:
            return _aligned(entry, clone_of)
        for base in self._bases:
            try:
                found = await base.find(key)
                if found is not None:
                    return _aligned(entry, await with_loaded_xattrs(self._repository, found))
            except S3backfsError:
                # An unreadable base costs shared leaves only.
                continue
        return entry


def _aligned(entry: Entry, base: Entry) -> Entry:
    if entry.ctime_ns == base.ctime_ns:
        return entry
    candidate: Entry = msgspec.structs.replace(entry, ctime_ns=base.ctime_ns)
    return candidate if candidate == base else entry
