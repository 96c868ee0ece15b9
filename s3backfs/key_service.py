"""The key management service as the rest of the program asks it: only with a key that is trusted.

Whoever writes to the bucket could put a slot there that leads to a key of their own; so a machine
says by S3BACKFS_KMS_KEY which one it means.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from typing import TYPE_CHECKING

from s3backfs.config import StoreConfig
from s3backfs.format.holders import SECRET_BYTES, KmsBlob
from s3backfs.repository.new_keys import NewKey
from s3backfs.repository.opening import Unwrap

if TYPE_CHECKING:
    from s3backfs.store.kms import KmsSettings


def unwrapper(config: StoreConfig) -> Unwrap | None:
    """Return what decrypts the secrets of slots; None where no key is trusted."""
    if config.kms_key is None:
        return None
    key = config.kms_key

    async def unwrap(blob: bytes) -> bytes:
        from s3backfs.store.kms import decrypt  # slow to import

        return await decrypt(_settings(config, key), blob)

    return unwrap


async def new_kms_key(config: StoreConfig, key: str, label: str = "") -> NewKey:
    """Let the service encrypt the secret of a new slot.

    Raises:
        StoreError: refused, no such key, or unreachable.
    """
    from s3backfs.store.kms import encrypt  # slow to import

    secret = secrets.token_bytes(SECRET_BYTES)
    encrypted = await encrypt(_settings(config, key), secret)
    blob = KmsBlob(blob=b64encode(encrypted.blob).decode("ascii"), key=encrypted.key)
    return NewKey("kms", secret, label, kms=blob)


def _settings(config: StoreConfig, key: str) -> KmsSettings:
    from s3backfs.store.kms import KmsSettings

    return KmsSettings(
        key, config.region, config.profile, config.ca_bundle, config.credentials_file
    )
