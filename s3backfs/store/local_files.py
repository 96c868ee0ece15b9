"""Objects as files below a directory: the blocking half of `LocalStore`.

Files are written beside (`.tmp/`), synced, and renamed into place under one lock; what begins
with a dot at the top is never an object. These functions raise OSError where the disk fails and
store errors where the contract says so.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from s3backfs.errors import (
    BucketMissingError,
    ObjectMissingError,
    PreconditionFailedError,
    StoreError,
    UnavailableError,
    UploadMissingError,
)
from s3backfs.store.base import (
    Buffer,
    Condition,
    Fetched,
    IfAbsent,
    IfMatch,
    Listed,
    PendingUpload,
    Stored,
)
from s3backfs.store.keys import check_key

_STALE_S = 86400.0
_COPY_BLOCK_BYTES = 64 << 20


@contextmanager
def leaving_no_trace(directory: Path) -> Iterator[None]:
    """Remove at the end what a store made beside its objects in a directory that was empty."""
    was_empty = directory.is_dir() and not any(directory.iterdir())
    try:
        yield
    finally:
        if was_empty:
            _remove_hidden(directory)


def _remove_hidden(directory: Path) -> None:
    with suppress(OSError):
        for name in (".tmp", ".uploads"):
            with suppress(FileNotFoundError):
                (directory / name).rmdir()
        # Who has come meanwhile, to make a repository, needs the lock.
        if [path.name for path in directory.iterdir()] == [".lock"]:
            (directory / ".lock").unlink()


class LocalFiles:
    """One directory; every method blocks and may run in any thread."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._identity: tuple[int, int] | None = None

    # -- places ------------------------------------------------------------------------------

    def check_root(self) -> None:
        """Make sure that the directory is there, and the same as at the first request.

        An unmounted NAS leaves an empty directory behind, which nobody wants to fill.
        """
        try:
            found = self.directory.stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BucketMissingError(f"there is no directory {self.directory}: make it") from error
        if not stat.S_ISDIR(found.st_mode):
            raise BucketMissingError(f"{self.directory} is no directory")
        identity = (found.st_dev, found.st_ino)
        self._identity = self._identity or identity
        if self._identity != identity:
            raise UnavailableError(f"{self.directory} is another directory now: mount it again")

    def _path_of(self, key: str) -> Path:
        check_key(key)
        if key.startswith("."):
            raise StoreError("a key can not begin with a dot here", key=key)
        return self.directory / key

    def _hidden(self, name: str) -> Path:
        """A hidden directory of the same file system, made when it is first needed."""
        self.check_root()
        path = self.directory / name
        path.mkdir(exist_ok=True)
        return path

    def _upload_dir(self, upload_id: str) -> Path:
        if not upload_id.isalnum() or not upload_id.isascii():
            raise UploadMissingError("the upload is unknown")
        return self.directory / ".uploads" / upload_id

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Let nobody else, in this process or another, change which file a key names."""
        self.check_root()
        fd = os.open(self.directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    @contextmanager
    def _temporary(self) -> Iterator[tuple[Path, int]]:
        """A new file that is removed at the end unless it was renamed."""
        path = self._hidden(".tmp") / uuid.uuid4().hex
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            yield path, fd
        finally:
            os.close(fd)
            with suppress(FileNotFoundError):
                path.unlink()

    def remove_stale(self) -> None:
        """Remove what crashed writers left in `.tmp/` a day ago or earlier."""
        limit_s = time.time() - _STALE_S
        with suppress(OSError):
            for path in self._hidden(".tmp").iterdir():
                if path.stat().st_mtime < limit_s:
                    path.unlink()

    # -- objects -----------------------------------------------------------------------------

    def read(self, key: str, offset: int, length: int | None) -> Fetched:
        with self._opened(key) as (fd, found):
            first = max(0, found.st_size + offset) if offset < 0 else min(offset, found.st_size)
            rest = found.st_size - first
            data = _read_at(fd, first, rest if length is None else min(length, rest))
        return Fetched(data, found.st_size, _etag(found), time.time_ns())

    @contextmanager
    def _opened(self, key: str) -> Iterator[tuple[int, os.stat_result]]:
        path = self._path_of(key)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError) as error:
            self.check_root()
            raise ObjectMissingError("no such object", key=key) from error
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise ObjectMissingError("no such object", key=key)
            yield fd, found
        finally:
            os.close(fd)

    def write(self, key: str, data: Buffer, condition: Condition) -> Stored:
        with self._temporary() as (path, fd):
            _write_all(fd, data)
            return self._publish(path, fd, key, condition)

    def head(self, key: str) -> Listed:
        with self._opened(key) as (_, found):
            return _listed(key, found)

    def copy(self, source_key: str, key: str) -> Stored:
        with self._opened(source_key) as (source, _), self._temporary() as (path, fd):
            _append_file(source, fd)
            return self._publish(path, fd, key, None)

    def _publish(self, path: Path, fd: int, key: str, condition: Condition) -> Stored:
        """Sync a finished file and give it its key, if the condition holds."""
        target = self._path_of(key)
        os.fsync(fd)
        with self._lock():
            old = _stat_or_none(target)
            _check_condition(key, old, condition)
            # The etag holds the inode and this time: no later one of the key is the same.
            moment_ns = max(time.time_ns(), old.st_mtime_ns + 1 if old else 0)
            os.utime(fd, ns=(moment_ns, moment_ns))
            new_directories = self._make_parents(key, target)
            path.rename(target)
        for directory in (target.parent, *new_directories):
            _sync_directory(directory)
        return Stored(_etag(os.fstat(fd)), time.time_ns())

    def _make_parents(self, key: str, target: Path) -> list[Path]:
        """Make the directories above a file; return those that got a new entry by it."""
        changed = []
        try:
            for parent in reversed(target.relative_to(self.directory).parents):
                path = self.directory / parent
                if not path.is_dir():
                    path.mkdir()
                    changed.append(path.parent)
        except (FileExistsError, NotADirectoryError) as error:
            raise StoreError("an object lies in the way", key=key) from error
        if target.is_dir():
            raise StoreError("other objects lie below this key", key=key)
        return changed

    def delete(self, keys: Sequence[str]) -> None:
        parents = set()
        for key in keys:
            path = self._path_of(key)
            with self._lock(), suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                path.unlink()
                parents.add(self._remove_empty(path.parent))
        for parent in sorted(parents):
            with suppress(FileNotFoundError):
                _sync_directory(parent)

    def _remove_empty(self, path: Path) -> Path:
        """Remove directories that hold nothing; return the one that stays."""
        while path != self.directory:
            try:
                path.rmdir()
            except OSError:
                return path
            path = path.parent
        return path

    def walk(self, prefix: str, after: str) -> Iterator[Listed]:
        """List in the order of the keys; each directory is read when its turn comes."""
        self.check_root()
        return self._walk("", prefix, after)

    def _walk(self, above: str, prefix: str, after: str) -> Iterator[Listed]:
        for name in _names_in(self.directory / above):
            key = above + name
            if key.startswith("."):
                continue
            if name.endswith("/"):
                is_wanted = key.startswith(prefix) or prefix.startswith(key)
                if is_wanted and (key > after or after.startswith(key)):
                    yield from self._walk(key, prefix, after)
            elif key.startswith(prefix) and key > after:
                found = _stat_or_none(self.directory / key)
                if found is not None:
                    yield _listed(key, found)

    # -- multipart uploads -------------------------------------------------------------------

    def begin_upload(self, key: str) -> str:
        self._path_of(key)
        upload_id = uuid.uuid4().hex
        directory = self._hidden(".uploads") / upload_id
        directory.mkdir()
        (directory / "key").write_text(key, encoding="ascii")
        return upload_id

    def write_part(self, upload_id: str, number: int, data: Buffer) -> None:
        target = self._upload_dir(upload_id) / f"part-{number:05}"
        with self._temporary() as (path, fd):
            _write_all(fd, data)
            try:
                path.rename(target)
            except FileNotFoundError as error:
                raise UploadMissingError("the upload is unknown") from error

    def complete_upload(self, key: str, upload_id: str) -> Stored:
        directory = self._upload_dir(upload_id)
        if not directory.is_dir():
            return self._find_completed(key)
        parts = sorted(directory.glob("part-*"))
        if not parts:
            raise StoreError("an upload needs a part", key=key)
        fd = os.open(parts[0], os.O_RDWR | os.O_CLOEXEC)
        try:
            _join(fd, parts[1:])
            stored = self._publish(parts[0], fd, key, None)
        finally:
            os.close(fd)
        shutil.rmtree(directory, ignore_errors=True)
        return stored

    def _find_completed(self, key: str) -> Stored:
        try:
            return Stored(self.head(key).etag, time.time_ns())
        except ObjectMissingError as error:
            raise UploadMissingError("the upload is unknown", key=key) from error

    def abort_upload(self, upload_id: str) -> None:
        with suppress(FileNotFoundError, UploadMissingError):
            shutil.rmtree(self._upload_dir(upload_id))

    def pending_uploads(self, prefix: str) -> list[PendingUpload]:
        self.check_root()
        found = []
        for key_file in self.directory.glob(".uploads/*/key"):
            with suppress(FileNotFoundError):
                key, started_ns = key_file.read_text("ascii"), key_file.stat().st_mtime_ns
                found.append(PendingUpload(key, key_file.parent.name, started_ns))
        wanted = [upload for upload in found if upload.key.startswith(prefix)]
        return sorted(wanted, key=lambda upload: (upload.key, upload.upload_id))


def _etag(found: os.stat_result) -> str:
    return f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"


def _listed(key: str, found: os.stat_result) -> Listed:
    return Listed(key, found.st_size, _etag(found), found.st_mtime_ns)


def _stat_or_none(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _check_condition(key: str, old: os.stat_result | None, condition: Condition) -> None:
    match condition:
        case IfAbsent() if old is not None:
            raise PreconditionFailedError("the object exists", key=key)
        case IfMatch(etag) if old is None or _etag(old) != etag:
            raise PreconditionFailedError("the object is another", key=key)
        case _:
            return


def _names_in(directory: Path) -> list[str]:
    """Name what a directory holds, sorted as keys sort; directories end in `/`."""
    try:
        with os.scandir(directory) as entries:
            return sorted(
                entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name
                for entry in entries
            )
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read_at(fd: int, offset: int, length: int) -> bytes:
    blocks = []
    while length > 0:
        block = os.pread(fd, length, offset)
        if not block:
            raise UnavailableError("the file became shorter while it was read")
        blocks.append(block)
        offset += len(block)
        length -= len(block)
    return blocks[0] if len(blocks) == 1 else b"".join(blocks)


def _write_all(fd: int, data: Buffer) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _append_file(source: int, target: int) -> None:
    """Copy a file behind another, inside the kernel."""
    os.lseek(source, 0, os.SEEK_SET)
    os.lseek(target, 0, os.SEEK_END)
    try:
        while os.copy_file_range(source, target, _COPY_BLOCK_BYTES):
            pass
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
            raise
        while os.sendfile(target, source, None, _COPY_BLOCK_BYTES):
            pass


def _join(fd: int, parts: Sequence[Path]) -> None:
    """Append parts to the first; after an error it is as long as before."""
    length_bytes = os.fstat(fd).st_size
    try:
        for part in parts:
            with part.open("rb", buffering=0) as source:
                _append_file(source.fileno(), fd)
    except OSError:
        os.ftruncate(fd, length_bytes)
        raise


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems have no sync of a directory; renames are durable there.
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(fd)
