"""What worker threads do with contents: ids, deduplication, compression, sealing.

Every function here runs in a thread and touches its arguments only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from s3backfs.format.frame import FrameCipher, compress, seal_into, verify_frame
from s3backfs.format.keys import Keyring
from s3backfs.format.pack import PackRow, SliceRow, base_row
from s3backfs.format.refs import Ref
from s3backfs.repository.index import ChunkIndex
from s3backfs.repository.piece import Piece


@dataclass(frozen=True, slots=True)
class Slice:
    """One content in a bundle, and everybody who waits for its place."""

    pieces: tuple[Piece, ...]
    row: SliceRow


@dataclass(frozen=True, slots=True)
class Prepared:
    """A body that is ready to be sealed.

    `chunk_id` is the id of the whole plaintext; a bundle has `slices`, a chunk has none.
    """

    body: bytes
    plain: bytes | memoryview
    chunk_id: bytes
    slices: tuple[Slice, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """Content that is in the repository already."""

    piece: Piece
    ref: Ref


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Where contents are known from: this mount's packs under way, and the index."""

    fresh: Mapping[bytes, Ref]
    index: ChunkIndex

    def lookup(self, ids: Sequence[bytes]) -> dict[bytes, Ref]:
        """The places of those contents that are known."""
        found = {key: ref for key in ids if (ref := self.fresh.get(key)) is not None}
        missing = [key for key in ids if key not in found]
        if missing:
            found.update(self.index.lookup(missing))
        return found


def prepare_chunk(
    keyring: Keyring, knowledge: Knowledge, data: bytes | memoryview, level: int | None
) -> Prepared | Ref:
    """Compress a chunk, or find it."""
    chunk_id = keyring.chunk_id(data)
    known = knowledge.lookup([chunk_id]).get(chunk_id)
    return known or Prepared(compress(data, level), data, chunk_id)


def prepare_bundle(
    keyring: Keyring, knowledge: Knowledge, pieces: Sequence[Piece], level: int | None
) -> tuple[Prepared | None, list[Known]]:
    """Join many small contents into one chunk, each of them once, without those that are known."""
    by_id: dict[bytes, list[Piece]] = {}
    for piece in pieces:
        assert piece.data is not None
        by_id.setdefault(keyring.chunk_id(piece.data), []).append(piece)
    found = knowledge.lookup(list(by_id))
    known = [Known(piece, ref) for key, ref in found.items() for piece in by_id[key]]
    slices: list[Slice] = []
    parts: list[bytes | memoryview] = []
    offset = 0
    for key, same in by_id.items():
        if key in found:
            continue
        data = same[0].data
        assert data is not None
        slices.append(Slice(tuple(same), SliceRow(key, offset, len(data))))
        parts.append(data)
        offset += len(data)
    if not slices:
        return None, known
    plain = b"".join(parts)
    chunk_id = keyring.chunk_id(plain)
    return Prepared(compress(plain, level), plain, chunk_id, tuple(slices)), known


def pack_row(ref: Ref, prepared: Prepared) -> PackRow:
    """What the pack's table says of a body at its place."""
    return PackRow(
        ref.pack_offset,
        ref.frame_length,
        ref.chunk_length,
        ref.id,
        tuple(part.row for part in prepared.slices),
        None if ref.base is None else base_row(ref.base),
    )


def seal_and_verify(
    cipher: FrameCipher,
    offset: int,
    body: bytes,
    plain: bytes | memoryview,
    target: memoryview,
    base: bytes | None = None,
) -> None:
    """Seal a body into its place in a pack, open it again and compare it with the plaintext.

    Raises:
        IntegrityError: memory or processor made a mistake; nothing of it is uploaded.
    """
    seal_into(cipher, offset, body, target)
    verify_frame(cipher, offset, target, plain, base)
