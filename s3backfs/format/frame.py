"""Frames: bodies, sealed for one place.

    aes256-gcm   nonce (12) || ciphertext || tag (16)
    none         BLAKE3 of associated data and body (16) || body

The associated data names the place, so a frame that was moved, swapped or spliced does not open.
The nonce is a keyed hash of associated data and body: no two contents ever share one.
Source: docs/format.md, "Frames".
"""

from __future__ import annotations

import hmac
import struct
from enum import StrEnum

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from s3backfs.errors import IntegrityError
from s3backfs.format.codec import MAX_PLAIN_BYTES, compress, compress_patch, expand
from s3backfs.format.refs import FORMAT, MAGIC, Buffer, Kind

__all__ = [
    "AES_OVERHEAD_BYTES",
    "MAX_PLAIN_BYTES",
    "PLAIN_OVERHEAD_BYTES",
    "Encryption",
    "FrameCipher",
    "compress",
    "compress_patch",
    "frame_length",
    "open_frame",
    "seal_frame",
    "seal_into",
    "verify_frame",
]

NONCE_BYTES = 12
TAG_BYTES = 16
DIGEST_BYTES = 16

AES_OVERHEAD_BYTES = NONCE_BYTES + TAG_BYTES
"""What sealing adds to a body with AES-256-GCM."""

PLAIN_OVERHEAD_BYTES = DIGEST_BYTES
"""What sealing adds to a body without encryption."""

_COMPARED_BYTES = 64 * 1024

_PLACE = struct.Struct("<Q")


class Encryption(StrEnum):
    """How a repository protects its frames."""

    AES256_GCM = "aes256-gcm"
    NONE = "none"

    @property
    def overhead_bytes(self) -> int:
        """How much longer a frame is than its body."""
        return AES_OVERHEAD_BYTES if self is Encryption.AES256_GCM else PLAIN_OVERHEAD_BYTES


class FrameCipher:
    """Seals and opens the frames of one pack, or the one frame of a single object.

    Threads may share one. `place` is what the associated data says before the offset; a single
    object `has_offsets` not. `key` is None without encryption.
    """

    __slots__ = ("_aead", "_nonce_key", "_prefix", "encryption", "epoch", "has_offsets", "kind")

    def __init__(
        self, kind: Kind, place: bytes, epoch: int, key: bytes | None, *, has_offsets: bool
    ) -> None:
        self.kind = kind
        self.epoch = epoch
        self.has_offsets = has_offsets
        self._prefix = MAGIC + bytes((FORMAT, kind)) + place
        self._aead = None if key is None else AESGCM(key[:32])
        self._nonce_key = b"" if key is None else key[32:64]
        self.encryption = Encryption.NONE if key is None else Encryption.AES256_GCM

    def __repr__(self) -> str:
        return f"FrameCipher(kind={self.kind.name}, epoch={self.epoch})"

    def _associated(self, offset: int) -> bytes:
        return self._prefix + _PLACE.pack(offset) if self.has_offsets else self._prefix

    def seal_into(self, offset: int, body: Buffer, target: memoryview) -> None:
        """Write the frame of a body over `target`, which has just its length."""
        associated = self._associated(offset)
        if self._aead is None:
            target[:DIGEST_BYTES] = _digest(associated, body)
            target[DIGEST_BYTES:] = body
            return
        hasher = blake3(associated, key=self._nonce_key)
        nonce = hasher.update(body).digest(length=NONCE_BYTES)
        target[:NONCE_BYTES] = nonce
        self._aead.encrypt_into(nonce, body, associated, target[NONCE_BYTES:])

    def open(self, offset: int, frame: Buffer) -> Buffer:
        """Return the body of a frame.

        Raises:
            IntegrityError: it was not sealed for this place, or was damaged since.
        """
        if len(frame) <= self.encryption.overhead_bytes:
            raise IntegrityError("a frame is shorter than any can be")
        associated, view = self._associated(offset), memoryview(frame)
        if self._aead is None:
            body = view[DIGEST_BYTES:]
            if not hmac.compare_digest(_digest(associated, body), view[:DIGEST_BYTES]):
                raise IntegrityError("a frame does not match its digest")
            return body
        try:
            return self._aead.decrypt(view[:NONCE_BYTES], view[NONCE_BYTES:], associated)
        except InvalidTag as error:
            raise IntegrityError("a frame does not match its tag") from error


def _digest(associated: bytes, body: Buffer) -> bytes:
    return blake3(associated).update(body).digest(length=DIGEST_BYTES)


def frame_length(encryption: Encryption, body_length: int) -> int:
    """Return how long the frame of a body will be."""
    return body_length + encryption.overhead_bytes


def seal_into(cipher: FrameCipher, offset: int, body: Buffer, target: memoryview) -> None:
    """Seal a body for the place `offset` of its pack, into `target` of just the frame's length."""
    if len(target) != frame_length(cipher.encryption, len(body)):
        raise ValueError("the target has another length than the frame")
    cipher.seal_into(offset, body, target)


def seal_frame(cipher: FrameCipher, offset: int, body: Buffer) -> bytes:
    """Seal a body for the place `offset` of its pack."""
    target = bytearray(frame_length(cipher.encryption, len(body)))
    cipher.seal_into(offset, body, memoryview(target))
    return bytes(target)


def open_frame(
    cipher: FrameCipher, offset: int, frame: Buffer, plain_length: int, base: Buffer | None = None
) -> bytes:
    """Authenticate a frame and return its plaintext of `plain_length` bytes.

    Raises:
        IntegrityError: damaged, forged, or of another place or length; the caller adds where.
    """
    return expand(cipher.open(offset, frame), plain_length, base)


def verify_frame(
    cipher: FrameCipher, offset: int, frame: Buffer, plain: Buffer, base: Buffer | None = None
) -> None:
    """Open a frame that was just sealed, and compare.

    Raises:
        IntegrityError: it does not yield `plain`.
    """
    opened = open_frame(cipher, offset, frame, len(plain), base)
    if not _is_equal(opened, plain):
        raise IntegrityError("a frame that was just sealed opens to something else")


def _is_equal(data: bytes, other: Buffer) -> bool:
    """Compare by short copies: bytes compare at memcpy's speed, a memoryview byte by byte."""
    if isinstance(other, bytes):
        return data == other
    steps = range(0, len(data), _COMPARED_BYTES)
    return len(data) == len(other) and all(
        data[at : at + _COMPARED_BYTES] == bytes(other[at : at + _COMPARED_BYTES]) for at in steps
    )
