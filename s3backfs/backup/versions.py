"""The distinct versions of paths over many backups."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from s3backfs.backup.paths import ContentId, Manifest, content_id
from s3backfs.errors import S3backfsError
from s3backfs.manifest.entry import Entry

FINDS_AT_ONCE = 16
"""So many trees are gone down at once."""


@dataclass(slots=True)
class Version:
    """One distinct content of a path, and the backups that have it, the oldest first."""

    path: bytes
    entry: Entry
    backups: list[bytes] = field(default_factory=list)


class Versions:
    """Collects versions by path and content."""

    def __init__(self) -> None:
        self._found: dict[tuple[bytes, ContentId], Version] = {}

    def note(self, path: bytes, entry: Entry, backup: bytes) -> None:
        """Note what a path holds in a backup; call it for the oldest backups first."""
        key = path, version_id(entry)
        version = self._found.setdefault(key, Version(path, entry))
        version.entry = entry
        version.backups.append(backup)

    def all(self) -> list[Version]:
        """All versions, by path, those first that appeared first."""
        return sorted(self._found.values(), key=lambda version: version.path.split(b"/"))


def version_id(entry: Entry) -> ContentId:
    """Equal for the same content; directories differ when names in them came, left or moved.

    What lies deeper is not looked at: a directory's time tells of its own names alone.
    """
    if stat.S_ISDIR(entry.mode):
        return (*content_id(entry), entry.mtime_ns)
    return content_id(entry)


async def find_in_all(
    manifests: Sequence[Manifest], key: bytes
) -> list[Entry | S3backfsError | None]:
    """What stands at one key in each of some trees, several read at once; or why nobody knows."""
    found: list[Entry | S3backfsError | None] = [None] * len(manifests)
    limiter = trio.CapacityLimiter(FINDS_AT_ONCE)

    async def find(number: int) -> None:
        async with limiter:
            try:
                found[number] = await manifests[number].find(key)
            except S3backfsError as error:
                found[number] = error

    async with trio.open_nursery() as nursery:
        for number in range(len(manifests)):
            nursery.start_soon(find, number)
    return found
