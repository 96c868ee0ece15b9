"""What the verbs share of their options, and the reading of `-o`."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from s3backfs.config import StoreConfig, parse_compression, parse_duration, parse_size
from s3backfs.errors import ConfigurationError

URL_VARIABLE = "S3BACKFS_REPOSITORY"
KMS_VARIABLE = "S3BACKFS_KMS_KEY"
CREDENTIALS_VARIABLE = "S3BACKFS_CREDENTIALS_FILE"
SSE_VARIABLE = "AWS_S3_ENCRYPTION"
_SSE_SWITCH = {"0": "none", "1": "AES256"}

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


def _option_type(name: str, parse: Callable[[str], T]) -> click.ParamType[Any]:
    def convert(value: object) -> object:
        try:
            return parse(value) if isinstance(value, str) else value
        except ConfigurationError as error:
            raise click.BadParameter(str(error)) from error

    convert.__name__ = name
    return click.types.FuncParamType(convert)


SIZE = _option_type("size", parse_size)
DURATION = _option_type("duration", parse_duration)
COMPRESSION = _option_type("method", parse_compression)
DIRECTORY = click.Path(file_okay=False, resolve_path=True, path_type=Path)

_STORE_OPTIONS = (
    click.option("--endpoint-url", metavar="URL", help="S3 endpoint, else AWS_ENDPOINT_URL."),
    click.option("--region", help="Region, else as boto3 finds it."),
    click.option("--profile", help="Profile of ~/.aws/config, else AWS_PROFILE."),
    click.option(
        "--credentials-file", metavar="FILE", help="access_key = and secret_key = in lines."
    ),
    click.option("--ca-bundle", metavar="FILE", help="Certificates to trust, else AWS_CA_BUNDLE."),
    click.option(
        "--path-style/--virtual-host-style",
        default=None,
        help="How buckets are addressed.  [default: path-style where the endpoint needs it]",
    ),
    click.option(
        "--connections", default=16, show_default=True, help="Requests in flight at once."
    ),
    click.option(
        "--sse", metavar="MODE", help="Server-side: AES256 (default at AWS), aws:kms[:KEY], none."
    ),
    click.option("--sse-c-key-file", metavar="FILE", help="Server-side with this key (SSE-C)."),
)


def store_options(command: Command) -> Command:
    """Add the options that say how to reach the object store."""
    for option in reversed(_STORE_OPTIONS):
        command = option(command)
    return command


def store_config(params: dict[str, Any]) -> StoreConfig:
    """Take the values of `store_options` out of a verb's parameters."""
    names = [
        *("endpoint_url", "region", "profile", "ca_bundle", "path_style", "connections"),
        *("sse", "sse_c_key_file", "credentials_file"),
    ]
    chosen = {name: params.pop(name) for name in names}
    chosen["credentials_file"] = chosen["credentials_file"] or os.environ.get(CREDENTIALS_VARIABLE)
    # Other programs of AWS read it, boto3 does not.
    chosen["region"] = chosen["region"] or os.environ.get("AWS_REGION") or None
    for name in ("ca_bundle", "credentials_file", "sse_c_key_file"):
        # A mount leaves the directory that these paths are relative to.
        chosen[name] = os.path.abspath(chosen[name]) if chosen[name] else None
    if chosen["sse"] is None and chosen["sse_c_key_file"] is None:
        chosen["sse"] = _SSE_SWITCH.get(os.environ.get(SSE_VARIABLE, ""))
    return StoreConfig(**chosen, kms_key=os.environ.get(KMS_VARIABLE) or None)


url_argument = click.argument("url", envvar=URL_VARIABLE)

# -- mount -o --------------------------------------------------------------------------------

# fmt: off
_FUSE_FLAGS = frozenset([
    "allow_other", "allow_root", "auto_unmount", "default_permissions", "dev", "nodev", "suid",
    "nosuid", "exec", "noexec", "atime", "noatime", "sync", "async", "dirsync",
])
_FSTAB_WORDS = frozenset([
    "defaults", "rw", "auto", "noauto", "nofail", "_netdev", "user", "nouser", "users", "owner",
    "group", "relatime", "norelatime", "strictatime", "lazytime", "comment",
    "diratime", "nodiratime",
])
# fmt: on


@dataclass(frozen=True, slots=True)
class MountOptions:
    """`-o` taken apart: options of s3backfs itself, and those for FUSE."""

    own: tuple[tuple[str, str | None], ...]
    fuse: tuple[str, ...]


def split_mount_options(values: Iterable[str], own_names: Collection[str]) -> MountOptions:
    """Sort the words of `-o a,b=c -o d`; words that only /etc/fstab means something to are dropped.

    Raises:
        ConfigurationError: nobody knows this option.
    """
    own: list[tuple[str, str | None]] = []
    fuse: list[str] = []
    for word in (word for value in values for word in value.split(",") if word):
        name, equals, value = word.partition("=")
        known = "read-only" if name == "ro" else name.replace("_", "-")
        if known in own_names:
            own.append((known, value if equals else None))
        elif name in _FUSE_FLAGS and not equals:
            fuse.append(word)
        elif name not in _FSTAB_WORDS and not name.startswith("x-"):
            raise ConfigurationError(f"-o {word}: unknown mount option (see s3backfs mount --help)")
    return MountOptions(tuple(own), tuple(fuse))
