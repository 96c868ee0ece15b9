"""A repository that is open: everything above reads and writes contents through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from s3backfs.format.keys import Keyring
from s3backfs.format.parameters import Parameters
from s3backfs.format.refs import Ref
from s3backfs.repository.index import ChunkIndex
from s3backfs.repository.local_state import WriterIdentity
from s3backfs.repository.piece import Piece
from s3backfs.repository.reader import Reader
from s3backfs.repository.writer import Writer
from s3backfs.store.base import Store


@dataclass(frozen=True, slots=True)
class RepositoryOptions:
    """Where this machine keeps its side, and how much memory and cache it may take."""

    state_dir: Path
    cache_dir: Path
    cache_bytes: int
    memory_bytes: int
    is_read_only: bool
    compression: Compression | None
    """What this mount writes with; None leaves it to the repository's parameters."""


class Repository:
    """Store, keys, reader and writer of one open repository; see `open_for_mount`."""

    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        parameters: Parameters,
        reader: Reader,
        writer: Writer,
        index: ChunkIndex,
        identity: WriterIdentity | None,
    ) -> None:
        self.store = store
        self.keyring = keyring
        self.parameters = parameters
        self.reader = reader
        self.writer = writer
        self.index = index
        self.chunk_bounds = parameters.chunk_bounds
        self._identity = identity

    @property
    def writer_id(self) -> bytes:
        """Who this mount writes as."""
        assert self._identity is not None
        return self._identity.writer_id

    def is_own_writer(self, writer_id: bytes) -> bool:
        """Whether a writer is this mount, or a dead one of this machine."""
        return self._identity is not None and self._identity.is_own(writer_id)

    async def read(self, content: Ref | Piece, offset: int, length: int) -> bytes | memoryview:
        """Read a range of a content, from memory if it is still there."""
        if isinstance(content, Piece):
            if content.data is not None:
                return content.data[offset : offset + length]
            assert content.ref is not None
            content = content.ref
        return await self.reader.read(content, offset, length)

    def cut_bytes(self, wanted_bytes: int) -> int:
        """How much one open file may hold back before it is cut: less where memory is small."""
        return min(wanted_bytes, max(1 << 20, self.writer.budget.limit_bytes // 16))

    def prefetch(self, contents: Sequence[Ref | Piece]) -> None:
        """Say what will be read soon, in order."""
        refs = [content.ref if isinstance(content, Piece) else content for content in contents]
        self.reader.prefetch([ref for ref in refs if ref is not None])


def content_length(content: Ref | Piece) -> int:
    """How many bytes a content has."""
    return content.length if isinstance(content, Piece) else content.slice_length
