"""The parts that bytes go through: cutting, ids, compression, sealing, tables, index, keys."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from s3backfs.format.codec import compress
from s3backfs.format.frame import Encryption, frame_length
from s3backfs.format.keys import Keyring
from s3backfs.format.pack import (
    PackRow,
    SliceRow,
    decode_footer,
    encode_pack_tail,
    open_pack_table,
)
from s3backfs.format.parameters import ChunkBounds
from s3backfs.format.refs import ID_BYTES, Kind
from s3backfs.format.slots import open_slot, seal_slot
from s3backfs.repository.cutting import cut
from s3backfs.repository.index import ChunkIndex
from s3backfs.repository.piece import Piece
from s3backfs.repository.sealing import Knowledge, prepare_bundle, seal_and_verify
from tests.bench.data import half_random
from tests.bench.micro import Job, Maker

_CHUNK_BYTES = 1 << 20
_CHUNKS_COUNT = 64
_LEVEL = 3
"""The default."""
_SMALL_BYTES = 15_000
_BUNDLE_COUNT = 70
_BUNDLES_PER_PACK = 128
_PACK_BYTES = 64 << 20
_CONTENTS_COUNT = 100_000
_PER_LOOKUP = _BUNDLE_COUNT
_LOOKUPS_COUNT = 200
_PASSPHRASE = b"correct horse battery staple"

Source = Callable[[random.Random, int], bytes]
NOISE: Source = random.Random.randbytes
TEXT: Source = half_random


def _chunks(make: Source, scale: float) -> list[bytes]:
    source = random.Random(1)
    return [make(source, _CHUNK_BYTES) for _ in range(max(4, int(_CHUNKS_COUNT * scale)))]


def _megabytes(chunks: Sequence[bytes]) -> float:
    return sum(map(len, chunks)) / 1e6


def _keyring() -> Keyring:
    return Keyring.generate(Encryption.AES256_GCM)


@contextlib.contextmanager
def _cut(scale: float, folder: Path) -> Iterator[Job]:
    chunks = _chunks(TEXT, scale)
    data, bounds = memoryview(b"".join(chunks)), ChunkBounds.around()
    yield Job(lambda: cut(data, bounds, is_final=True), _megabytes(chunks), "MB")


@contextlib.contextmanager
def _chunk_id(scale: float, folder: Path) -> Iterator[Job]:
    chunks, keyring = _chunks(TEXT, scale), _keyring()
    yield Job(lambda: [keyring.chunk_id(chunk) for chunk in chunks], _megabytes(chunks), "MB")


def _compress(make: Source, level: int) -> Maker:
    @contextlib.contextmanager
    def prepared(scale: float, folder: Path) -> Iterator[Job]:
        chunks = _chunks(make, scale)
        yield Job(lambda: [compress(chunk, level) for chunk in chunks], _megabytes(chunks), "MB")

    return prepared


def _seal(make: Source) -> Maker:
    """Time sealing into a pack, opening, expanding and comparing; compression apart."""

    @contextlib.contextmanager
    def prepared(scale: float, folder: Path) -> Iterator[Job]:
        chunks = _chunks(make, scale)
        bodies = [compress(chunk, _LEVEL) for chunk in chunks]
        cipher = _keyring().pack_cipher(Kind.DATA, bytes(ID_BYTES))
        longest = max(frame_length(cipher.encryption, len(body)) for body in bodies)
        pack = memoryview(bytearray(longest))

        def run() -> None:
            for body, chunk in zip(bodies, chunks, strict=True):
                target = pack[: frame_length(cipher.encryption, len(body))]
                seal_and_verify(cipher, 0, body, chunk, target)

        yield Job(run, _megabytes(chunks), "MB")

    return prepared


@contextlib.contextmanager
def _bundles(scale: float, folder: Path) -> Iterator[Job]:
    """Small contents that nobody knows: ids, look-up, joining, compression."""
    source = random.Random(1)
    bundles = [
        [Piece(TEXT(source, _SMALL_BYTES)) for _ in range(_BUNDLE_COUNT)]
        for _ in range(max(2, int(_CHUNKS_COUNT * scale)))
    ]
    keyring = _keyring()
    with contextlib.closing(ChunkIndex(folder / "index.sqlite")) as index:
        knowledge = Knowledge({}, index)

        def run() -> None:
            for pieces in bundles:
                prepare_bundle(keyring, knowledge, pieces, _LEVEL)

        yield Job(run, len(bundles) * _BUNDLE_COUNT, "files")


# -- tables and the index -----------------------------------------------------------------------


def _rows(bundles_count: int, per_bundle: int) -> tuple[PackRow, ...]:
    source, length = random.Random(1), _PACK_BYTES // bundles_count
    return tuple(
        PackRow(
            number * length,
            length,
            per_bundle * _SMALL_BYTES,
            source.randbytes(ID_BYTES),
            tuple(
                SliceRow(source.randbytes(ID_BYTES), place * _SMALL_BYTES, _SMALL_BYTES)
                for place in range(per_bundle)
            ),
        )
        for number in range(bundles_count)
    )


@contextlib.contextmanager
def _encode_table(scale: float, folder: Path) -> Iterator[Job]:
    rows = _rows(_BUNDLES_PER_PACK, _BUNDLE_COUNT)
    cipher = _keyring().pack_cipher(Kind.DATA, bytes(ID_BYTES))
    count = _BUNDLES_PER_PACK * _BUNDLE_COUNT
    yield Job(lambda: encode_pack_tail(cipher, _PACK_BYTES, rows), count, "slices")


@contextlib.contextmanager
def _decode_table(scale: float, folder: Path) -> Iterator[Job]:
    cipher = _keyring().pack_cipher(Kind.DATA, bytes(ID_BYTES))
    tail = encode_pack_tail(cipher, _PACK_BYTES, _rows(_BUNDLES_PER_PACK, _BUNDLE_COUNT))
    length = _PACK_BYTES + len(tail)

    def run() -> None:
        footer = decode_footer(tail, length)
        open_pack_table(cipher, footer, tail[: footer.table_length], length)

    yield Job(run, _BUNDLES_PER_PACK * _BUNDLE_COUNT, "slices")


@contextlib.contextmanager
def _add_pack(scale: float, folder: Path) -> Iterator[Job]:
    """One pack of very many contents, into an index that is empty each time."""
    bundles_count = max(1, int(_CONTENTS_COUNT * scale) // 1000)
    rows = _rows(bundles_count, 1000)
    with contextlib.ExitStack() as stack:
        made: list[ChunkIndex] = []

        def before() -> None:
            path = folder / f"{len(made)}.sqlite"
            made.append(stack.enter_context(contextlib.closing(ChunkIndex(path))))

        def run() -> None:
            made[-1].add_pack(bytes(ID_BYTES), 0, Kind.DATA, _PACK_BYTES, rows)

        yield Job(run, bundles_count * 1000, "rows", before)


def _lookup(*, is_known: bool) -> Maker:
    """As bundles do it: the ids of all their contents at once."""

    @contextlib.contextmanager
    def prepared(scale: float, folder: Path) -> Iterator[Job]:
        rows = _rows(max(1, int(_CONTENTS_COUNT * scale) // 1000), 1000)
        ids = [part.id for row in rows for part in row.slices]
        source = random.Random(2)
        if not is_known:
            ids = [source.randbytes(ID_BYTES) for _ in ids]
        asked = [source.sample(ids, _PER_LOOKUP) for _ in range(_LOOKUPS_COUNT)]
        with contextlib.closing(ChunkIndex(folder / "index.sqlite")) as index:
            index.add_pack(bytes(ID_BYTES), 0, Kind.DATA, _PACK_BYTES, rows)
            found = index.lookup(asked[0])
            assert len(found) == (_PER_LOOKUP if is_known else 0)
            count = _LOOKUPS_COUNT * _PER_LOOKUP
            yield Job(lambda: [index.lookup(some) for some in asked], count, "ids")

    return prepared


@contextlib.contextmanager
def _unlock(scale: float, folder: Path) -> Iterator[Job]:
    """Argon2id at the default cost, and unwrapping."""
    key, slot = seal_slot(_PASSPHRASE, bytes(ID_BYTES), 0, bytes(32))
    yield Job(lambda: open_slot(key, slot, _PASSPHRASE), 1, "slots")


PARTS: dict[str, Maker] = {
    "cut": _cut,
    "chunk id": _chunk_id,
    "compress level 1": _compress(TEXT, 1),
    "compress level 3": _compress(TEXT, 3),
    "compress level 13": _compress(TEXT, 13),
    "compress noise level 1": _compress(NOISE, 1),
    "compress noise level 3": _compress(NOISE, 3),
    "compress noise level 13": _compress(NOISE, 13),
    "seal and verify": _seal(TEXT),
    "seal and verify noise": _seal(NOISE),
    "bundle": _bundles,
    "pack table write": _encode_table,
    "pack table read": _decode_table,
    "index add": _add_pack,
    "index known": _lookup(is_known=True),
    "index unknown": _lookup(is_known=False),
    "unlock": _unlock,
}
