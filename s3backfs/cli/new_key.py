"""What a new key slot is to be opened with: read, made or asked for."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from s3backfs.config import Secret, StoreConfig
from s3backfs.errors import ConfigurationError

if TYPE_CHECKING:
    from s3backfs.format.slots import Cost
    from s3backfs.repository.new_keys import NewKey


@dataclass(frozen=True, slots=True)
class KeyChoice:
    """Which kind of slot was asked for; at most one of these is set, none means a passphrase."""

    label: str = ""
    is_recovery: bool = False
    is_raw: bool = False
    identity: Path | None = None
    generate_identity: bool = False
    kms_key: str | None = None
    cost: Cost | None = None

    def __post_init__(self) -> None:
        chosen = [self.is_recovery, self.is_raw, self.identity is not None, bool(self.kms_key)]
        if sum(chosen) > 1:
            raise ConfigurationError(
                "choose one of --recovery, --raw-key, --identity and --kms-key"
            )
        if self.generate_identity and self.identity is None:
            raise ConfigurationError("--generate makes an identity: say where with --identity FILE")
        if len(self.label) > 64 or not self.label.isprintable():
            raise ConfigurationError("--label has at most 64 characters, all printable")


async def make_new_key(choice: KeyChoice, config: StoreConfig, ask: Callable[[], Secret]) -> NewKey:
    """Read, make or ask for what was chosen; `ask` is called for a passphrase and a raw key.

    Raises:
        ConfigurationError: what was given is not of this kind.
        StoreError: the key management service refuses.
    """
    from s3backfs.format.words import RECOVERY_BYTES
    from s3backfs.key_service import new_kms_key
    from s3backfs.repository.new_keys import NewKey

    if choice.kms_key:
        return await new_kms_key(config, choice.kms_key, choice.label)
    if choice.is_recovery:
        return NewKey("recovery", secrets.token_bytes(RECOVERY_BYTES), choice.label)
    if choice.identity is not None:
        return NewKey("x25519", _identity(choice.identity, choice.generate_identity), choice.label)
    return read_new_key(ask().reveal(), choice)


def read_new_key(given: bytes, choice: KeyChoice) -> NewKey:
    """Take what was given as a passphrase, or as what it can only be meant as.

    Raises:
        ConfigurationError: it is no raw key and should be one; or it is a recovery key.
    """
    from s3backfs.format.unlocking import private_keys_of, read_raw
    from s3backfs.repository.new_keys import NewKey

    if choice.is_raw:
        raw = read_raw(given)
        if raw is None:
            raise ConfigurationError("a raw key is 64 hexadecimal digits")
        return NewKey("raw", raw, choice.label)
    known = private_keys_of(given)
    if "x25519" in known:
        return NewKey("x25519", known["x25519"], choice.label)
    if "recovery" in known:
        raise ConfigurationError("that is a recovery key: choose a passphrase of your own")
    return NewKey("argon2id", given, choice.label, choice.cost)


def _identity(path: Path, generate: bool) -> bytes:
    from s3backfs.format.words import read_identity

    try:
        if generate:
            return _generate(path)
        secret = read_identity(path.read_text())
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{path}: there is no such file; make one with --generate, or age-keygen -o {path}"
        ) from error
    except FileExistsError as error:
        raise ConfigurationError(
            f"{path}: there is a file already: use it without --generate, or name another"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: this is no identity file, but binary data") from error
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read or made: {error.strerror}") from error
    if secret is None:
        raise ConfigurationError(f"{path}: there is no line that begins with AGE-SECRET-KEY-1")
    return secret


def _generate(path: Path) -> bytes:
    from s3backfs.format.words import IDENTITY_BYTES, write_identity

    secret = secrets.token_bytes(IDENTITY_BYTES)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(write_identity(secret) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return secret
