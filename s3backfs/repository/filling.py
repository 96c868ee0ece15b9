"""The packs of a writer: filled frame by frame, stored, and then known to the index.

A failed upload keeps its pack; the next attempt sends it again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass

from s3backfs.errors import S3backfsError
from s3backfs.format.frame import frame_length
from s3backfs.format.keys import Keyring
from s3backfs.format.pack import PackRow, content_refs
from s3backfs.format.refs import ID_BYTES, Kind, Ref
from s3backfs.repository.flow import Flow
from s3backfs.repository.index import ChunkIndex
from s3backfs.repository.packing import OpenPack
from s3backfs.repository.sealing import Prepared, pack_row, seal_and_verify
from s3backfs.repository.uploading import PackUpload
from s3backfs.store.base import Store

META_PACK_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PackSizes:
    """How long packs grow, and what their frames are sealed with."""

    pack_bytes: int
    memory_bytes: int
    epoch: int

    def capacity(self, kind: Kind) -> int:
        """How long a pack grows before it is closed; two must fit into memory."""
        wanted = self.pack_bytes if kind == Kind.DATA else META_PACK_BYTES
        return min(wanted, self.memory_bytes // 2)


class Filling:
    """The packs that are filled or under way, one of each kind that takes frames.

    `fresh` are the places in them; `on_stored` hears of each that is durable.
    """

    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        index: ChunkIndex,
        sizes: PackSizes,
        flow: Flow,
        on_stored: Callable[[bytes], None],
    ) -> None:
        self.fresh: dict[bytes, Ref] = {}
        self.referred: set[bytes] = set()
        """The packs that contents were given places in, for whoever clears it."""
        self.written: set[bytes] = set()
        """The packs that this mount has begun."""
        self._store = store
        self._keyring = keyring
        self._index = index
        self._sizes = sizes
        self._flow = flow
        self._on_stored = on_stored
        self._packs: dict[bytes, PackUpload] = {}
        self._current: dict[Kind, PackUpload] = {}
        self._finishing = 0

    @property
    def under_way(self) -> set[bytes]:
        """The packs that are still in memory."""
        return set(self._packs)

    @property
    def is_finishing(self) -> bool:
        """Whether the end of a pack is being stored."""
        return self._finishing > 0

    def peek(self, pack_id: bytes, pack_offset: int, frame_length: int) -> bytes | None:
        """A frame of a pack that is still in memory."""
        upload = self._packs.get(pack_id)
        return upload.pack.frame(pack_offset, frame_length) if upload else None

    def shun(self, pack_ids: Collection[bytes]) -> None:
        """Give nothing a place in these packs any more."""
        for content_id, ref in list(self.fresh.items()):
            if ref.pack_id in pack_ids:
                del self.fresh[content_id]

    # -- filling -----------------------------------------------------------------------------

    async def seal(
        self,
        kind: Kind,
        prepared: Prepared,
        *,
        base: Ref | None = None,
        base_plain: bytes | None = None,
    ) -> Ref:
        """Give a body its place in a pack, and seal it there."""
        upload = self._pack_with_room(kind, len(prepared.body))
        pack = upload.pack
        length = frame_length(pack.cipher.encryption, len(prepared.body))
        offset = pack.reserve(length)
        self._flow.budget.take(length)
        ref = Ref(
            pack_id=pack.pack_id,
            epoch=self._sizes.epoch,
            pack_offset=offset,
            frame_length=length,
            chunk_length=len(prepared.plain),
            slice_offset=0,
            slice_length=len(prepared.plain),
            id=prepared.chunk_id,
            base=base,
        )
        target = pack.view[offset : offset + length]
        row = None
        try:
            await self._flow.in_thread(
                seal_and_verify,
                pack.cipher,
                offset,
                prepared.body,
                prepared.plain,
                target,
                base_plain,
            )
            row = pack_row(ref, prepared)
        finally:
            # A place that could not be sealed stays unused, so that the pack can be finished.
            pack.sealed(offset, length, row)
        if not prepared.slices:
            self.fresh[prepared.chunk_id] = ref
        self._flow.progress.stored_bytes += length
        upload.advance()
        self._finish_if_closed(upload)
        return ref

    def _pack_with_room(self, kind: Kind, body_length: int) -> PackUpload:
        upload = self._current.get(kind)
        if upload is not None:
            length = frame_length(upload.pack.cipher.encryption, body_length)
            if upload.pack.has_room(length):
                return upload
            self._close(upload)
        pack_id = secrets.token_bytes(ID_BYTES)
        cipher = self._keyring.pack_cipher(kind, pack_id, self._sizes.epoch)
        capacity = max(self._sizes.capacity(kind), frame_length(cipher.encryption, body_length))
        pack = OpenPack(kind, pack_id, cipher, capacity)
        upload = PackUpload(self._store, pack, self._flow.nursery)
        self._packs[pack_id] = self._current[kind] = upload
        self.referred.add(pack_id)
        self.written.add(pack_id)
        return upload

    # -- storing -----------------------------------------------------------------------------

    def close_all(self) -> None:
        """Take no more frames into the packs that are there."""
        for upload in list(self._current.values()):
            self._close(upload)

    async def store_all(self) -> None:
        """Wait until each pack is stored or has failed; those that failed before are sent again."""
        self.close_all()
        waiting = list(self._packs.values())
        for upload in waiting:
            if upload.has_failed:
                self._start_finish(upload)
        await self._wait_for(waiting)

    async def store_finishing(self) -> None:
        """Wait for the packs whose end is being stored."""
        finishing = [each for each in self._packs.values() if each.is_finishing]
        await self._wait_for([upload for upload in finishing if not upload.has_failed])

    async def _wait_for(self, uploads: Collection[PackUpload]) -> None:
        await self._flow.wait_until(
            lambda: all(self._is_taken_in(upload) or upload.has_failed for upload in uploads)
        )

    def _is_taken_in(self, upload: PackUpload) -> bool:
        """Whether a pack is stored, known to the index, and out of memory."""
        return upload.pack.pack_id not in self._packs

    def _close(self, upload: PackUpload) -> None:
        """Take no more frames; the pack is finished when those under way are sealed."""
        if self._current.get(upload.pack.kind) is upload:
            del self._current[upload.pack.kind]
        upload.is_closed = True
        self._finish_if_closed(upload)

    def _finish_if_closed(self, upload: PackUpload) -> None:
        if upload.is_closed and not upload.is_finishing and not upload.pack.sealing_count:
            self._start_finish(upload)

    def _start_finish(self, upload: PackUpload) -> None:
        upload.is_finishing, upload.has_failed = True, False
        self._finishing += 1
        self._flow.nursery.start_soon(self._finish, upload)

    async def _finish(self, upload: PackUpload) -> None:
        try:
            await upload.finish()
            await self._take_in(upload)
        except S3backfsError as error:
            upload.has_failed = True
            self._flow.fail(error)
        finally:
            self._finishing -= 1
            self._flow.note_change()

    async def _take_in(self, upload: PackUpload) -> None:
        """A pack is durable: the index may know it, and its memory is free."""
        pack = upload.pack
        whole_length = pack.used_bytes
        rows: list[PackRow] = pack.rows
        await self._flow.in_thread(
            self._index.add_pack, pack.pack_id, self._sizes.epoch, pack.kind, whole_length, rows
        )
        # No await from here: the pack leaves memory at once.
        for ref in content_refs(pack.pack_id, self._sizes.epoch, rows):
            known = self.fresh.get(ref.id)
            if known is not None and known.pack_id == pack.pack_id:
                del self.fresh[ref.id]
        del self._packs[pack.pack_id]
        self._flow.progress.durable_bytes += whole_length
        self._flow.progress.packs_count += 1
        self._flow.budget.release(sum(row.frame_length for row in rows))
        self._on_stored(pack.pack_id)
