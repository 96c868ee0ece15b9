"""What a repository URL means."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote, unquote_to_bytes

from s3backfs.errors import ConfigurationError

LONGEST_PREFIX_BYTES = 512
"""Leaves the other half of S3's longest key to the repository's own keys."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_EXAMPLES = "write s3://bucket/prefix or file:///directory"


@dataclass(frozen=True, slots=True)
class S3Location:
    """A bucket and a prefix in it; the prefix has no `/` at its ends and may be empty."""

    bucket: str
    prefix: str = ""

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"


@dataclass(frozen=True, slots=True)
class LocalLocation:
    """An absolute directory of this machine."""

    directory: Path

    @property
    def url(self) -> str:
        return "file://" + quote(os.fsencode(self.directory))


Location: TypeAlias = S3Location | LocalLocation


def parse_url(url: str) -> Location:
    """Read `s3://bucket[/prefix]` or `file:///directory` (percent-encoded, as in a browser).

    Raises:
        ConfigurationError: anything else; the text does not repeat what may be a password.
    """
    scheme, separator, rest = url.partition("://")
    match scheme.lower() if separator else "":
        case "s3":
            return _parse_s3(rest)
        case "file":
            return _parse_file(rest)
        case "http" | "https":
            raise ConfigurationError(
                f"a repository is not named by {scheme}://; write s3://bucket/prefix and give the "
                f"server by --endpoint-url or AWS_ENDPOINT_URL"
            )
        case "":
            raise ConfigurationError(f"{url!r} is no repository URL; {_EXAMPLES}")
        case _:
            raise ConfigurationError(f"{scheme}:// is not known; {_EXAMPLES}")


def _parse_s3(rest: str) -> S3Location:
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket or ":" in bucket:
        raise ConfigurationError(
            "no password, host or port belongs into an s3:// URL; give them by the AWS "
            "environment variables or a profile"
        )
    if _BUCKET.fullmatch(bucket) is None or ".." in bucket:
        raise ConfigurationError(f"{bucket!r} can not be a bucket's name; {_EXAMPLES}")
    prefix = prefix.strip("/")
    _check_prefix(prefix)
    return S3Location(bucket, prefix)


def _check_prefix(prefix: str) -> None:
    parts = prefix.split("/") if prefix else []
    if any(part in ("", ".", "..") for part in parts):
        raise ConfigurationError(f"the prefix {prefix!r} has an empty part, '.' or '..'")
    if not prefix.isprintable() or any(sign in prefix for sign in "?#\\"):
        raise ConfigurationError(f"the prefix {prefix!r} has a sign that not every server takes")
    if len(prefix.encode()) > LONGEST_PREFIX_BYTES:
        raise ConfigurationError(f"a prefix is at most {LONGEST_PREFIX_BYTES} bytes long")


def _parse_file(rest: str) -> LocalLocation:
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise ConfigurationError(f"file://{rest} is not absolute; write file:///directory")
    directory = Path(os.fsdecode(unquote_to_bytes(path)))
    if "\0" in str(directory) or ".." in directory.parts:
        raise ConfigurationError(f"file://{rest} can not be the path of a repository")
    return LocalLocation(Path("/") / directory)
