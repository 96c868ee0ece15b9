"""Packs made by hand in a store in memory, and policies that watch or hold up its requests."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from s3backfs.errors import StoreError
from s3backfs.format.frame import Encryption, compress, compress_patch, seal_frame
from s3backfs.format.keys import Keyring
from s3backfs.format.pack import PackRow, SliceRow, base_row, chunk_ref, encode_pack_tail, slice_ref
from s3backfs.format.refs import Kind, Ref
from s3backfs.repository.packing import pack_key
from s3backfs.store.around import Request, WrappedStore
from s3backfs.store.memory import MemoryStore

T = TypeVar("T")


@dataclass
class Watching:
    """A policy that keeps every request, can hold gets up, and can make them fail."""

    requests: list[Request] = field(default_factory=list)
    gate: trio.Event | None = None
    errors: list[StoreError] = field(default_factory=list)

    async def __call__(self, request: Request, act: Callable[[], Awaitable[T]]) -> T:
        self.requests.append(request)
        if request.verb == "get":
            if self.gate is not None:
                await self.gate.wait()
            if self.errors:
                raise self.errors.pop(0)
        return await act()

    def gets(self, prefix: str = "") -> list[Request]:
        """The gets below a prefix."""
        return [r for r in self.requests if r.verb == "get" and r.key.startswith(prefix)]

    def forget(self) -> None:
        self.requests.clear()


@dataclass(frozen=True)
class Bench:
    """A repository's store and keys, with nothing in it."""

    memory: MemoryStore
    store: WrappedStore
    watching: Watching
    keyring: Keyring


def new_bench(encryption: Encryption = Encryption.AES256_GCM) -> Bench:
    memory, watching = MemoryStore(), Watching()
    return Bench(memory, WrappedStore(memory, watching), watching, Keyring.generate(encryption))


class PackMaker:
    """Puts frames into one pack."""

    def __init__(self, keyring: Keyring, kind: Kind = Kind.DATA, number: int = 1) -> None:
        self.keyring = keyring
        self.kind = kind
        self.pack_id = bytes([number]) * 16
        self.cipher = keyring.pack_cipher(kind, self.pack_id)
        self.data = bytearray()
        self.rows: list[PackRow] = []

    @property
    def key(self) -> str:
        return pack_key(self.kind, self.pack_id)

    def add(self, plain: bytes, *, base: tuple[Ref, bytes] | None = None) -> Ref:
        """Append one chunk or node."""
        base_ref, base_plain = base or (None, None)
        body = compress(plain, 1) if base_plain is None else compress_patch(plain, base_plain)
        frame = seal_frame(self.cipher, len(self.data), body)
        row = PackRow(
            len(self.data),
            len(frame),
            len(plain),
            self.keyring.chunk_id(plain),
            (),
            None if base_ref is None else base_row(base_ref),
        )
        self.rows.append(row)
        self.data += frame
        return chunk_ref(self.pack_id, 0, row)

    def add_bundle(self, plains: Sequence[bytes]) -> list[Ref]:
        """Append one chunk that holds many contents."""
        chunk = self.add(b"".join(plains))
        slices, offset = [], 0
        for plain in plains:
            slices.append(SliceRow(self.keyring.chunk_id(plain), offset, len(plain)))
            offset += len(plain)
        row = self.rows.pop()
        self.rows.append(
            PackRow(row.offset, row.frame_length, row.chunk_length, row.id, tuple(slices))
        )
        return [slice_ref(chunk, part) for part in slices]

    def gap(self, length: int) -> None:
        """Append bytes that are no frame."""
        self.data += bytes(length)

    def whole(self) -> bytes:
        """The pack's object."""
        return bytes(self.data) + encode_pack_tail(self.cipher, len(self.data), self.rows)

    async def store(self, store: WrappedStore | MemoryStore) -> None:
        await store.put(self.key, self.whole())


def noise(length: int, seed: int = 0) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(length)
