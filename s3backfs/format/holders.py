"""Key slots that are sealed to a public key, so that a rotation needs nobody's secret.

What a person holds (a passphrase, a recovery key, an identity file, a raw key, the use of a KMS
key) gives an X25519 key pair. The slot holds the public half, and the master sealed to it. Anybody
can seal to a public key; so a slot also has a proof that its holder once took it for this
repository, and a MAC under the master, without which no rotation keeps it.
Source: docs/format.md, "Slots of holders"; RFC 7748 (X25519).
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Meta

from s3backfs.errors import IntegrityError, UnsupportedFormatError, WrongKeyError
from s3backfs.format.canonical import PRODUCT, convert, encode_json, from_base64, to_base64
from s3backfs.format.keys import MASTER_BYTES, derive
from s3backfs.format.refs import FORMAT, ID_BYTES, U32, U63
from s3backfs.format.slots import (
    SALT_BYTES,
    Cost,
    HexId,
    Unlocked,
    read_slot_fields,
    slot_digest,
    slot_key,
    stretch_secret,
)

HolderKind: TypeAlias = Literal["argon2id", "kms", "raw", "recovery", "x25519"]
HOLDER_KINDS = frozenset(["argon2id", "kms", "raw", "recovery", "x25519"])

SECRET_BYTES = 32
MAX_LABEL_CHARACTERS = 64
_POINT_BYTES = 32
_WRAPPED_BYTES = MASTER_BYTES + 16
_PROOF_BYTES = 32
# The key of each slot is used once.
_NONCE = bytes(12)


class KmsBlob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A secret that a key management service has encrypted."""

    blob: Annotated[str, Meta(max_length=8192)]
    key: Annotated[str, Meta(max_length=2048)]
    """Name of the key: an ARN."""


class Holder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom a slot is for: all of it that stays the same when the master changes."""

    kind: HolderKind
    label: Annotated[str, Meta(max_length=MAX_LABEL_CHARACTERS)]
    created_s: U63
    recipient: str
    proof: str
    argon2id: Cost | None = None
    salt: str | None = None
    kms: KmsBlob | None = None


class _Slot(Holder, frozen=True, kw_only=True, forbid_unknown_fields=True):
    product: Literal["s3backfs"]
    format: Literal[1]
    id: HexId
    repository: HexId
    epoch: U32
    share: str
    wrapped: str
    mac: Annotated[str, Meta(pattern="^[0-9a-f]{64}$", max_length=64)]
    digest: str


@dataclass(frozen=True, slots=True)
class HolderSlot:
    """A slot that was read, of good form; nothing in it is proven yet."""

    key: str
    holder: Holder
    repository_id: bytes
    epoch: int
    _slot: _Slot
    _fields: Mapping[str, Any]


# -- holders ----------------------------------------------------------------------------------


def new_holder(
    kind: HolderKind,
    secret: bytes,
    repository_id: bytes,
    label: str,
    created_s: int,
    kms: KmsBlob | None = None,
) -> Holder:
    """Describe who has a secret of full strength."""
    private = private_key(kind, secret)
    return _describe(kind, private, repository_id, label, created_s, kms=kms)


def new_passphrase_holder(
    passphrase: bytes, repository_id: bytes, label: str, created_s: int, cost: Cost
) -> Holder:
    """Describe who knows a passphrase. Takes long; frees the GIL.

    Raises:
        RepositoryError: there is not enough memory for the cost.
    """
    salt = secrets.token_bytes(SALT_BYTES)
    private = private_key("argon2id", stretch_secret(passphrase, salt, cost))
    return _describe(
        "argon2id", private, repository_id, label, created_s, argon2id=cost, salt=to_base64(salt)
    )


def _describe(
    kind: HolderKind, private: bytes, repository_id: bytes, label: str, created_s: int, **more: Any
) -> Holder:
    return Holder(
        kind=kind,
        label=label,
        created_s=created_s,
        recipient=to_base64(_public_half(private)),
        proof=to_base64(_proof(private, repository_id)),
        **more,
    )


def private_key(kind: HolderKind, secret: bytes) -> bytes:
    """Derive the private half from what the holder has; an identity is one already."""
    if kind == "x25519":
        return secret
    return derive(secret, b"s3backfs 1 holder " + kind.encode("ascii"), SECRET_BYTES)


def stretch_for(slot: HolderSlot, passphrase: bytes) -> bytes:
    """Derive the private half from a passphrase. Takes long; frees the GIL.

    Raises:
        IntegrityError: the slot does not say how.
        RepositoryError: there is not enough memory.
    """
    cost, salt = slot.holder.argon2id, slot.holder.salt
    if cost is None or salt is None:
        raise IntegrityError("the key slot does not say how it was made", key=slot.key)
    stretched = stretch_secret(passphrase, from_base64(salt, SALT_BYTES), cost)
    return private_key("argon2id", stretched)


def _public_half(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def _proof(private: bytes, repository_id: bytes) -> bytes:
    key = derive(private, b"s3backfs 1 holder proof", 32)
    return blake3(_public_half(private) + repository_id, key=key).digest(length=_PROOF_BYTES)


# -- writing ----------------------------------------------------------------------------------


def seal_to_holder(
    holder: Holder, repository_id: bytes, epoch: int, master: bytes
) -> tuple[str, bytes]:
    """Seal a master to somebody; return the object key and the bytes of a new slot."""
    slot_id = secrets.token_bytes(ID_BYTES)
    recipient = from_base64(holder.recipient, _POINT_BYTES)
    once = X25519PrivateKey.generate()
    share = once.public_key().public_bytes_raw()
    head = msgspec.to_builtins(holder) | {
        "product": PRODUCT,
        "format": FORMAT,
        "id": slot_id.hex(),
        "repository": repository_id.hex(),
        "epoch": epoch,
        "share": to_base64(share),
    }
    key = _sealing_key(_exchange(once, recipient), share, recipient)
    wrapped = AESGCM(key).encrypt(_NONCE, master, encode_json(head))
    signed = head | {"wrapped": to_base64(wrapped)}
    whole = signed | {"mac": _mac(signed, master)}
    return slot_key(slot_id), encode_json(whole | {"digest": slot_digest(whole)})


def _exchange(private: X25519PrivateKey, public: bytes) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise IntegrityError("a key slot holds no point of the curve") from error


def _sealing_key(shared: bytes, share: bytes, recipient: bytes) -> bytes:
    return derive(shared, b"s3backfs 1 holder seal", 32, salt=share + recipient)


def _mac(fields: Mapping[str, Any], master: bytes) -> str:
    return blake3(
        encode_json(dict(fields)), key=derive(master, b"s3backfs 1 slot mac", 32)
    ).hexdigest()


# -- reading ----------------------------------------------------------------------------------


def read_holder_slot(key: str, data: bytes) -> HolderSlot:
    """Read a slot that was stored under `key`.

    Raises:
        UnsupportedFormatError: a slot of another kind, or of a newer program.
        IntegrityError: it is damaged.
    """
    try:
        fields = read_slot_fields(data)
        if str(fields.get("kind")) not in HOLDER_KINDS:
            raise UnsupportedFormatError(f"{key}: a key slot of an unknown kind")
        slot = convert(fields, _Slot)
        from_base64(slot.recipient, _POINT_BYTES)
        from_base64(slot.share, _POINT_BYTES)
        from_base64(slot.wrapped, _WRAPPED_BYTES)
    except IntegrityError as error:
        raise IntegrityError(error.message, key=key) from error
    if slot_key(bytes.fromhex(slot.id)) != key:
        raise IntegrityError("the key slot stands under another key than its own", key=key)
    holder = Holder(**{name: getattr(slot, name) for name in Holder.__struct_fields__})
    return HolderSlot(key, holder, bytes.fromhex(slot.repository), slot.epoch, slot, fields)


def open_holder_slot(slot: HolderSlot, private: bytes) -> Unlocked:
    """Unseal the master of a slot.

    Raises:
        WrongKeyError: the slot is for somebody else.
        IntegrityError: it is damaged, or was made by one who had no right to.
    """
    recipient = from_base64(slot.holder.recipient, _POINT_BYTES)
    if not hmac.compare_digest(recipient, _public_half(private)):
        raise WrongKeyError("the passphrase is wrong")
    proof = from_base64(slot.holder.proof, _PROOF_BYTES)
    if not hmac.compare_digest(proof, _proof(private, slot.repository_id)):
        raise IntegrityError("the key slot was made for another repository", key=slot.key)
    master = _unseal(slot, private, recipient)
    if not is_made_with(slot, master):
        raise IntegrityError("the key slot was changed", key=slot.key)
    return Unlocked(slot.key, slot.epoch, master)


def _unseal(slot: HolderSlot, private: bytes, recipient: bytes) -> bytes:
    share = from_base64(slot._slot.share, _POINT_BYTES)
    shared = _exchange(X25519PrivateKey.from_private_bytes(private), share)
    head = {k: v for k, v in slot._fields.items() if k not in ("digest", "mac", "wrapped")}
    wrapped = from_base64(slot._slot.wrapped, _WRAPPED_BYTES)
    try:
        return AESGCM(_sealing_key(shared, share, recipient)).decrypt(
            _NONCE, wrapped, encode_json(head)
        )
    except InvalidTag as error:
        raise IntegrityError("the key slot was changed", key=slot.key) from error


def is_made_with(slot: HolderSlot, master: bytes) -> bool:
    """Whether who made a slot had this master: only such slots outlive a rotation."""
    signed = {k: v for k, v in slot._fields.items() if k not in ("digest", "mac")}
    return hmac.compare_digest(slot._slot.mac, _mac(signed, master))
