"""Names of backups as parts of object keys.

Encrypted repositories: AES-SIV of the name, in base32, so that the bucket's owner learns lengths
only. Others: percent-quoting, so that a person can read them.
Source: docs/format.md, "Names of backups"; RFC 5297, RFC 4648 section 6, RFC 3986 section 2.1.
"""

from __future__ import annotations

import base64
import binascii
import errno
import re
from contextlib import suppress
from urllib.parse import quote_from_bytes, unquote_to_bytes

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from s3backfs.errors import FileSystemError, IntegrityError

KEY_PART_MAX_BYTES = 255
_SIV_BYTES = 16
_ASSOCIATED = b"s3bk backup name"
_QUOTED = re.compile(r"(?:[A-Za-z0-9_~.-]|%[0-9A-F]{2}){1,255}", re.ASCII)
_BASE32 = re.compile(r"[a-z2-7]{1,255}", re.ASCII)


def _is_name(name: bytes) -> bool:
    return name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name


def _checked(name: bytes, text: str) -> str:
    if not _is_name(name):
        raise FileSystemError(errno.EINVAL)
    if len(text) > KEY_PART_MAX_BYTES:
        raise FileSystemError(errno.ENAMETOOLONG)
    return text


def quote_name(name: bytes) -> str:
    """Write a name in percent-quoting; only letters, digits and `_.-~` stand for themselves.

    A dot at the beginning is quoted too: hidden files are not for backups.
    """
    text = quote_from_bytes(name, safe="")
    return _checked(name, "%2E" + text[1:] if text.startswith(".") else text)


def unquote_name(text: str) -> bytes:
    """Read what `quote_name` wrote.

    Raises:
        IntegrityError: it would have been written otherwise.
    """
    if _QUOTED.fullmatch(text):
        name = unquote_to_bytes(text)
        # A dot in front that is not quoted may not fit once it is.
        with suppress(FileSystemError):
            if quote_name(name) == text:
                return name
    raise IntegrityError("this is not the name of a backup")


def write_encrypted(cipher: AESSIV, name: bytes) -> str:
    """Write a name encrypted: the same name gives the same text."""
    sealed = cipher.encrypt(name, [_ASSOCIATED]) if name else b""
    return _checked(name, base64.b32encode(sealed).decode("ascii").rstrip("=").lower())


def read_encrypted(cipher: AESSIV, text: str) -> bytes:
    """Read what `write_encrypted` wrote.

    Raises:
        IntegrityError: it was written with another key, or damaged.
    """
    try:
        name = cipher.decrypt(_from_base32(text), [_ASSOCIATED])
    except (InvalidTag, ValueError) as error:
        raise IntegrityError("this is not the name of a backup") from error
    if not _is_name(name) or write_encrypted(cipher, name) != text:
        raise IntegrityError("this is not the name of a backup")
    return name


def _from_base32(text: str) -> bytes:
    if not _BASE32.fullmatch(text):
        raise ValueError("not base32")
    try:
        sealed = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except binascii.Error as error:
        raise ValueError("not base32") from error
    if len(sealed) <= _SIV_BYTES:
        raise ValueError("too short")
    return sealed
