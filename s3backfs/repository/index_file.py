"""The SQLite file under the deduplication index: connections, damage, sharing between mounts.

The file can be thrown away at any moment, so nothing that goes wrong with it is an error: a damaged
one is removed and begun anew, and where no file can be used a database in memory takes its place.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from s3backfs.repository.index_rows import DamagedRowError

log = logging.getLogger(__name__)

T = TypeVar("T")

VERSION = 1

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS packs(
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    pack_id BLOB NOT NULL UNIQUE,
    epoch INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    length INTEGER NOT NULL,
    rows BLOB
);
CREATE TABLE IF NOT EXISTS contents(
    id BLOB NOT NULL,
    pack INTEGER NOT NULL,
    place BLOB NOT NULL,
    base BLOB,
    PRIMARY KEY (id, pack)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segments(name TEXT PRIMARY KEY) WITHOUT ROWID;
PRAGMA user_version = {VERSION};
COMMIT;
"""

_BUSY_S = 10.0
_CACHE_KIB = 16 * 1024
_WAL_KEPT_BYTES = 16 * 1024 * 1024
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
"""SQLITE_ERROR: a table is missing."""


class _Connection:
    """A connection, and the lock of the thread that uses it."""

    def __init__(self, place: str) -> None:
        self.lock = threading.Lock()
        self.database = sqlite3.connect(
            place, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        self.database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")

    def close(self) -> None:
        with self.lock:
            self.database.close()


class IndexFile:
    """Runs work on the database, in any thread; reading does not wait for writing.

    `read` and `write` give the default when the file fails.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock_descriptor: int | None = None
        self._reopening = threading.Lock()
        self._has_warned = False
        self._is_closed = False
        self._reader, self._writer = self._open()

    def read(self, work: Callable[[sqlite3.Connection], T], default: T) -> T:
        """Look something up."""
        return self._run(self._reader, work, default)

    def write(self, work: Callable[[sqlite3.Connection], T], default: T) -> T:
        """Change something, in one transaction."""

        def in_transaction(database: sqlite3.Connection) -> T:
            database.execute("BEGIN IMMEDIATE")
            try:
                result = work(database)
                database.execute("COMMIT")
            finally:
                if database.in_transaction:
                    database.execute("ROLLBACK")
            return result

        return self._run(self._writer, in_transaction, default)

    def close(self) -> None:
        """Close the file; what is still run gets its default."""
        with self._reopening:
            self._is_closed = True
            self._close_connections()
            if self._lock_descriptor is not None:
                os.close(self._lock_descriptor)
                self._lock_descriptor = None

    def _run(
        self, connection: _Connection, work: Callable[[sqlite3.Connection], T], default: T
    ) -> T:
        try:
            with connection.lock:
                return work(connection.database)
        except (sqlite3.Error, DamagedRowError) as error:
            self._note(error, connection)
            return default

    def _note(self, error: Exception, connection: _Connection) -> None:
        with self._reopening:
            is_current = connection in (self._reader, self._writer)
            if self._is_closed or not is_current:
                # Another thread has closed or replaced the file meanwhile.
                return
            if _is_damage(error):
                log.warning("the local index is damaged and is built anew: %s", error)
                self._begin_anew()
            elif not self._has_warned:
                self._has_warned = True
                log.warning("the local index cannot be used, less is deduplicated: %s", error)

    # -- opening -----------------------------------------------------------------------------

    def _open(self) -> tuple[_Connection, _Connection]:
        """Return connections for reading and writing."""
        if self._path is not None:
            for _ in range(2):
                try:
                    return self._open_file(self._path)
                except (sqlite3.Error, OSError) as error:
                    log.warning("%s cannot be used: %s", self._path, error)
                    if not self._remove_file(self._path):
                        break
        # Two connections to a database in memory would be two databases.
        memory = _Connection(":memory:")
        _prepare(memory.database)
        return memory, memory

    def _open_file(self, path: Path) -> tuple[_Connection, _Connection]:
        if self._lock_descriptor is None:
            lock_path = path.with_name(path.name + ".lock")
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._lock_descriptor = os.open(lock_path, flags, 0o600)
        fcntl.flock(self._lock_descriptor, fcntl.LOCK_SH)
        writer = _Connection(str(path))
        try:
            _prepare(writer.database)
            return _Connection(str(path)), writer
        except sqlite3.Error:
            writer.close()
            raise

    def _remove_file(self, path: Path) -> bool:
        """Remove the file, unless another process has it open."""
        if self._lock_descriptor is None:
            return False
        try:
            # Without the exclusive lock we would pull the file from under another mount.
            fcntl.flock(self._lock_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        except OSError:
            return False
        return True

    def _begin_anew(self) -> None:
        self._close_connections()
        if self._path is not None and not self._remove_file(self._path):
            self._path = None
        self._reader, self._writer = self._open()

    def _close_connections(self) -> None:
        self._reader.close()
        if self._writer is not self._reader:
            self._writer.close()


def _is_damage(error: Exception) -> bool:
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED
    return True


def _prepare(database: sqlite3.Connection) -> None:
    """Bring an empty file to our schema.

    Raises:
        sqlite3.Error: it is no database, or one of another program or version.
    """
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = OFF")
    database.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT_BYTES}")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version not in (0, VERSION):
        raise sqlite3.DatabaseError("it is of another version")
    database.executescript(_SCHEMA)
    # What a listing shows, for as long as the connection lives.
    database.execute(
        "CREATE TEMP TABLE listed(pack_id BLOB PRIMARY KEY, kind INTEGER, length INTEGER)"
        " WITHOUT ROWID"
    )
