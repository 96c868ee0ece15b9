"""Notes on the multipart uploads of each mount, so that the next one ends what a crash has left.

    <state>/<repository id>/uploads/<any>    one file for each mount, locked while it is alive

Each line is `+ key`, written before an upload is begun, `= key upload_id` after it, or `- key`
when it was completed or aborted. A file that is not locked belongs to a process that is gone, and
what is open in it was of that process alone: no other mount uploads to a pack's key.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, cast

from s3backfs.errors import S3backfsError
from s3backfs.repository.local_state import lock_file
from s3backfs.store.around import Request
from s3backfs.store.base import PendingUpload, Store, Upload

log = logging.getLogger(__name__)

T = TypeVar("T")


class UploadNotes:
    """A policy that notes the uploads of this mount; holds the notes of dead ones until closed.

    Notes that cannot be written are left out: what is left over is then maintenance's to remove.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "uploads"
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._left = _hold_all(self._directory)
        self._path = self._directory / secrets.token_hex(16)
        self._descriptor = lock_file(self._path)
        self._open: set[str] = set()

    async def __call__(self, request: Request, act: Callable[[], Awaitable[T]]) -> T:
        """Carry a request out, and note what it begins or ends."""
        if request.verb == "begin_upload":
            self._open.add(request.key)
            self._note(f"+ {request.key}")
            result = await act()
            self._note(f"= {request.key} {cast(Upload, result).upload_id}")
            return result
        result = await act()
        if request.verb in ("complete", "abort"):
            self._open.discard(request.key)
            self._note(f"- {request.key}")
        return result

    def _note(self, line: str) -> None:
        if self._descriptor is None:
            return
        with suppress(OSError):
            if not self._open:
                os.ftruncate(self._descriptor, 0)
                return
            os.lseek(self._descriptor, 0, os.SEEK_END)
            os.write(self._descriptor, f"{line}\n".encode())

    async def abort_left(self, store: Store) -> None:
        """Abort the uploads that dead mounts of this machine have left."""
        for path, descriptor in list(self._left.items()):
            try:
                for key, upload_ids in open_uploads(_read(descriptor)).items():
                    await _abort(store, key, upload_ids)
            except S3backfsError as error:
                log.info("uploads of an earlier mount could not be aborted: %s", error)
                continue
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of all notes; those with something open stay for the next mount to find."""
        if not self._open:
            self._path.unlink(missing_ok=True)
        for descriptor in [*self._left.values(), self._descriptor]:
            if descriptor is not None:
                os.close(descriptor)
        self._left, self._descriptor = {}, None


def open_uploads(text: str) -> dict[str, set[str]]:
    """Read notes: keys of uploads that were begun and not ended, with their ids as far as known."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        match line.split(" "):
            case ["+", key]:
                found.setdefault(key, set())
            case ["=", key, upload_id]:
                found.setdefault(key, set()).add(upload_id)
            case ["-", key]:
                found.pop(key, None)
    return found


async def _abort(store: Store, key: str, upload_ids: set[str]) -> None:
    """Abort the uploads to a key: those that are known, and those that the store can name."""
    for upload_id in upload_ids:
        await store.abort_upload(PendingUpload(key, upload_id, 0))
    async for page in store.list_uploads(key):
        for upload in page:
            if upload.key == key:
                await store.abort_upload(upload)
    log.info("%s: aborted an upload that an earlier mount has left", key)


def _hold_all(directory: Path) -> dict[Path, int]:
    """Lock the notes of all dead mounts."""
    held = {path: lock_file(path) for path in sorted(directory.iterdir())}
    return {path: descriptor for path, descriptor in held.items() if descriptor is not None}


def _read(descriptor: int) -> str:
    length = os.fstat(descriptor).st_size
    return os.pread(descriptor, length, 0).decode("ascii", "replace")
