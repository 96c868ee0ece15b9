"""Sending one pack: parts go out while it is filled, the whole pack stays until it is stored."""

from __future__ import annotations

import logging

import trio

from s3backfs.errors import S3backfsError, UploadMissingError
from s3backfs.repository.packing import OpenPack
from s3backfs.store.base import Store, Upload
from s3backfs.store.creating import create

log = logging.getLogger(__name__)

PART_BYTES = 8 * 1024 * 1024
ATTEMPTS = 3
"""How often a pack is sent from the start when the store has lost its upload."""


class PackUpload:
    """The upload of one pack.

    A pack no longer than a part is one PUT. Parts are sent by tasks of the given nursery; after
    an error nothing more is sent until `finish` is called again, which starts anew.
    """

    def __init__(self, store: Store, pack: OpenPack, nursery: trio.Nursery) -> None:
        self.pack = pack
        self.is_closed = False
        self.is_finishing = False
        self.is_stored = False
        self.has_failed = False
        self._whole: memoryview | None = None
        self._store = store
        self._nursery = nursery
        self._upload: Upload | None = None
        self._begun_parts = 0
        self._running = 0
        self._error: S3backfsError | None = None
        self._idle = trio.Event()
        self._lock = trio.Lock()

    def advance(self) -> None:
        """Send the parts that are complete by now."""
        if self._error is not None:
            return
        while self.pack.ready_bytes >= (self._begun_parts + 1) * PART_BYTES:
            self._start_part(self.pack.view)

    def _start_part(self, whole: memoryview) -> None:
        start = self._begun_parts * PART_BYTES
        self._begun_parts += 1
        self._running += 1
        self._idle = trio.Event()
        data = whole[start : start + PART_BYTES]
        self._nursery.start_soon(self._send_part, self._begun_parts, data)

    async def _send_part(self, number: int, data: memoryview) -> None:
        try:
            if self._error is None:
                await (await self._begun_upload()).put_part(number, data)
        except S3backfsError as error:
            self._error = self._error or error
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def _begun_upload(self) -> Upload:
        async with self._lock:
            if self._upload is None:
                self._upload = await self._store.begin_upload(self.pack.key)
            return self._upload

    async def finish(self) -> None:
        """Send the rest; on return the pack is durable. May be called again after an error.

        Raises:
            S3backfsError: it could not be stored; the pack is still in memory.
        """
        if self._whole is None:
            self._whole = self.pack.close()
        whole = self._whole
        for attempt in range(1, ATTEMPTS + 1):
            if self._error is not None:
                await self._start_over()
            try:
                await self._finish_once(whole)
                break
            except UploadMissingError as error:
                log.warning("%s: the store lost the upload; sending it again", self.pack.key)
                self._error = error
                if attempt == ATTEMPTS:
                    raise
            except S3backfsError as error:
                self._error = error
                raise
        self.is_stored = True

    async def _finish_once(self, whole: memoryview) -> None:
        if self._begun_parts == 0 and len(whole) <= PART_BYTES:
            await create(self._store, self.pack.key, whole)
            return
        while self._begun_parts * PART_BYTES < len(whole):
            self._start_part(whole)
        if self._running:
            await self._idle.wait()
        if self._error is not None:
            raise self._error
        await (await self._begun_upload()).complete()

    async def _start_over(self) -> None:
        """Forget the broken upload; the bytes are sent again as they are."""
        if self._running:
            await self._idle.wait()
        upload, self._upload = self._upload, None
        self._begun_parts, self._error = 0, None
        if upload is not None:
            await abandon(upload)


async def abandon(upload: Upload) -> None:
    """Abort an upload if the store lets us; what is left over is maintenance's to remove."""
    with trio.move_on_after(10, shield=True):
        try:
            await upload.abort()
        except S3backfsError as error:
            log.info("an upload could not be aborted: %s", error)
