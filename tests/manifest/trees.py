"""A node store in memory, with counts, and shorthand for making content."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, TypeVar

from blake3 import blake3

from s3backfs.errors import IntegrityError
from s3backfs.format.refs import Ref
from s3backfs.manifest.entry import Entry, Extent
from s3backfs.manifest.node import ENTRIES, EXTENTS, EncodedNode
from s3backfs.manifest.tree import Nodes, Replace, Top, Tree

T = TypeVar("T")

KEY = bytes(range(32))


class KeyedHashes:
    """The hashes of a repository, with one fixed key."""

    def cut_hash(self, level: int, key: bytes) -> int:
        return int.from_bytes(blake3(bytes([level]) + key, key=KEY).digest(4), "little")

    def logical_id(self, preimage: bytes) -> bytes:
        return blake3(preimage, key=KEY).digest(16)


class DenseHashes(KeyedHashes):
    """Cuts runs about every 8 keys, so that small trees are high."""

    def cut_hash(self, level: int, key: bytes) -> int:
        return super().cut_hash(level, key) // 64


class MemoryNodes:
    """Keeps nodes by their id; knows which were read and written."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.loaded: set[bytes] = set()
        self.stored: list[tuple[EncodedNode, Ref | None]] = []

    def forget_counts(self) -> None:
        self.loaded, self.stored = set(), []

    async def load_node(self, ref: Ref, decode: Callable[[bytes], T]) -> T:
        self.loaded.add(ref.id)
        if ref.id not in self.data:
            raise IntegrityError("no such node")
        return decode(self.data[ref.id])

    def is_at_hand(self, ref: Ref) -> bool:
        return True

    def expect_nodes(self, refs: Sequence[Ref]) -> None:
        """Nothing takes time here."""

    async def may_stand(self, node: EncodedNode, place: Ref) -> bool:
        return True

    async def store_node(self, node: EncodedNode, base: Ref | None) -> Ref:
        self.stored.append((node, base))
        self.data[node.id] = node.data
        return make_ref(node.id, len(node.data), pack=len(self.stored) % 7)


def make_ref(content_id: bytes, length: int, pack: int = 1, offset: int = 0) -> Ref:
    return Ref(
        pack_id=bytes([pack]) * 16,
        epoch=0,
        pack_offset=offset,
        frame_length=length + 29,
        chunk_length=length,
        slice_offset=0,
        slice_length=length,
        id=content_id,
    )


def chunk(number: int, length: int = 1000, pack: int = 1) -> Ref:
    return make_ref(number.to_bytes(16, "big"), length, pack, number * 2000)


def file_entry(number: int, *, chunk_count: int = 1, inline: bytes | None = None) -> Entry:
    extents = tuple(Extent(n * 1000, 1000, chunk(number + n), 0) for n in range(chunk_count))
    size = chunk_count * 1000 if inline is None else len(inline)
    return Entry(0o100644, 1, 2, number, number, size, inline, () if inline else extents)


def entry_tree(
    top: Top | None = None, store: MemoryNodes | None = None, **options: Any
) -> Tree[Entry]:
    hashes = options.pop("hashes", None) or KeyedHashes()
    nodes = Nodes(ENTRIES, store or MemoryNodes(), hashes, **options)
    return Tree(top, nodes)


def extent_tree(top: Top | None, store: MemoryNodes, **options: Any) -> Tree[Extent]:
    return Tree(top, Nodes(EXTENTS, store, DenseHashes(), inline_top_max_bytes=0, **options))


def put(key: bytes, value: T) -> Replace[T]:
    return Replace(key, key + b"\0", [(key, value)])


def remove(key: bytes) -> Replace[Any]:
    return Replace(key, key + b"\0")


async def streamed(items: Iterable[T]) -> AsyncIterator[T]:
    for item in items:
        yield item


async def content(tree: Tree[T]) -> dict[bytes, T]:
    return {key: value async for key, value in tree.items()}


async def built(items: dict[bytes, T], like: Tree[T]) -> Tree[T]:
    """Build a tree from nothing."""
    rows = sorted(items.items())
    nodes = like._nodes
    return Tree(await Tree(None, nodes).update([Replace(b"", None, rows)]), nodes)


def many_names(count: int, seed: int = 1, prefix: bytes = b"") -> dict[bytes, Entry]:
    rng = random.Random(seed)
    names = {b"%x-%d" % (rng.getrandbits(40), n): n for n in range(count)}
    return {prefix + b"\0" + name: file_entry(n * 10) for name, n in names.items()}
