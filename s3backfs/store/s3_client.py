"""How to reach an S3 server: settings, and the one boto3 client made of them."""

from __future__ import annotations

import hashlib
import io
import logging
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

import boto3.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from s3backfs import __version__
from s3backfs.errors import ConfigurationError
from s3backfs.store.base import Buffer
from s3backfs.store.s3_errors import CREDENTIAL_ERRORS, translate_credentials
from s3backfs.store.s3_session import new_session
from s3backfs.store.s3_sse import ServerEncryption, register

Checksums: TypeAlias = Literal["auto", "always", "required"]

_ANY_REGION = "us-east-1"
_SEND_BLOCK_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class S3Settings:
    """Where the bucket is and how to talk to it; None leaves a choice to boto3's configuration.

    `path_style` None: path-style wherever the endpoint is not Amazon's. `checksums`: "auto" adds
    those of S3's own only towards Amazon, "always" everywhere, "required" only where S3 insists.
    """

    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None
    path_style: bool | None = None
    region: str | None = None
    profile: str | None = None
    credentials_file: str | None = None
    """A small file of keys, see `s3_session`; None finds them as boto3 does."""
    ca_bundle: str | None = None
    max_connections: int = 16
    checksums: Checksums = "auto"
    connect_timeout_s: float = 10.0
    encryption: ServerEncryption = field(default_factory=ServerEncryption)
    read_timeout_s: float = 60.0
    """Longest silence on a connection; also bounds how long a write can hold up a shutdown."""


def make_client(settings: S3Settings) -> Any:
    """Make the boto3 client.

    Raises:
        ConfigurationError: no such profile, an unusable endpoint, no such certificate file.
        RefusedError: there are no credentials to be had.
    """
    _silence_libraries()
    _check(settings)
    try:
        session = _session(settings, settings.region)
        client = _client_of(session, settings, is_amazon=False)
        # Only boto3 knows which endpoint environment and profile lead to.
        if is_amazon_endpoint(client.meta.endpoint_url):
            client = _client_of(_with_region(session, settings), settings, is_amazon=True)
            register(client, settings.encryption.towards(is_amazon=True))
            return client
    except CREDENTIAL_ERRORS as error:
        raise translate_credentials(error) from error
    except BotoCoreError as error:
        raise ConfigurationError(f"the S3 settings do not work: {error}") from error
    except ValueError as error:
        # Its text repeats the URL, which may hold a password.
        raise ConfigurationError("the S3 endpoint's URL can not be used") from error
    # Some servers insist on what newer clients no longer send.
    client.meta.events.register("before-call.s3.DeleteObjects", _add_content_md5)
    _check_endpoint(client.meta.endpoint_url)
    register(client, settings.encryption.towards(is_amazon=False))
    return client


def _with_region(session: boto3.session.Session, settings: S3Settings) -> boto3.session.Session:
    """Replace the region `auto`, which only other servers know; boto3 finds a bucket's own."""
    if session.region_name != "auto":
        return session
    return _session(settings, _ANY_REGION)


def _session(settings: S3Settings, region: str | None) -> boto3.session.Session:
    return new_session(
        profile=settings.profile, region=region, credentials_file=settings.credentials_file
    )


def is_amazon_endpoint(url: str) -> bool:
    """Tell Amazon's own endpoints from those of other servers."""
    host = urlsplit(url).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws"))


def _client_of(session: boto3.session.Session, settings: S3Settings, *, is_amazon: bool) -> Any:
    return session.client(
        "s3",
        endpoint_url=settings.endpoint_url,
        verify=settings.ca_bundle,
        config=_config_of(settings, is_amazon=is_amazon),
    )


def _config_of(settings: S3Settings, *, is_amazon: bool) -> Config:
    is_path_style = not is_amazon if settings.path_style is None else settings.path_style
    has_checksums = settings.checksums == "always" or (settings.checksums == "auto" and is_amazon)
    checksums: Literal["when_supported", "when_required"] = (
        "when_supported" if has_checksums else "when_required"
    )
    return Config(
        s3={"addressing_style": "path" if is_path_style else "virtual"},
        request_checksum_calculation=checksums,
        response_checksum_validation=checksums,
        signature_version="s3v4",
        max_pool_connections=settings.max_connections,
        connect_timeout=settings.connect_timeout_s,
        read_timeout=settings.read_timeout_s,
        # `Retrying` repeats requests; two layers that do it would hide lost answers.
        retries={"mode": "standard", "total_max_attempts": 1},
        tcp_keepalive=True,
        user_agent_extra=f"s3backfs/{__version__}",
    )


def _check(settings: S3Settings) -> None:
    if settings.endpoint_url is not None:
        _check_endpoint(settings.endpoint_url)
    if settings.ca_bundle is not None and not Path(settings.ca_bundle).exists():
        raise ConfigurationError(f"there is no certificate file {settings.ca_bundle}")


def _check_endpoint(url: str) -> None:
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("no user or password belongs into an endpoint's URL")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"{url!r} is no endpoint; write for example https://s3.host")


def _silence_libraries() -> None:
    # At debug level these log whole requests, session tokens included.
    for name in ("boto3", "botocore", "s3transfer", "urllib3"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))


def _add_content_md5(params: dict[str, Any], **_: object) -> None:
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"].setdefault("Content-MD5", b64encode(digest).decode())


def request_body(data: Buffer) -> Any:
    """Give boto3 a buffer without copying it, unless it is small."""
    # One sendall() of a large body would have to end within the read timeout.
    return bytes(data) if len(data) <= _SEND_BLOCK_BYTES else BufferReader(data)


class BufferReader(io.RawIOBase):
    """A seekable file over a buffer that gives out views of it, not copies.

    `read` answers with more than was asked for if that was little: http.client asks for 16 KiB
    at a time, each of which would cost a turn of the interpreter's lock.
    """

    def __init__(self, data: Buffer) -> None:
        super().__init__()
        self._view = memoryview(data).toreadonly()
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> Any:
        rest = len(self._view) - self._position
        wanted = rest if size is None or size < 0 else max(size, _SEND_BLOCK_BYTES)
        block = self._view[self._position : self._position + min(wanted, rest)]
        self._position += len(block)
        return block

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._view)}[whence]
        self._position = min(max(0, base + offset), len(self._view))
        return self._position

    def tell(self) -> int:
        return self._position
