"""Encryption by the server: the headers that ask for it, added to each request that takes them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s3backfs.errors import ConfigurationError

CUSTOMER_KEY_BYTES = 32

_WRITES = ("PutObject", "CreateMultipartUpload", "CopyObject")
_WITH_CUSTOMER_KEY = (*_WRITES, "GetObject", "HeadObject", "UploadPart")


@dataclass(frozen=True, slots=True)
class ServerEncryption:
    """What the server shall do beside what this program does: at most one of the two."""

    mode: str | None = None
    """`AES256`, `aws:kms` (the bucket's default key), `aws:kms:KEY`, or `none`; None takes the
    endpoint's default."""
    customer_key: bytes | None = field(default=None, repr=False)
    """SSE-C: the server uses this key and forgets it."""

    def __post_init__(self) -> None:
        mode = self.mode
        if not re.fullmatch("none|AES256|aws:kms(:.+)?", mode or "none"):
            raise ConfigurationError(f"--sse {mode!r}: write AES256, aws:kms, aws:kms:KEY or none")
        if mode not in (None, "none") and self.customer_key is not None:
            raise ConfigurationError("take one of --sse and --sse-c-key-file")

    def towards(self, *, is_amazon: bool) -> ServerEncryption:
        """Say what to ask of an endpoint: where nothing was chosen, Amazon encrypts by SSE-S3."""
        if self.mode is not None or self.customer_key is not None or not is_amazon:
            return self
        return ServerEncryption("AES256")


def read_customer_key(path: Path) -> bytes:
    """Read the key of SSE-C: 32 bytes, as they are or as 64 hexadecimal digits.

    Raises:
        ConfigurationError: it cannot be read, or is no such key.
    """
    try:
        data = path.read_bytes()
        key = data if len(data) == CUSTOMER_KEY_BYTES else bytes.fromhex(data.decode("ascii"))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except ValueError:
        key = b""
    if len(key) != CUSTOMER_KEY_BYTES:
        raise ConfigurationError(f"{path}: a key of SSE-C has 32 bytes, or 64 hexadecimal digits")
    return key


def parameters_for(operation: str, encryption: ServerEncryption) -> dict[str, Any]:
    """Return what boto3's call of an operation takes besides; a pure function."""
    added: dict[str, Any] = {}
    if encryption.mode not in (None, "none") and operation in _WRITES:
        added["ServerSideEncryption"] = encryption.mode[:7]
        if encryption.mode[8:]:
            added["SSEKMSKeyId"] = encryption.mode[8:]
    if encryption.customer_key is not None and operation in _WITH_CUSTOMER_KEY:
        added |= {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": encryption.customer_key}
        if operation == "CopyObject":
            added |= {f"CopySource{name}": value for name, value in added.items()}
    return added


def register(client: Any, encryption: ServerEncryption) -> None:
    """Make a boto3 client ask for it; each request is completed before it is checked and signed."""
    for operation in _WITH_CUSTOMER_KEY:
        added = parameters_for(operation, encryption)
        if added:
            client.meta.events.register(f"provide-client-params.s3.{operation}", _adder(added))


def _adder(added: dict[str, Any]) -> Any:
    def add(params: dict[str, Any], **_: object) -> dict[str, Any]:
        return params | added

    return add
