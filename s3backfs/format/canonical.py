"""The two objects that are JSON, in the one form that is accepted.

Canonical: ASCII, keys sorted, no white space, no floats, one newline at the end. Whatever differs
in a byte was damaged.
Source: docs/format.md, "JSON objects".
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, TypeVar

import msgspec

from s3backfs.errors import IntegrityError, UnsupportedFormatError
from s3backfs.format.refs import FORMAT

PRODUCT = "s3backfs"
MAX_JSON_BYTES = 256 * 1024

T = TypeVar("T")


def encode_json(value: dict[str, Any]) -> bytes:
    """Write the canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return text.encode("ascii") + b"\n"


def decode_json(data: bytes) -> dict[str, Any]:
    """Read the canonical form of an object of s3backfs.

    Raises:
        UnsupportedFormatError: a newer program wrote it.
        IntegrityError: anything else.
    """
    if len(data) > MAX_JSON_BYTES:
        raise IntegrityError("the object is longer than any can be")
    try:
        value = json.loads(data.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise IntegrityError("the object is no JSON: it is damaged or not of s3backfs") from error
    if not isinstance(value, dict) or value.get("product") != PRODUCT:
        raise IntegrityError("the object is damaged or not of s3backfs")
    version = value.get("format")
    if type(version) is int and version > FORMAT:
        raise UnsupportedFormatError(
            f"the repository has format {version}, and this program knows format {FORMAT}:"
            " use a newer s3backfs"
        )
    if version != FORMAT or _canonical(value) != data:
        raise IntegrityError("the object is damaged: it is not in canonical form")
    return value


def _canonical(value: dict[str, Any]) -> bytes:
    try:
        # Half of a surrogate pair is valid JSON, and no text that anything can print or encode.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
        return encode_json(value)
    except (ValueError, RecursionError) as error:
        raise IntegrityError("the object is damaged: it is not in canonical form") from error


def convert(value: dict[str, Any], struct: type[T]) -> T:
    """Make a struct of what was read.

    Raises:
        IntegrityError: fields are missing, unknown or out of bounds.
    """
    try:
        return msgspec.convert(value, struct)
    except (msgspec.ValidationError, ValueError, OverflowError) as error:
        raise IntegrityError(f"the object is damaged: {error}") from error


def to_base64(data: bytes) -> str:
    """Write bytes as a JSON string."""
    return base64.b64encode(data).decode("ascii")


def from_base64(text: str, length: int) -> bytes:
    """Read bytes of a known length.

    Raises:
        IntegrityError: another length or form.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise IntegrityError("the object is damaged: it holds bytes that are not base64") from error
    if len(data) != length or to_base64(data) != text:
        raise IntegrityError("the object is damaged: it holds bytes of another length")
    return data
