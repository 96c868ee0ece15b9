"""Reading packs as a whole: every frame is opened and its ids are compared."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from functools import partial

import trio

from s3backfs.errors import IntegrityError
from s3backfs.format.frame import FrameCipher, open_frame
from s3backfs.format.keys import Keyring
from s3backfs.format.pack import PackRow, SliceRow, base_row, chunk_ref
from s3backfs.format.refs import Kind, Ref
from s3backfs.maintenance.survey import PackListed
from s3backfs.manifest.identity import node_id
from s3backfs.repository.repository import Repository
from s3backfs.store.base import Store

RUN_BYTES = 8 * 1024 * 1024
"""Frames that lie one behind the other are fetched together up to this length."""


class PackReader:
    """Reads packs past all caches, from the repository's store or from a copy of it."""

    def __init__(self, repository: Repository, store: Store | None = None) -> None:
        self._repository = repository
        self._store = store or repository.store
        self._cpu = trio.CapacityLimiter(4)

    async def rows(
        self, pack: PackListed, epoch: int, rows: Sequence[PackRow]
    ) -> AsyncGenerator[tuple[PackRow, bytes | IntegrityError]]:
        """Yield each row with its plaintext, or with what is wrong with it.

        Raises:
            ObjectMissingError: the pack is gone.
            StoreError: the store did not give it.
        """
        keyring = self._repository.keyring
        cipher = keyring.pack_cipher(pack.kind, pack.pack_id, epoch)
        for run in _runs(rows):
            start = run[0].offset
            length = run[-1].offset + run[-1].frame_length - start
            fetched = await self._store.get(pack.key, offset=start, length=length)
            for row in run:
                at = row.offset - start
                frame = memoryview(fetched.data)[at : at + row.frame_length]
                yield row, await self._open(pack, cipher, epoch, row, frame)

    async def _open(
        self, pack: PackListed, cipher: FrameCipher, epoch: int, row: PackRow, frame: memoryview
    ) -> bytes | IntegrityError:
        try:
            base = None
            if row.base is not None:
                ref = chunk_ref(pack.pack_id, epoch, row).base
                assert ref is not None
                base = await self._repository.reader.read_node_bytes(ref)
            work = partial(_open_row, self._repository.keyring, cipher, row, frame, base)
            return await trio.to_thread.run_sync(work, limiter=self._cpu)
        except IntegrityError as error:
            return IntegrityError(error.message, key=pack.key, offset=row.offset)


def _open_row(
    keyring: Keyring, cipher: FrameCipher, row: PackRow, frame: memoryview, base: bytes | None
) -> bytes:
    if len(frame) != row.frame_length:
        raise IntegrityError("the object ends before this frame does")
    plain = open_frame(cipher, row.offset, frame, row.chunk_length, base)
    if cipher.kind == Kind.META:
        if node_id(plain, keyring.logical_id) != row.id:
            raise IntegrityError("this is another node than the table says")
        return plain
    if not row.slices and keyring.chunk_id(plain) != row.id:
        raise IntegrityError("this is another content than the table says")
    for part in row.slices:
        if keyring.chunk_id(memoryview(plain)[part.offset : part.offset + part.length]) != part.id:
            raise IntegrityError("this is another content than the table says")
    return plain


def _runs(rows: Iterable[PackRow]) -> Iterator[list[PackRow]]:
    run: list[PackRow] = []
    for row in rows:
        if run and row.offset + row.frame_length - run[0].offset > RUN_BYTES:
            yield run
            run = []
        run.append(row)
    if run:
        yield run


def rows_of_refs(refs: Iterable[Ref]) -> Iterator[tuple[int, PackRow]]:
    """Make epochs and rows of references, where a pack's own table cannot be read."""
    found: dict[int, tuple[Ref, list[SliceRow]]] = {}
    for ref in refs:
        _, slices = found.setdefault(ref.pack_offset, (ref, []))
        if ref.slice_length != ref.chunk_length:
            slices.append(SliceRow(ref.id, ref.slice_offset, ref.slice_length))
    for offset, (ref, slices) in sorted(found.items()):
        base = None if ref.base is None else base_row(ref.base)
        row = PackRow(offset, ref.frame_length, ref.chunk_length, ref.id, tuple(slices), base)
        yield ref.epoch, row
