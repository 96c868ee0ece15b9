"""Secrets that AWS's key management service encrypts and decrypts: small ones, for key slots.

Every secret is bound to one purpose (the encryption context), so that a blob of something else that
the same key has encrypted can not be passed off as one of a slot.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import trio
from botocore.config import Config
from botocore.exceptions import ClientError

from s3backfs.errors import ConfigurationError, RefusedError, StoreError
from s3backfs.store.s3_errors import LIBRARY_ERRORS, Place, one_line, translate
from s3backfs.store.s3_session import new_session

_CONTEXT = {"s3backfs": "key slot"}
_TIMEOUT_S = 15.0

_OTHER_KEY = "the slot was made by another key, or is damaged: check the key"
_WRONG_KEYS = "check the access key, the secret key and the profile"
_REMEDIES = {
    "AccessDeniedException": "these credentials may not use the key: they need kms:Encrypt to make "
    "a slot and kms:Decrypt to open one",
    "DisabledException": "enable the key",
    "ExpiredTokenException": "get new temporary credentials",
    "IncompleteSignature": _WRONG_KEYS,
    "IncorrectKeyException": _OTHER_KEY,
    "InvalidCiphertextException": _OTHER_KEY,
    "InvalidClientTokenId": _WRONG_KEYS,
    "InvalidKeyUsageException": "it takes a symmetric key that encrypts and decrypts",
    "InvalidSignatureException": _WRONG_KEYS,
    "KMSInvalidStateException": "it cannot be used in its state: it may be about to be deleted",
    "NotFoundException": "there is no such key here: check its ARN and the region",
    "UnrecognizedClientException": _WRONG_KEYS,
}
_CLOCK = re.compile("signature (expired|not yet current)", re.I)


@dataclass(frozen=True, slots=True)
class KmsSettings:
    """Which key, and how to reach it; None leaves a choice to boto3's configuration."""

    key: str
    """An ARN, an id or an alias. With an ARN its region is the one that counts."""
    region: str | None = None
    profile: str | None = None
    ca_bundle: str | None = None
    credentials_file: str | None = None


@dataclass(frozen=True, slots=True)
class Encrypted:
    """A secret that was encrypted, and the ARN of the key."""

    blob: bytes
    key: str


async def encrypt(settings: KmsSettings, secret: bytes) -> Encrypted:
    """Encrypt a secret of at most 4,096 bytes.

    Raises:
        ConfigurationError: the settings do not make a client.
        StoreError: refused, no such key, or unreachable.
    """
    answer = await _ask(settings, "encrypt", Plaintext=secret)
    return Encrypted(bytes(answer["CiphertextBlob"]), str(answer["KeyId"]))


async def decrypt(settings: KmsSettings, blob: bytes) -> bytes:
    """Decrypt what `encrypt` made with this key; errors as of `encrypt`."""
    return bytes((await _ask(settings, "decrypt", CiphertextBlob=blob))["Plaintext"])


async def _ask(settings: KmsSettings, verb: str, **arguments: bytes) -> dict[str, Any]:
    return await trio.to_thread.run_sync(
        lambda: _ask_blocking(settings, verb, arguments), abandon_on_cancel=True
    )


def _ask_blocking(settings: KmsSettings, verb: str, arguments: dict[str, bytes]) -> dict[str, Any]:
    place = Place("the key management service", settings.key)
    try:
        client = _client(settings)
        place = Place(client.meta.endpoint_url, settings.key)
        answer: dict[str, Any] = getattr(client, verb)(
            KeyId=settings.key, EncryptionContext=_CONTEXT, **arguments
        )
    except LIBRARY_ERRORS as error:
        raise _explain(error, place) from error
    except ValueError as error:
        raise ConfigurationError("the settings for the key management service do not work") from (
            error
        )
    return answer


def _client(settings: KmsSettings) -> Any:
    parts = settings.key.split(":")
    region = parts[3] if parts[0] == "arn" and len(parts) > 5 else settings.region
    session = new_session(
        profile=settings.profile, region=region, credentials_file=settings.credentials_file
    )
    config = Config(
        connect_timeout=_TIMEOUT_S,
        read_timeout=_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": 3},
    )
    return session.client("kms", verify=settings.ca_bundle, config=config)


def _explain(error: BaseException, place: Place) -> StoreError:
    """Say what the service said, and what to do; it has codes of its own, all with status 400."""
    prefix = f"KMS key {place.bucket}:"
    if isinstance(error, ClientError):
        told: Any = error.response.get("Error", {})
        code, message = (one_line(str(told.get(name) or "")) for name in ("Code", "Message"))
        remedy = "set this machine's clock right" if _CLOCK.search(message) else _REMEDIES.get(code)
        if remedy is not None:
            said = f"{code} ({message})" if message else code
            return RefusedError(f"{prefix} {place.endpoint} refused: {said}; {remedy}")
    found = translate(error, place)
    return type(found)(f"{prefix} {found}")
