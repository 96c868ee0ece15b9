"""Where lost contents may be found: in other packs, in the source, in a copy of the bucket.

Whatever is found is taken only if it has the id of what was lost.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from s3backfs.errors import IntegrityError, ObjectMissingError
from s3backfs.format.keys import Keyring
from s3backfs.format.pack import PackRow, SliceRow
from s3backfs.format.parameters import ChunkBounds
from s3backfs.format.refs import Kind, Ref
from s3backfs.maintenance.content import PackReader
from s3backfs.maintenance.survey import PackListed
from s3backfs.manifest.identity import node_id
from s3backfs.repository.cutting import cut
from s3backfs.repository.repository import Repository
from s3backfs.store.base import Store

READ_BYTES = 8 * 1024 * 1024


class Elsewhere(Protocol):
    """Somewhere else that may have what was lost."""

    async def look_for(self, wanted: Mapping[bytes, int]) -> None:
        """Hear which contents are lost, ids and lengths in bytes, before `find` is called."""
        ...

    async def find(self, pack: PackListed, epoch: int, row: PackRow, part: SliceRow) -> bytes:
        """Return a lost content, or nothing at all."""
        ...


@dataclass(frozen=True, slots=True)
class _Place:
    path: bytes
    offset: int


class SourceTree:
    """The files that were backed up, cut as a mount cuts them."""

    def __init__(self, root: Path, keyring: Keyring, bounds: ChunkBounds) -> None:
        self._root = root
        self._keyring = keyring
        self._bounds = bounds
        self._places: dict[bytes, _Place] = {}

    async def look_for(self, wanted: Mapping[bytes, int]) -> None:
        """Read the files, until everything is found."""
        await trio.to_thread.run_sync(self._scan, wanted)

    def _scan(self, wanted: Mapping[bytes, int]) -> None:
        lengths = set(wanted.values())
        for path in _files(os.fsencode(self._root)):
            if len(self._places) == len(wanted):
                return
            try:
                self._scan_file(path, wanted, lengths)
            except OSError:
                # What cannot be read, or has gone, is not the one.
                continue

    def _scan_file(self, path: bytes, wanted: Mapping[bytes, int], lengths: set[int]) -> None:
        for offset, chunk in _chunks(path, self._bounds):
            if len(chunk) not in lengths:
                continue
            found = self._keyring.chunk_id(chunk)
            if found in wanted:
                self._places.setdefault(found, _Place(path, offset))

    async def find(self, pack: PackListed, epoch: int, row: PackRow, part: SliceRow) -> bytes:
        """Read a content anew from the file where it was seen."""
        place = self._places.get(part.id)
        if place is None:
            return b""
        data = await trio.to_thread.run_sync(_read, place, part.length)
        return data if self._keyring.chunk_id(data) == part.id else b""


def _read(place: _Place, length: int) -> bytes:
    try:
        with open(place.path, "rb") as file:
            file.seek(place.offset)
            return file.read(length)
    except OSError:
        return b""


def _files(root: bytes) -> Iterator[bytes]:
    for parent, directories, names in os.walk(root):
        directories.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            try:
                if stat.S_ISREG(os.lstat(path).st_mode):
                    yield path
            except OSError:
                continue


def _chunks(path: bytes, bounds: ChunkBounds) -> Iterator[tuple[int, memoryview]]:
    """Cut a file as a stream of bytes; yield offsets and chunks."""
    offset, rest = 0, b""
    with open(path, "rb") as file:
        while True:
            fresh = file.read(READ_BYTES)
            data = memoryview(rest + fresh)
            for chunk in cut(data, bounds, is_final=not fresh):
                yield offset, chunk
                offset += len(chunk)
                data = data[len(chunk) :]
            rest = bytes(data)
            if not fresh:
                return


class OtherPacks:
    """The repository itself: a later backup may have stored again what was lost."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    async def look_for(self, wanted: Mapping[bytes, int]) -> None:
        """Nothing is to be prepared: the index knows."""

    async def find(self, pack: PackListed, epoch: int, row: PackRow, part: SliceRow) -> bytes:
        """Read a content from a pack that is neither damaged nor condemned."""
        for ref in await self._repository.writer.find_node(part.id):
            try:
                data = await self._read(pack.kind, ref)
            except IntegrityError:
                continue
            if self._id(pack.kind, data) == part.id:
                return data
        return b""

    async def _read(self, kind: Kind, ref: Ref) -> bytes:
        reader = self._repository.reader
        if kind == Kind.META:
            return await reader.read_node_bytes(ref)
        return bytes(await reader.read(ref, 0, ref.slice_length))

    def _id(self, kind: Kind, data: bytes) -> bytes:
        keyring = self._repository.keyring
        return node_id(data, keyring.logical_id) if kind == Kind.META else keyring.chunk_id(data)


class BucketCopy:
    """A copy of the same repository, where the same pack may be sound."""

    def __init__(self, store: Store, repository: Repository) -> None:
        self._reader = PackReader(repository, store)
        self._last: tuple[bytes, int, bytes] | None = None

    async def look_for(self, wanted: Mapping[bytes, int]) -> None:
        """Nothing is to be prepared."""

    async def find(self, pack: PackListed, epoch: int, row: PackRow, part: SliceRow) -> bytes:
        """Read a content from the same place in the copy."""
        plain = await self._plain(pack, epoch, row)
        return plain[part.offset : part.offset + part.length]

    async def _plain(self, pack: PackListed, epoch: int, row: PackRow) -> bytes:
        # A bundle's contents are asked for one after the other.
        if self._last is not None and self._last[:2] == (pack.pack_id, row.offset):
            return self._last[2]
        plain = b""
        try:
            async for _, found in self._reader.rows(pack, epoch, [row]):
                plain = b"" if isinstance(found, IntegrityError) else found
        except ObjectMissingError:
            plain = b""
        self._last = (pack.pack_id, row.offset, plain)
        return plain
