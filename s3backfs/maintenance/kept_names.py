"""Which names a repaired backup has, kept on disk, and which entries no longer fit them.

Entries come in order of their keys: link records first, a directory before what is in it.
The file is a scratch file: it is made anew by each run and removed at its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from s3backfs.maintenance.scratch import Scratch
from s3backfs.manifest.entry import Entry, extra_of, is_directory
from s3backfs.manifest.keys import TOP_KEY, key_components, path_key, split_key

_SCHEMA = """
CREATE TABLE links(
    key BLOB PRIMARY KEY,
    stated INTEGER NOT NULL,
    names INTEGER NOT NULL DEFAULT 0,
    is_lost INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE directories(
    key BLOB PRIMARY KEY,
    stated INTEGER NOT NULL,
    is_made INTEGER NOT NULL,
    inside INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
"""

_UNFIT = """
SELECT key, stated, names, 0 FROM links WHERE stated <> names
UNION ALL
SELECT key, stated, CASE WHEN inside THEN 2 + inside ELSE 0 END AS counted, is_made
    FROM directories WHERE is_made OR stated <> counted
ORDER BY key
"""
_MISSING = b"\xff"
"""No prefix of a directory."""


@dataclass(frozen=True, slots=True)
class Correction:
    """What an entry should say of names: `nlink` as entries hold it, 0 for a record without any."""

    key: bytes
    nlink: int
    is_made: bool
    """The directory has no entry."""


@dataclass(frozen=True, slots=True)
class NamedLink:
    """A link record that has got a name."""

    is_first: bool
    is_lost: bool


class KeptNames(Scratch):
    """Names found so far; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SCHEMA)
        self._prefix = _MISSING

    def add_record(self, key: bytes, entry: Entry, *, is_lost: bool) -> None:
        """Note a link record; `is_lost` says that content of it is lost."""
        row = (key, extra_of(entry).nlink, is_lost)
        self.database.execute("INSERT INTO links(key, stated, is_lost) VALUES (?, ?, ?)", row)

    def add_name(self, record_key: bytes) -> NamedLink | None:
        """Count a name of a link record; None if there is no such record."""
        sql = "UPDATE links SET names = names + 1 WHERE key = ? RETURNING names, is_lost"
        row = self.database.execute(sql, (record_key,)).fetchone()
        return None if row is None else NamedLink(row[0] == 1, bool(row[1]))

    def add(self, key: bytes, entry: Entry) -> None:
        """Note an entry that has a path, and the directories above it."""
        if key != TOP_KEY:
            prefix, _ = split_key(key)
            if prefix != self._prefix:
                self._prefix = prefix
                self.add_made(key_components(key)[:-1])
        if is_directory(entry):
            self._add_directory(key_components(key), extra_of(entry).nlink, is_made=False)

    def add_made(self, components: tuple[bytes, ...]) -> None:
        """Note that there must be a directory, and those above it."""
        missing: list[tuple[bytes, ...]] = []
        while not self._has_directory(components):
            missing.append(components)
            if not components:
                break
            components = components[:-1]
        for each in reversed(missing):
            self._add_directory(each, 0, is_made=True)

    def _has_directory(self, components: tuple[bytes, ...]) -> bool:
        sql = "SELECT 1 FROM directories WHERE key = ?"
        return self.database.execute(sql, (path_key(components),)).fetchone() is not None

    def _add_directory(self, components: tuple[bytes, ...], stated: int, *, is_made: bool) -> None:
        """Note a directory, and count it in the one above, which was noted before."""
        sql = "INSERT INTO directories(key, stated, is_made) VALUES (?, ?, ?)"
        self.database.execute(sql, (path_key(components), stated, is_made))
        if components:
            sql = "UPDATE directories SET inside = inside + 1 WHERE key = ?"
            self.database.execute(sql, (path_key(components[:-1]),))

    def corrections(self) -> Iterator[Correction]:
        """What does not fit, in order of the keys."""
        for key, _, nlink, is_made in self.database.execute(_UNFIT):
            yield Correction(key, nlink, bool(is_made))
