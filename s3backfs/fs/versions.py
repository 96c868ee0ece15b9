"""`.s3backfs/versions/PATH/`: the distinct versions of one path over all backups.

A version is a symbolic link to its place in a backup. So the kernel checks on the way to it what
it always checks, and no inode has two places. Who may not pass the directories above a path in a
backup does not learn here that the path is there.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from s3backfs.backup.backup import Backup, printable
from s3backfs.backup.catalogue import Catalogue
from s3backfs.backup.paths import Manifest, join_path
from s3backfs.backup.versions import FINDS_AT_ONCE, Versions, find_in_all
from s3backfs.backup.xattrs import with_loaded_xattrs
from s3backfs.errors import FileSystemError, S3backfsError
from s3backfs.fs.searching import Asker, Guard
from s3backfs.manifest.entry import Entry
from s3backfs.manifest.keys import path_key

log = logging.getLogger(__name__)

VERSIONS_NAME = b"versions"
_DEPTH = 2
"""Directories from the root of the mount down to `.s3backfs/versions`."""

STANDS_KEPT = 20_000
"""So many answers of single backups are remembered."""

Path = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class VersionLink:
    """One version: its name, where the link leads, and when the version was modified."""

    name: bytes
    target: bytes
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class _Stand:
    """What one backup has at a path, or why nobody knows, and who may get there."""

    entry: Entry | S3backfsError
    guards: tuple[Guard, ...]
    is_whole: bool
    """Whether all guards are known; else root alone passes."""


class VersionView:
    """Looks paths up in all backups, open ones as of their last checkpoint.

    What was found is kept, `STANDS_KEPT` at most, until the backup has another root.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._stands: OrderedDict[tuple[bytes, Path], _Stand | None] = OrderedDict()

    async def is_there(self, path: Path, asker: Asker) -> bool:
        """Whether any backup has the path, as far as the asker may know."""
        backups = (await self._backups())[::-1]
        # The newest backup alone, then more at once: most paths that are asked for still exist.
        for first, behind in ((0, 1), *_windows(1, len(backups))):
            stands = await self._find(backups[first:behind], path)
            if any(stand is not None and _may_know(stand, asker) for stand in stands):
                return True
        return False

    async def versions(self, path: Path, asker: Asker) -> list[VersionLink]:
        """Every distinct version that the asker may know of, the oldest first."""
        backups = await self._backups()
        found, by_name, unreadable = Versions(), {each.name: each for each in backups}, []
        for first, behind in _windows(0, len(backups)):
            window = backups[first:behind]
            for backup, stand in zip(window, await self._find(window, path), strict=True):
                if stand is None or not _may_know(stand, asker):
                    continue
                if isinstance(stand.entry, Entry):
                    found.note(join_path(path), stand.entry, backup.name)
                else:
                    unreadable.append(_link(backup, path, 0))
        links = [_link(by_name[each.backups[0]], path, each.entry.mtime_ns) for each in found.all()]
        return sorted([*links, *unreadable], key=lambda each: each.name)

    async def version(self, path: Path, name: bytes, asker: Asker) -> VersionLink | None:
        """The version of this name; of a backup that has the same as an older one too."""
        await self._catalogue.glance()
        backup = self._catalogue.backups.get(name.partition(b"@")[2])
        if backup is None or _link_name(backup) != name:
            return None
        [stand] = await self._find([backup], path)
        if stand is None or not _may_know(stand, asker):
            return None
        return _link(backup, path, stand.entry.mtime_ns if isinstance(stand.entry, Entry) else 0)

    async def _backups(self) -> list[Backup]:
        await self._catalogue.glance()
        return sorted(self._catalogue.backups.values(), key=_link_name)

    async def _find(self, backups: Sequence[Backup], path: Path) -> list[_Stand | None]:
        keys = [(each.root.owner.nonce, path) for each in backups]
        unknown = [n for n, key in enumerate(keys) if key not in self._stands]
        fresh = await _look([backups[n] for n in unknown], path)
        found = dict(zip((keys[n] for n in unknown), fresh, strict=True))
        stands = [found[key] if key in found else self._stands[key] for key in keys]
        self._keep(found)
        return stands

    def _keep(self, found: dict[tuple[bytes, Path], _Stand | None]) -> None:
        for key, stand in found.items():
            # What could not be read now may be later.
            if stand is None or isinstance(stand.entry, Entry):
                self._stands[key] = stand
        while len(self._stands) > STANDS_KEPT:
            self._stands.popitem(last=False)


def _windows(first: int, behind: int) -> list[tuple[int, int]]:
    return [
        (each, min(each + FINDS_AT_ONCE, behind)) for each in range(first, behind, FINDS_AT_ONCE)
    ]


async def _look(backups: Sequence[Backup], path: Path) -> list[_Stand | None]:
    """Find a path and the directories above it in some backups' trees."""
    entries = await find_in_all([Manifest(each.tree) for each in backups], path_key(path))
    there = [n for n, entry in enumerate(entries) if entry is not None]
    stands: list[_Stand | None] = [None] * len(backups)
    guards: dict[int, list[Guard]] = {n: [] for n in there}
    for depth in range(len(path)):
        for n, guard in zip(
            there, await _guards([backups[n] for n in there], path[:depth]), strict=True
        ):
            guards[n] += [] if guard is None else [guard]
    for n in there:
        entry = entries[n]
        assert entry is not None
        if isinstance(entry, S3backfsError):
            where = printable(join_path((backups[n].name, *path)))
            log.error("looking for versions, %s: %s", where, entry)
        stands[n] = _Stand(entry, tuple(guards[n]), is_whole=len(guards[n]) == len(path))
    return stands


async def _guards(backups: Sequence[Backup], path: Path) -> list[Guard | None]:
    """The guards of one directory in some backups; None where it cannot be read."""
    guards: list[Guard | None] = []
    found = await find_in_all([Manifest(each.tree) for each in backups], path_key(path))
    for backup, entry in zip(backups, found, strict=True):
        guard = None
        if isinstance(entry, Entry):
            with suppress(S3backfsError):
                guard = Guard.of(await with_loaded_xattrs(backup.repository, entry))
        guards.append(guard)
    return guards


def _may_know(stand: _Stand, asker: Asker) -> bool:
    if asker.uid == 0:
        return True
    try:
        return stand.is_whole and all(guard.lets_pass(asker) for guard in stand.guards)
    except FileSystemError:
        # A list that is none.
        return False


def _link(backup: Backup, path: Path, mtime_ns: int) -> VersionLink:
    up = b"../" * (_DEPTH + len(path))
    return VersionLink(_link_name(backup), up + b"/".join((backup.name, *path)), mtime_ns)


def _link_name(backup: Backup) -> bytes:
    """The time that never changes while the backup has this root's state, and its name."""
    time_ns = backup.root.sealed_ns or backup.root.created_ns
    moment = datetime.fromtimestamp(max(0, time_ns) // 10**9, UTC)
    return moment.strftime("%Y-%m-%dT%H%M%SZ@").encode() + backup.name
