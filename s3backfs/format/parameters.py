"""repository.json: what a repository is, and which masters it has.

Source: docs/format.md, "repository.json".
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from msgspec import Meta

from s3backfs.errors import IntegrityError, UnsupportedFormatError
from s3backfs.format.canonical import (
    PRODUCT,
    convert,
    decode_json,
    encode_json,
    from_base64,
    to_base64,
)
from s3backfs.format.frame import Encryption
from s3backfs.format.keys import MASTER_BYTES, Keyring, derive
from s3backfs.format.refs import FORMAT, U32, U63

REPOSITORY_KEY = "repository.json"
KNOWN_FEATURES: frozenset[str] = frozenset()
"""Features that this program can do; a repository that requires another is refused."""

MAX_EPOCHS = 1024
_WRAPPED_BYTES = 16 + MASTER_BYTES

KIB = 1024
MIB = 1024 * 1024


class ChunkBounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long content-defined chunks are. Only writers need it."""

    average_bytes: Annotated[int, Meta(ge=4 * KIB, le=16 * MIB)]
    max_bytes: Annotated[int, Meta(ge=4 * KIB, le=64 * MIB)]
    min_bytes: Annotated[int, Meta(ge=64, le=16 * MIB)]

    @classmethod
    def around(cls, average_bytes: int = MIB) -> ChunkBounds:
        """Bounds for chunks of about `average_bytes`."""
        return cls(average_bytes, average_bytes * 4, average_bytes // 4)


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a repository is: chosen when it is made, the same for everybody who uses it."""

    encryption: Encryption
    compression_level: int | None = 3
    """zstd's level for new chunks; None stores them as they are."""
    chunk_bounds: ChunkBounds = field(default_factory=ChunkBounds.around)
    pack_bytes: int = 64 * MIB
    created_s: int = 0
    """Seconds since 1970."""

    @property
    def chunk_bytes(self) -> int:
        """Average length of a chunk."""
        return self.chunk_bounds.average_bytes


class _Older(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    epoch: U32
    wrapped: str


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    product: Literal["s3backfs"]
    format: Literal[1]
    repository: Annotated[str, Meta(pattern="^[0-9a-f]{32}$", max_length=32)]
    created_s: U63
    encryption: Encryption
    compression_level: Annotated[int, Meta(ge=1, le=22)] | None
    chunk_bounds: ChunkBounds
    pack_bytes: Annotated[int, Meta(ge=64 * KIB, le=1024 * MIB)]
    epoch: U32
    older: Annotated[list[_Older], Meta(max_length=MAX_EPOCHS)]
    requires: list[str]
    master: str | None
    mac: Annotated[str, Meta(pattern="^[0-9a-f]{64}$", max_length=64)]


@dataclass(frozen=True, slots=True)
class Locked:
    """A repository.json that was read and is not verified yet: it takes a master to do that."""

    parameters: Parameters
    repository_id: bytes
    epoch: int
    """The newest epoch."""
    _fields: Mapping[str, Any]
    _older: tuple[tuple[int, bytes], ...]
    _clear_master: bytes | None

    def __repr__(self) -> str:
        return f"Locked({self.repository_id.hex()}, {self.parameters})"

    @property
    def is_encrypted(self) -> bool:
        """Whether a key slot is needed."""
        return self._clear_master is None

    def is_newest(self, master: bytes) -> bool:
        """Whether a master is the one that repository.json was written with."""
        return hmac.compare_digest(str(self._fields["mac"]), _mac(self._fields, master))

    def unlock(self, epoch: int, master: bytes) -> Keyring:
        """Verify everything with the newest master, and return all masters.

        Raises:
            IntegrityError: the master is not of this repository, or the object was changed.
        """
        if epoch != self.epoch:
            raise _damaged(f"the newest key is of epoch {self.epoch}, the slot's of {epoch}")
        if not self.is_newest(master):
            raise _damaged("it was changed, or its key slot is of another repository")
        keyring = Keyring(self.parameters.encryption, self._all_masters(master))
        if keyring.repository_id != self.repository_id:
            raise _damaged("it has another id than its key says")
        return keyring

    def unlock_clear(self) -> Keyring:
        """Verify a repository without encryption; errors as of `unlock`."""
        if self._clear_master is None:
            raise _damaged("it needs a key")
        return self.unlock(self.epoch, self._clear_master)

    def _all_masters(self, newest: bytes) -> dict[int, bytes]:
        masters = {self.epoch: newest}
        for epoch, wrapped in sorted(self._older, reverse=True):
            masters[epoch] = unwrap_master(masters.get(epoch + 1, b""), epoch, wrapped)
        if 0 not in masters:
            raise _damaged("the key of epoch 0 is not there")
        return masters


def _damaged(text: str) -> IntegrityError:
    return IntegrityError(f"the object is damaged: {text}", key=REPOSITORY_KEY)


# -- masters of older epochs -------------------------------------------------------------------


def _wrapping(newer: bytes, epoch: int) -> tuple[AESSIV, list[bytes]]:
    return AESSIV(derive(newer, b"s3backfs 1 older master", 64)), [epoch.to_bytes(4, "little")]


def wrap_master(newer: bytes, epoch: int, master: bytes) -> bytes:
    """Wrap the master of an epoch by that of the next one."""
    cipher, associated = _wrapping(newer, epoch)
    return cipher.encrypt(master, associated)


def unwrap_master(newer: bytes, epoch: int, wrapped: bytes) -> bytes:
    """Undo `wrap_master`.

    Raises:
        IntegrityError: it was wrapped by another key, or for another epoch.
    """
    if not newer:
        raise _damaged("the chain of older keys has a gap")
    cipher, associated = _wrapping(newer, epoch)
    try:
        return cipher.decrypt(wrapped, associated)
    except InvalidTag as error:
        raise _damaged("the key of an older epoch does not open") from error


def _mac(fields: Mapping[str, Any], master: bytes) -> str:
    signed = {name: value for name, value in fields.items() if name != "mac"}
    return blake3(encode_json(signed), key=derive(master, b"s3backfs 1 parameters", 32)).hexdigest()


# -- the object -------------------------------------------------------------------------------


def encode_parameters(parameters: Parameters, keyring: Keyring) -> bytes:
    """Write repository.json, authenticated by the newest master."""
    newest = keyring.master(keyring.epoch)
    is_clear = parameters.encryption is Encryption.NONE
    fields: dict[str, Any] = {
        "product": PRODUCT,
        "format": FORMAT,
        "repository": keyring.repository_id.hex(),
        "created_s": parameters.created_s,
        "encryption": str(parameters.encryption),
        "compression_level": parameters.compression_level,
        "chunk_bounds": msgspec.to_builtins(parameters.chunk_bounds),
        "pack_bytes": parameters.pack_bytes,
        "epoch": keyring.epoch,
        "older": [_older_row(keyring, epoch) for epoch in range(keyring.epoch)],
        "requires": [],
        "master": to_base64(newest) if is_clear else None,
    }
    return encode_json(fields | {"mac": _mac(fields, newest)})


def _older_row(keyring: Keyring, epoch: int) -> dict[str, Any]:
    wrapped = wrap_master(keyring.master(epoch + 1), epoch, keyring.master(epoch))
    return {"epoch": epoch, "wrapped": to_base64(wrapped)}


def decode_parameters(data: bytes) -> Locked:
    """Read repository.json; nothing in it is to be believed before it is unlocked.

    Raises:
        UnsupportedFormatError: a newer program wrote it, or it requires what is not known here.
        IntegrityError: it is damaged, or not of s3backfs.
    """
    try:
        return _decode(data)
    except IntegrityError as error:
        raise IntegrityError(error.message, key=REPOSITORY_KEY) from error


def _decode(data: bytes) -> Locked:
    fields = decode_json(data)
    _check_features(fields.get("requires"))
    file = convert(fields, _File)
    if (file.master is None) == (file.encryption is Encryption.NONE):
        raise _damaged("its encryption does not fit its key")
    return Locked(
        parameters=Parameters(
            encryption=file.encryption,
            compression_level=file.compression_level,
            chunk_bounds=file.chunk_bounds,
            pack_bytes=file.pack_bytes,
            created_s=file.created_s,
        ),
        repository_id=bytes.fromhex(file.repository),
        epoch=file.epoch,
        _fields=fields,
        _older=tuple((row.epoch, from_base64(row.wrapped, _WRAPPED_BYTES)) for row in file.older),
        _clear_master=None if file.master is None else from_base64(file.master, MASTER_BYTES),
    )


def _check_features(required: object) -> None:
    if not isinstance(required, list):
        raise IntegrityError("the object is damaged: it does not say what it requires")
    unknown = {str(feature) for feature in required} - KNOWN_FEATURES
    if unknown:
        raise UnsupportedFormatError(
            f"the repository requires {', '.join(sorted(unknown))!a}, which this program does not"
            " know: use a newer s3backfs"
        )
