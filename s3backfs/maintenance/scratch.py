"""A database on disk for the length of one run, so that memory does not grow with what is noted.

It is made anew by each run and removed at its end; a crash leaves a file in a temporary directory.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Self

_CACHE_KIB = 32 * 1024


class Scratch:
    """A database of one's own; use it as a context manager."""

    def __init__(self, path: Path, schema: str) -> None:
        path.unlink(missing_ok=True)
        self._path = path
        self.database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.database.execute("PRAGMA journal_mode = OFF")
        self.database.execute("PRAGMA synchronous = OFF")
        self.database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self.database.executescript(schema)
        self.database.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.database.close()
        self._path.unlink(missing_ok=True)
