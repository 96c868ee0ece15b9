"""A repository in a local directory: a disk, or a NAS."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import trio

from s3backfs.errors import (
    ObjectMissingError,
    QuotaError,
    RefusedError,
    StoreError,
    UnavailableError,
)
from s3backfs.store.base import (
    Buffer,
    Condition,
    Conditions,
    Fetched,
    Listed,
    PendingUpload,
    Stored,
    Upload,
)
from s3backfs.store.local_files import LocalFiles
from s3backfs.store.location import LocalLocation
from s3backfs.store.pages import PAGE_COUNT, Page, Pages
from s3backfs.store.probing import are_borne_out, are_conditions_enforced

T = TypeVar("T")

_THREAD_COUNT = 8

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR}
_AWAY = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EINTR,
    errno.EMFILE,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENFILE,
    errno.ENOLCK,
    errno.ENOMEM,
    errno.ENOTCONN,
    errno.ESTALE,
    errno.ETIMEDOUT,
}


def translate_os_error(error: OSError, directory: Path, key: str = "") -> StoreError:
    """Say in this program's words what a file operation met; a pure function."""
    code = error.errno or 0
    reason = error.strerror or type(error).__name__
    if code in _FULL:
        return QuotaError(f"{directory} is full ({reason}): free space or raise the quota")
    if code in _REFUSED:
        return RefusedError(f"{directory}: {reason}; check owner, mode and mount", key=key)
    if code in _MISSING:
        return ObjectMissingError("no such object", key=key)
    if code in _AWAY:
        return UnavailableError(f"{directory}: {reason}", key=key)
    return StoreError(f"{directory}: {reason}", key=key)


class LocalStore:
    """One directory, which must exist. Requests that write are waited for when cancelled."""

    def __init__(self, directory: Path) -> None:
        self._files = LocalFiles(directory)
        self._threads = trio.CapacityLimiter(_THREAD_COUNT)
        self._has_conditional_put: bool | None = None

    @property
    def url(self) -> str:
        return LocalLocation(self._files.directory).url

    @property
    def place(self) -> str:
        return self.url

    @property
    def has_conditional_put(self) -> bool | None:
        return self._has_conditional_put

    @property
    def conditions(self) -> Conditions | None:
        found = self._has_conditional_put
        return None if found is None else Conditions(self.url, found)

    async def confirm(self, key: str, data: Buffer, known: Conditions) -> bool:
        await self.run(self._files.remove_stale)
        is_so = known.place == self.url and await are_borne_out(self, key, data, known)
        self._has_conditional_put = known.are_enforced if is_so else None
        return is_so

    async def run(self, action: Callable[[], T], key: str = "") -> T:
        """Carry out blocking file work in a thread and translate its errors."""
        try:
            return await trio.to_thread.run_sync(action, limiter=self._threads)
        except OSError as error:
            raise translate_os_error(error, self._files.directory, key) from error

    async def probe(self, key: str) -> None:
        await self.run(self._files.remove_stale)
        self._has_conditional_put = await are_conditions_enforced(self, key)

    async def get(self, key: str, *, offset: int = 0, length: int | None = None) -> Fetched:
        return await self.run(lambda: self._files.read(key, offset, length), key)

    async def put(self, key: str, data: Buffer, *, condition: Condition = None) -> Stored:
        return await self.run(lambda: self._files.write(key, data, condition), key)

    async def begin_upload(self, key: str) -> Upload:
        upload_id = await self.run(lambda: self._files.begin_upload(key), key)
        return _LocalUpload(self, self._files, key, upload_id)

    def list(self, prefix: str, *, after: str = "") -> AsyncIterator[Sequence[Listed]]:
        walker: Iterator[Listed] | None = None

        def next_page(cursor: str) -> list[Listed]:
            nonlocal walker
            # Directories are read once for all pages; after an error the walk begins anew.
            current, walker = walker or self._files.walk(prefix, cursor), None
            page = list(islice(current, PAGE_COUNT))
            walker = current
            return page

        async def fetch(cursor: str) -> Page[Listed, str]:
            page = await self.run(lambda: next_page(cursor), prefix)
            return page, page[-1].key if len(page) == PAGE_COUNT else None

        return Pages(fetch, after)

    async def head(self, key: str) -> Listed:
        return await self.run(lambda: self._files.head(key), key)

    async def copy(self, source_key: str, key: str) -> Stored:
        return await self.run(lambda: self._files.copy(source_key, key), source_key)

    async def delete(self, keys: Sequence[str]) -> None:
        await self.run(lambda: self._files.delete(keys))

    def list_uploads(self, prefix: str) -> AsyncIterator[Sequence[PendingUpload]]:
        async def fetch(_: str) -> Page[PendingUpload, str]:
            return await self.run(lambda: self._files.pending_uploads(prefix), prefix), None

        return Pages(fetch, "")

    async def abort_upload(self, upload: PendingUpload) -> None:
        await self.run(lambda: self._files.abort_upload(upload.upload_id), upload.key)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@dataclass(frozen=True, slots=True)
class _LocalUpload:
    store: LocalStore
    files: LocalFiles
    key: str
    upload_id: str

    async def put_part(self, number: int, data: Buffer) -> None:
        await self.store.run(lambda: self.files.write_part(self.upload_id, number, data), self.key)

    async def complete(self) -> Stored:
        return await self.store.run(
            lambda: self.files.complete_upload(self.key, self.upload_id), self.key
        )

    async def abort(self) -> None:
        await self.store.run(lambda: self.files.abort_upload(self.upload_id), self.key)
