"""The body of a frame: one byte that names the codec, then the bytes.

    0 stored | 1 zstd | 2 zstd, with the plaintext of a base as raw-content dictionary

Source: docs/format.md, "Bodies"; RFC 8878.
"""

from __future__ import annotations

import threading
from enum import IntEnum

import zstandard

from s3backfs.errors import IntegrityError
from s3backfs.format.refs import Buffer

MAX_PLAIN_BYTES = 64 * 1024 * 1024
"""No frame holds more; it bounds what a forged length can make a reader allocate."""

PATCH_LEVEL = 3

_SLOW_LEVEL = 13


class Codec(IntEnum):
    """The first byte of a body."""

    STORED = 0
    ZSTD = 1
    PATCH = 2


class _Local(threading.local):
    """What each thread has of its own: zstd's objects must not be shared."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        found = self.compressors.get(level)
        if found is None:
            found = self.compressors[level] = zstandard.ZstdCompressor(level=level)
        return found


_local = _Local()


def compress(plain: Buffer, level: int | None) -> bytes:
    """Make a body; what does not shrink, or has no `level`, is stored."""
    if level is not None and len(plain) and _is_promising(plain, level):
        packed = _local.compressor(level).compress(plain)
        if len(packed) < len(plain):
            return b"\x01" + packed
    return b"".join((b"\x00", plain))


def _is_promising(plain: Buffer, level: int) -> bool:
    """Say whether a slow level is worth trying: noise costs zstd time at high levels only."""
    if level < _SLOW_LEVEL:
        return True
    return len(_local.compressor(1).compress(plain)) < len(plain)


def compress_patch(plain: Buffer, base: Buffer) -> bytes:
    """Make a body that can be read with the plaintext of `base` at hand only."""
    dictionary = _dictionary(base)
    compressor = zstandard.ZstdCompressor(level=PATCH_LEVEL, dict_data=dictionary)
    return b"\x02" + compressor.compress(plain)


def _dictionary(base: Buffer) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def expand(body: Buffer, plain_length: int, base: Buffer | None = None) -> bytes:
    """Return the plaintext of a body; never allocates more than `plain_length` bytes for it.

    Raises:
        IntegrityError: no such codec, another length, damage, or bytes left over.
    """
    if not 0 <= plain_length <= MAX_PLAIN_BYTES or not len(body):
        raise IntegrityError("a frame states a length that none can have")
    payload = memoryview(body)[1:]
    codec = body[0]
    if codec == Codec.STORED:
        plain = bytes(payload)
    elif codec == Codec.ZSTD:
        plain = _unzstd(_local.decompressor, payload, plain_length)
    elif codec == Codec.PATCH:
        if base is None or not len(base):
            raise IntegrityError("a frame is a patch, and its reference names no base")
        decompressor = zstandard.ZstdDecompressor(dict_data=_dictionary(base))
        plain = _unzstd(decompressor, payload, plain_length)
    else:
        raise IntegrityError(f"a frame has the unknown codec {codec}")
    if len(plain) != plain_length:
        raise IntegrityError("a frame holds another length than its reference states")
    return plain


def _unzstd(
    decompressor: zstandard.ZstdDecompressor, payload: memoryview, plain_length: int
) -> bytes:
    try:
        # zstandard allocates what the frame states: look before it does.
        if zstandard.frame_content_size(payload) != plain_length:
            raise IntegrityError("a frame holds another length than its reference states")
        if not plain_length:
            raise IntegrityError("a frame compresses nothing")
        return decompressor.decompress(payload, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise IntegrityError(f"a frame cannot be decompressed: {error}") from error
