"""The parts that names go through: leaves, and trees that are built, searched, walked, changed."""

from __future__ import annotations

import contextlib
import random
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import trio

from s3backfs.format.frame import Encryption
from s3backfs.format.keys import Keyring
from s3backfs.format.refs import ID_BYTES, Ref
from s3backfs.manifest.entry import Entry, Extent
from s3backfs.manifest.keys import directory_prefix, entry_key
from s3backfs.manifest.layouts import ENTRY_LEAF
from s3backfs.manifest.node import ENTRIES, EncodedNode, decode_node, encode_node
from s3backfs.manifest.tree import Replace, Top, Tree, entry_nodes
from tests.bench.micro import Job, Maker

T = TypeVar("T")

_LEAF_COUNT = 500
_PER_DIRECTORY = 100
_VALUES_COUNT = 20_000
_SMALL_COUNT = 20_000
_LARGE_COUNT = 1_000_000
_FINDS_COUNT = 5_000
_LEAVES_COUNT = 20
_CHANGED_EVERY = 100
_SMALL_BYTES = 15_000


class NodesInMemory:
    """Keeps nodes as bytes, and decodes them at each load, or once if it `keeps_decoded`."""

    def __init__(self, *, keeps_decoded: bool = False) -> None:
        self._data: dict[bytes, bytes] = {}
        self._decoded: dict[bytes, Any] | None = {} if keeps_decoded else None

    async def load_node(self, ref: Ref, decode: Callable[[bytes], T]) -> T:
        if self._decoded is None:
            return decode(self._data[ref.id])
        found: T | None = self._decoded.get(ref.id)
        if found is None:
            found = self._decoded[ref.id] = decode(self._data[ref.id])
        return found

    def is_at_hand(self, ref: Ref) -> bool:
        return True

    def expect_nodes(self, refs: Sequence[Ref]) -> None:
        """Nothing takes time here."""

    async def may_stand(self, node: EncodedNode, place: Ref) -> bool:
        return True

    async def store_node(self, node: EncodedNode, base: Ref | None) -> Ref:
        self._data[node.id] = node.data
        return _ref(node.id, 0, len(node.data), len(node.data))


def _ref(content_id: bytes, offset: int, length: int, chunk_length: int) -> Ref:
    return Ref(
        pack_id=bytes(ID_BYTES),
        epoch=0,
        pack_offset=offset,
        frame_length=chunk_length,
        chunk_length=chunk_length,
        slice_offset=0,
        slice_length=length,
        id=content_id,
    )


@lru_cache(1)
def _values() -> list[Entry]:
    """Small files, each a slice of a bundle; larger trees have them several times."""
    source, mode = random.Random(1), stat.S_IFREG | 0o644
    found = []
    for number in range(_VALUES_COUNT):
        ref = _ref(source.randbytes(ID_BYTES), number // 70 << 20, _SMALL_BYTES, 1 << 20)
        time_ns = source.getrandbits(60)
        extents = (Extent(0, _SMALL_BYTES, ref, 0),)
        found.append(Entry(mode, 0, 0, time_ns, time_ns, _SMALL_BYTES, None, extents))
    return found


def _key(number: int) -> bytes:
    prefix = directory_prefix((b"usr", b"%06d" % (number // _PER_DIRECTORY)))
    return entry_key(prefix, b"file-%06d.txt" % number)


def _rows(count: int) -> Iterator[tuple[bytes, Entry]]:
    values = _values()
    return ((_key(number), values[number % _VALUES_COUNT]) for number in range(count))


def _keyring() -> Keyring:
    return Keyring.generate(Encryption.AES256_GCM)


async def _built(count: int, nodes: NodesInMemory, keyring: Keyring) -> Tree[Entry]:
    tree = Tree(None, entry_nodes(nodes, keyring))
    top: Top | None = await tree.update([Replace(b"", None, _rows(count))])
    return Tree(top, entry_nodes(nodes, keyring))


# -- leaves -------------------------------------------------------------------------------------


def _leaf(keyring: Keyring) -> EncodedNode:
    keys, values = zip(*_rows(_LEAF_COUNT), strict=True)
    return encode_node(ENTRIES.kind, 0, ENTRY_LEAF, keys, values, keyring.logical_id)


@contextlib.contextmanager
def _encode_leaf(scale: float, folder: Path) -> Iterator[Job]:
    keys, values = zip(*_rows(_LEAF_COUNT), strict=True)
    keyring = _keyring()

    def run() -> None:
        for _ in range(_LEAVES_COUNT):
            encode_node(ENTRIES.kind, 0, ENTRY_LEAF, keys, values, keyring.logical_id)

    yield Job(run, _LEAVES_COUNT * _LEAF_COUNT, "entries")


@contextlib.contextmanager
def _decode_leaf(scale: float, folder: Path) -> Iterator[Job]:
    """Rows and keys are made and checked, values are not."""
    data = _leaf(_keyring()).data

    def run() -> None:
        for _ in range(_LEAVES_COUNT):
            decode_node(ENTRIES, data)

    yield Job(run, _LEAVES_COUNT * _LEAF_COUNT, "entries")


@contextlib.contextmanager
def _leaf_values(scale: float, folder: Path) -> Iterator[Job]:
    data = _leaf(_keyring()).data

    def run() -> None:
        for _ in range(_LEAVES_COUNT):
            decode_node(ENTRIES, data).values(0, _LEAF_COUNT)

    yield Job(run, _LEAVES_COUNT * _LEAF_COUNT, "entries")


# -- trees --------------------------------------------------------------------------------------


def _build(count: int) -> Maker:
    @contextlib.contextmanager
    def prepared(scale: float, folder: Path) -> Iterator[Job]:
        keyring, wanted = _keyring(), _scaled(count, scale)
        _values()
        yield Job(lambda: trio.run(_built, wanted, NodesInMemory(), keyring), wanted, "entries")

    return prepared


def _scaled(count: int, scale: float) -> int:
    return max(1000, int(count * scale))


def _find(count: int, *, keeps_decoded: bool) -> Maker:
    """Find names in random order, the nodes at hand as bytes or decoded."""

    @contextlib.contextmanager
    def prepared(scale: float, folder: Path) -> Iterator[Job]:
        wanted, source = _scaled(count, scale), random.Random(2)
        tree = trio.run(_built, wanted, NodesInMemory(keeps_decoded=keeps_decoded), _keyring())
        finds_count = _FINDS_COUNT if keeps_decoded else _FINDS_COUNT // 10
        keys = [_key(source.randrange(wanted)) for _ in range(finds_count)]

        async def find_all() -> None:
            for key in keys:
                assert await tree.find(key) is not None

        yield Job(lambda: trio.run(find_all), finds_count, "names")

    return prepared


def _walk(count: int) -> Maker:
    @contextlib.contextmanager
    def prepared(scale: float, folder: Path) -> Iterator[Job]:
        wanted = _scaled(count, scale)
        tree = trio.run(_built, wanted, NodesInMemory(), _keyring())

        async def walk() -> None:
            seen = 0
            async for page in tree.pages():
                seen += len(page)
            assert seen == wanted

        yield Job(lambda: trio.run(walk), wanted, "entries")

    return prepared


def _update(count: int) -> Maker:
    """Change one entry in a hundred, scattered: nearly every leaf is read and written."""

    @contextlib.contextmanager
    def prepared(scale: float, folder: Path) -> Iterator[Job]:
        wanted = _scaled(count, scale)
        tree = trio.run(_built, wanted, NodesInMemory(), _keyring())
        changed = msgspec.structs.replace(_values()[0], mtime_ns=1)

        async def update() -> None:
            keys = map(_key, range(0, wanted, _CHANGED_EVERY))
            assert await tree.update(Replace(key, key + b"\0", [(key, changed)]) for key in keys)

        yield Job(lambda: trio.run(update), wanted // _CHANGED_EVERY, "changes")

    return prepared


# Trees of 20,000 and of 1,000,000 entries at scale 1.
TREE_PARTS: dict[str, Maker] = {
    "leaf write": _encode_leaf,
    "leaf read": _decode_leaf,
    "leaf read with values": _leaf_values,
    "tree build": _build(_SMALL_COUNT),
    "tree find decoded": _find(_SMALL_COUNT, keeps_decoded=True),
    "tree find as bytes": _find(_SMALL_COUNT, keeps_decoded=False),
    "tree walk": _walk(_SMALL_COUNT),
    "tree change 1 %": _update(_SMALL_COUNT),
    "large tree build": _build(_LARGE_COUNT),
    "large tree find decoded": _find(_LARGE_COUNT, keeps_decoded=True),
    "large tree find as bytes": _find(_LARGE_COUNT, keeps_decoded=False),
    "large tree walk": _walk(_LARGE_COUNT),
    "large tree change 1 %": _update(_LARGE_COUNT),
}
