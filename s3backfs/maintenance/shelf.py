"""All backups with what the store and their tags say of them, as the verbs want them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase

from s3backfs.backup.finding import gone, load_all, look, outdated, with_newer_copies
from s3backfs.backup.roots import HeldRoot
from s3backfs.backup.tags import LOCK, load_tags, merged
from s3backfs.errors import ConfigurationError, S3backfsError
from s3backfs.format.keys import Keyring
from s3backfs.format.root import Root
from s3backfs.maintenance.policy import is_borne_out, trusted_time_ns
from s3backfs.store.base import Store

_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class Shelved:
    """One backup that can be read; `time_ns` is bounded by the server's clock."""

    held: HeldRoot
    time_ns: int
    tags: dict[str, str]
    is_borne_out: bool = True
    """See `policy.is_borne_out`."""

    @property
    def root(self) -> Root:
        """The root as loaded."""
        return self.held.root

    @property
    def name(self) -> bytes:
        """The backup's name."""
        return self.root.name

    @property
    def is_locked(self) -> bool:
        """Whether its tags say that it stays."""
        return LOCK in self.tags

    @property
    def moment(self) -> datetime:
        """When it was made, in local time."""
        return (_EPOCH + timedelta(microseconds=self.time_ns // 1000)).astimezone()


@dataclass(frozen=True, slots=True)
class Shelf:
    """Every backup of a repository, the oldest first."""

    backups: tuple[Shelved, ...]
    damaged: dict[bytes, S3backfsError]

    @property
    def sealed(self) -> list[Shelved]:
        """Those that never change again."""
        return [each for each in self.backups if each.held.is_in_place]

    def backup(self, name: bytes) -> Shelved:
        """The backup of a name.

        Raises:
            ConfigurationError: there is none.
            S3backfsError: its root cannot be read.
        """
        if name in self.damaged:
            raise self.damaged[name]
        for each in self.backups:
            if each.name == name:
                return each
        raise no_backup(name)

    def choose(self, patterns: Sequence[str]) -> list[Shelved]:
        """Those whose names fit some patterns, see `matches`.

        Raises:
            ConfigurationError: a pattern fits none.
            S3backfsError: a pattern fits only backups whose roots cannot be read.
        """
        self.check_patterns(patterns)
        found = chosen(self.backups, patterns)
        for pattern in patterns:
            for name, error in self.damaged.items():
                if matches(name, [pattern]) and not chosen(found, [pattern]):
                    raise error
        return found

    def check_patterns(self, patterns: Sequence[str]) -> None:
        """Make sure that each pattern fits a backup: a typo must not pass for work done.

        Raises:
            ConfigurationError: one fits none.
        """
        names = [*(each.name for each in self.backups), *self.damaged]
        for pattern in patterns:
            if not any(matches(name, [pattern]) for name in names):
                shown = _shown(os.fsencode(pattern))
                raise ConfigurationError(f"no backup fits {shown}; `s3backfs list` names all")


def no_backup(name: bytes) -> ConfigurationError:
    """Say that a name is that of no backup."""
    return ConfigurationError(f"there is no backup {_shown(name)}; `s3backfs list` names all")


async def load_shelf(store: Store, keyring: Keyring) -> Shelf:
    """Read the roots of all backups, and all tags.

    Raises:
        StoreError: the store would not list or give.
    """
    found, beside = await look(store, keyring)
    loaded = await load_all(store, keyring, found.values())
    roots = {entry.name: held for entry, held in loaded if isinstance(held, HeldRoot)}
    roots |= await with_newer_copies(store, keyring, roots, beside)
    hidden = outdated(roots) | gone(roots, beside)
    tags = await load_tags(store, keyring)
    now_ns = await server_time_ns(store)
    backups = []
    for name in roots.keys() - hidden:
        held = roots[name]
        time_ns = _time_ns(held, found[name].listed.modified_ns, now_ns)
        own_tags = merged(held.root, tags.get(held.root.backup_id, {}))
        borne_out = is_borne_out(time_ns, found[name].listed.modified_ns)
        backups.append(Shelved(held, time_ns, own_tags, borne_out))
    damaged = {entry.name: held for entry, held in loaded if isinstance(held, S3backfsError)}
    return Shelf(tuple(sorted(backups, key=lambda each: (each.time_ns, each.name))), damaged)


def _time_ns(held: HeldRoot, modified_ns: int, now_ns: int) -> int:
    claimed_ns = held.root.sealed_ns or held.root.updated_ns
    return trusted_time_ns(claimed_ns, modified_ns, now_ns)


async def server_time_ns(store: Store) -> int:
    """The store's own clock; 0 where it tells no time."""
    return (await store.get("repository.json")).server_time_ns


def matches(name: bytes, patterns: Sequence[str]) -> bool:
    """Whether a backup's name fits one of some shell patterns; without any, all do."""
    text = name.decode("utf-8", "surrogateescape")
    return not patterns or any(fnmatchcase(text, pattern) for pattern in patterns)


def chosen(backups: Iterable[Shelved], patterns: Sequence[str]) -> list[Shelved]:
    """Those whose names fit, see `matches`."""
    return [each for each in backups if matches(each.name, patterns)]


def _shown(name: bytes) -> str:
    return repr(name.decode("utf-8", "backslashreplace"))
