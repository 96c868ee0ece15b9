"""One pack while it is filled: frames take their places in order, and are sealed in any order."""

from __future__ import annotations

from heapq import heappop, heappush
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap

from s3backfs.format.frame import FrameCipher
from s3backfs.format.pack import PackRow, encode_pack_tail
from s3backfs.format.refs import ID_BYTES, Kind

TAIL_ROOM_BYTES = 4 * 1024 * 1024
"""Behind the frames is so much room for the table of most packs."""


class OpenPack:
    """A pack in memory, encrypted, from its first frame until its upload is confirmed.

    Places are given out by `reserve`; a worker thread seals into its own place. `ready_bytes` is
    the length of the part at the beginning that is sealed without a gap.
    """

    def __init__(self, kind: Kind, pack_id: bytes, cipher: FrameCipher, capacity: int) -> None:
        self.kind = kind
        self.pack_id = pack_id
        self.cipher = cipher
        self.view = _untouched(capacity + TAIL_ROOM_BYTES)
        self._capacity = capacity
        self.used_bytes = 0
        self.ready_bytes = 0
        self.sealing_count = 0
        self.rows: list[PackRow] = []
        self._sealed: list[tuple[int, int]] = []

    @property
    def key(self) -> str:
        """The object's key."""
        return pack_key(self.kind, self.pack_id)

    def has_room(self, frame_length: int) -> bool:
        """Whether a frame still fits."""
        return self.used_bytes + frame_length <= self._capacity

    def reserve(self, frame_length: int) -> int:
        """Give out a place and return its offset."""
        offset = self.used_bytes
        self.used_bytes += frame_length
        self.sealing_count += 1
        return offset

    def sealed(self, offset: int, frame_length: int, row: PackRow | None) -> None:
        """Note that the frame at a place is there, or without a row that the place stays unused."""
        if row is not None:
            self.rows.append(row)
        self.sealing_count -= 1
        heappush(self._sealed, (offset, frame_length))
        while self._sealed and self._sealed[0][0] == self.ready_bytes:
            self.ready_bytes += heappop(self._sealed)[1]

    def close(self) -> memoryview:
        """Append the table, and return the whole pack; every frame must be there."""
        assert self.sealing_count == 0
        self.rows.sort(key=lambda row: row.offset)
        tail = encode_pack_tail(self.cipher, self.used_bytes, self.rows)
        end = self.used_bytes + len(tail)
        if end > len(self.view):
            grown = _untouched(end)
            grown[: self.used_bytes] = self.view[: self.used_bytes]
            self.view = grown
        self.view[self.used_bytes : end] = tail
        self.used_bytes = end
        return self.view[:end]

    def frame(self, offset: int, length: int) -> bytes | None:
        """A sealed frame, for reading before the pack is stored; None where there is none."""
        end = offset + length
        return bytes(self.view[offset:end]) if end <= self.used_bytes else None


def _untouched(length: int) -> memoryview:
    """Memory that is taken from the system page by page, as it is written to.

    A bytearray is all there from the beginning, and written over with zeros.
    """
    return memoryview(mmap(-1, length, flags=MAP_PRIVATE | MAP_ANONYMOUS))


def pack_key(kind: Kind, pack_id: bytes) -> str:
    """The key of a pack's object."""
    directory = "data" if kind == Kind.DATA else "meta"
    return f"{directory}/{pack_id.hex()}"


def pack_id_of(key: str) -> bytes | None:
    """The id of the pack that lies under a key; None for other objects."""
    kind, _, name = key.rpartition("/")
    if kind not in ("data", "meta"):
        return None
    try:
        pack_id = bytes.fromhex(name)
    except ValueError:
        return None
    return pack_id if len(pack_id) == ID_BYTES else None
