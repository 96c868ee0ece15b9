"""What is kept so that it need not be fetched again: in memory, and on the local disk."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from blake3 import blake3

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_TOUCH_AFTER_S = 3600.0
_KEPT_SHARE = 0.9
_TEMPORARY = ".new-"


class ByteLru(Generic[K, V]):
    """Values by key, bounded by their bytes; what was not used for longest goes first.

    For one thread.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._items: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: K) -> bool:
        return key in self._items

    def get(self, key: K) -> V | None:
        """Return a value, which is now the last to go."""
        found = self._items.get(key)
        if found is None:
            return None
        self._items.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, size_bytes: int) -> None:
        """Keep a value; one that alone is above the limit is not kept."""
        self.pop(key)
        if size_bytes > self.limit_bytes:
            return
        self._items[key] = (value, size_bytes)
        self.used_bytes += size_bytes
        while self.used_bytes > self.limit_bytes:
            _, (_, freed_bytes) = self._items.popitem(last=False)
            self.used_bytes -= freed_bytes

    def pop(self, key: K) -> V | None:
        """Take a value out."""
        found = self._items.pop(key, None)
        if found is None:
            return None
        self.used_bytes -= found[1]
        return found[0]

    def clear(self) -> None:
        """Let go of everything."""
        self._items.clear()
        self.used_bytes = 0


@dataclass(frozen=True, slots=True)
class _File:
    used_s: float
    length_bytes: int
    path: Path


class DiskCache:
    """Encrypted bytes as they are in the store, in files that may vanish at any moment.

    Threads and processes may share the directory. Nothing here is an error: what is damaged, gone
    or cannot be kept is fetched again, and a disk that refuses is not asked any more. The bytes
    are not to be trusted before they were authenticated. The methods block: call them in a thread.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._used_bytes: int | None = None
        self.is_enabled = max_bytes > 0

    def get(self, name: str) -> bytes | None:
        """Return what was kept under a name."""
        if not self.is_enabled:
            return None
        path = self._path(name)
        try:
            with open(path, "rb") as file:
                data = file.read()
                self._touch(file.fileno())
        except OSError as error:
            self._note(error)
            return None
        return data

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Keep bytes under a name; a reader sees all of them or none."""
        if not self.is_enabled or len(data) > self._max_bytes // 4:
            return
        try:
            self._write(self._path(name), data)
            self._grow(len(data))
        except OSError as error:
            self._note(error)

    def drop(self, name: str) -> None:
        """Forget what proved to be damaged."""
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            self._note(error)

    def _path(self, name: str) -> Path:
        digest = blake3(name.encode()).hexdigest(length=20)
        return self._directory / digest[:2] / digest[2:]

    def _touch(self, descriptor: int) -> None:
        """Note a use; not each one, since most would only wear the disk."""
        if time.time() - os.fstat(descriptor).st_mtime > _TOUCH_AFTER_S:
            os.utime(descriptor)

    def _write(self, path: Path, data: bytes | memoryview) -> None:
        temporary = path.with_name(_TEMPORARY + secrets.token_hex(8))
        try:
            descriptor = self._create(temporary)
        except FileNotFoundError:
            self._make_directories(path.parent)
            descriptor = self._create(temporary)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
            temporary.rename(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def _create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def _make_directories(self, parent: Path) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self._directory.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise PermissionError(errno.EACCES, "the directory is not ours alone")
        parent.mkdir(mode=0o700, exist_ok=True)

    def _note(self, error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            return
        with self._lock:
            was_enabled, self.is_enabled = self.is_enabled, False
        if was_enabled:
            log.warning("the cache %s is not used any more: %s", self._directory, error.strerror)

    def _grow(self, added_bytes: int) -> None:
        """Count what was added, and make room when it is too much."""
        with self._lock:
            if self._used_bytes is None:
                self._used_bytes = sum(file.length_bytes for file in self._files())
            else:
                self._used_bytes += added_bytes
            if self._used_bytes > self._max_bytes:
                self._used_bytes = self._evict()

    def _evict(self) -> int:
        """Remove what was not used for longest, and return how much is left."""
        files = sorted(self._files(), key=lambda file: file.used_s)
        left_bytes = sum(file.length_bytes for file in files)
        for file in files:
            if left_bytes <= self._max_bytes * _KEPT_SHARE:
                break
            file.path.unlink(missing_ok=True)
            left_bytes -= file.length_bytes
        return left_bytes

    def _files(self) -> Iterator[_File]:
        for parent, _, names in os.walk(self._directory):
            for name in names:
                path = Path(parent, name)
                try:
                    status = path.stat()
                except OSError:
                    continue
                yield _File(status.st_mtime, status.st_size, path)
