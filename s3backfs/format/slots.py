"""Key slots: the master key of a repository, wrapped by something a person has.

A passphrase slot holds a commitment to the stretched passphrase, so that a wrong passphrase is told
from damage before anything is decrypted, and bounds on what stretching may cost, so that a hostile
bucket can not exhaust a client.
Source: docs/format.md, "Key slots"; RFC 9106 (Argon2id).
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from argon2.exceptions import HashingError
from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Meta

from s3backfs.errors import IntegrityError, RepositoryError, UnsupportedFormatError, WrongKeyError
from s3backfs.format.canonical import (
    PRODUCT,
    convert,
    decode_json,
    encode_json,
    from_base64,
    to_base64,
)
from s3backfs.format.keys import MASTER_BYTES, derive
from s3backfs.format.refs import FORMAT, ID_BYTES, U32

MAX_SLOTS = 32
MAX_MEMORY_KIB = 1024 * 1024
MAX_PASSES = 16
MAX_LANES = 16
SALT_BYTES = 16
COMMITMENT_BYTES = 32

PASSPHRASE = "passphrase"

_NONCE_BYTES = 12
_TAG_BYTES = 16
_WRAPPED_BYTES = _NONCE_BYTES + MASTER_BYTES + _TAG_BYTES

HexId = Annotated[str, Meta(pattern="^[0-9a-f]{32}$", max_length=32)]


class Cost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stretching a passphrase costs with Argon2id."""

    lanes: Annotated[int, Meta(ge=1, le=MAX_LANES)]
    memory_kib: Annotated[int, Meta(ge=8, le=MAX_MEMORY_KIB)]
    passes: Annotated[int, Meta(ge=1, le=MAX_PASSES)]


DEFAULT_COST = Cost(lanes=4, memory_kib=64 * 1024, passes=3)


class _Slot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    product: Literal["s3backfs"]
    format: Literal[1]
    kind: Literal["passphrase"]
    id: HexId
    repository: HexId
    epoch: U32
    argon2id: Cost
    salt: str
    commitment: str
    wrapped: str
    digest: str


@dataclass(frozen=True, slots=True)
class Unlocked:
    """What a slot gave away: the master key of one epoch. Its repr shows nothing of it."""

    slot_key: str
    epoch: int
    master: bytes

    def __repr__(self) -> str:
        return f"Unlocked({self.slot_key!r}, epoch={self.epoch})"


def slot_key(slot_id: bytes) -> str:
    """Return the object key of a slot."""
    return f"keys/{slot_id.hex()}.json"


# -- writing ----------------------------------------------------------------------------------


def seal_slot(
    passphrase: bytes, repository_id: bytes, epoch: int, master: bytes, cost: Cost | None = None
) -> tuple[str, bytes]:
    """Wrap a master key by a passphrase; return the slot's object key and bytes. Takes long.

    Raises:
        RepositoryError: there is not enough memory for the cost.
    """
    slot_id, salt = secrets.token_bytes(ID_BYTES), secrets.token_bytes(SALT_BYTES)
    nonce = secrets.token_bytes(_NONCE_BYTES)
    chosen = cost or DEFAULT_COST
    key, commitment = stretch(passphrase, salt, chosen)
    head: dict[str, Any] = {
        "product": PRODUCT,
        "format": FORMAT,
        "kind": PASSPHRASE,
        "id": slot_id.hex(),
        "repository": repository_id.hex(),
        "epoch": epoch,
        "argon2id": msgspec.to_builtins(chosen),
        "salt": to_base64(salt),
        "commitment": to_base64(commitment),
    }
    wrapped = nonce + AESGCM(key).encrypt(nonce, master, encode_json(head))
    whole = head | {"wrapped": to_base64(wrapped)}
    return slot_key(slot_id), encode_json(whole | {"digest": slot_digest(whole)})


def stretch(passphrase: bytes, salt: bytes, cost: Cost) -> tuple[bytes, bytes]:
    """Return the wrapping key and the commitment of a passphrase. Takes long; frees the GIL.

    Raises:
        RepositoryError: there is not enough memory.
        IntegrityError: Argon2 knows no such cost.
    """
    stretched = stretch_secret(passphrase, salt, cost)
    key = derive(stretched, b"s3backfs 1 slot key", 32)
    return key, derive(stretched, b"s3backfs 1 slot commitment", COMMITMENT_BYTES)


def stretch_secret(passphrase: bytes, salt: bytes, cost: Cost) -> bytes:
    """Return what Argon2id makes of a passphrase, 32 bytes; errors as of `stretch`."""
    if cost.memory_kib < 8 * cost.lanes:
        raise IntegrityError("a key slot is damaged: Argon2 knows no such cost")
    try:
        return hash_secret_raw(
            passphrase, salt, cost.passes, cost.memory_kib, cost.lanes, 32, Type.ID, 19
        )
    except HashingError as error:
        raise RepositoryError(
            f"the passphrase cannot be checked: {error}"
            f" ({cost.memory_kib} KiB of memory are needed)"
        ) from error


def slot_digest(fields: Mapping[str, Any]) -> str:
    return blake3(encode_json(dict(fields))).hexdigest()


# -- reading ----------------------------------------------------------------------------------


def open_slot(key: str, data: bytes, passphrase: bytes) -> Unlocked:
    """Unwrap the master key of one slot that was stored under `key`. Takes long; frees the GIL.

    Raises:
        UnsupportedFormatError: a slot of another kind, or of a newer program.
        IntegrityError: it is damaged; found before the passphrase is used.
        WrongKeyError: this passphrase is not the slot's.
    """
    slot, associated = _read_slot(key, data)
    salt = from_base64(slot.salt, SALT_BYTES)
    commitment = from_base64(slot.commitment, COMMITMENT_BYTES)
    wrapped = from_base64(slot.wrapped, _WRAPPED_BYTES)
    wrapping_key, expected = stretch(passphrase, salt, slot.argon2id)
    if not hmac.compare_digest(commitment, expected):
        raise WrongKeyError("the passphrase is wrong")
    try:
        nonce, sealed = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
        master = AESGCM(wrapping_key).decrypt(nonce, sealed, associated)
    except InvalidTag as error:
        raise IntegrityError("the key slot was changed", key=key) from error
    return Unlocked(key, slot.epoch, master)


def _read_slot(key: str, data: bytes) -> tuple[_Slot, bytes]:
    try:
        fields = read_slot_fields(data)
        if fields.get("kind") != PASSPHRASE:
            raise UnsupportedFormatError(f"{key}: no slot for a passphrase")
        slot = convert(fields, _Slot)
    except IntegrityError as error:
        raise IntegrityError(error.message, key=key) from error
    if slot_key(bytes.fromhex(slot.id)) != key:
        raise IntegrityError("the key slot stands under another key than its own", key=key)
    head = {k: v for k, v in fields.items() if k not in ("digest", "wrapped")}
    return slot, encode_json(head)


def read_slot_fields(data: bytes) -> dict[str, Any]:
    """Read a slot's JSON and compare its digest.

    Raises:
        UnsupportedFormatError: of a newer program.
        IntegrityError: it is damaged.
    """
    fields = decode_json(data)
    if fields.get("digest") != slot_digest({k: v for k, v in fields.items() if k != "digest"}):
        raise IntegrityError("the key slot is damaged: it does not match its digest")
    return fields


def slot_repository(data: bytes) -> bytes | None:
    """Return the id of the repository that a slot says it belongs to; None where it cannot say."""
    try:
        return bytes.fromhex(str(read_slot_fields(data)["repository"]))
    except (IntegrityError, UnsupportedFormatError, KeyError, ValueError):
        return None


def slot_kind(data: bytes) -> str | None:
    """Return the kind that a slot says it is of; None where it cannot say."""
    try:
        return str(read_slot_fields(data).get("kind"))
    except (IntegrityError, UnsupportedFormatError):
        return None


def slot_place(data: bytes) -> tuple[bytes, int] | None:
    """Return repository id and epoch that a slot says it belongs to; None where it cannot say."""
    repository_id = slot_repository(data)
    epoch = None if repository_id is None else read_slot_fields(data).get("epoch")
    return (repository_id, epoch) if repository_id is not None and type(epoch) is int else None
