"""What the user asked for, as frozen values that were validated once.

Besides `cli/` only this module knows the environment: it says where caches, state and sockets are.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from s3backfs.errors import ConfigurationError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

DAY_S = 86400.0

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)?", re.IGNORECASE | re.ASCII)
_SIZE_SHIFT = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY_S, "w": 7 * DAY_S}
_ZSTD_LEVELS = range(1, 23)


class Secret:
    """Bytes that no repr, log line or traceback shows."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """Hand out the bytes."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(...)"


def parse_size(text: str) -> int:
    """Read a number of bytes: `4096`, `64MiB`, `64M`, `1.5G`; units are powers of 1024.

    Raises:
        ConfigurationError: not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigurationError(f"{text!r} is not a size; write for example 64MiB or 1G")
    number, unit = match.groups()
    return int(float(number) * (1 << _SIZE_SHIFT[unit.lower()]))


def parse_duration(text: str) -> float:
    """Read a number of seconds: `30s`, `500ms`, `10m`, `2h`, `1d`, `1w`; bare numbers are seconds.

    Raises:
        ConfigurationError: not a duration.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ConfigurationError(f"{text!r} is not a duration; write for example 30s, 10m or 2h")
    number, unit = match.groups()
    return float(number) * _SECONDS[(unit or "s").lower()]


@dataclass(frozen=True, slots=True)
class Compression:
    """How new chunks are compressed: a zstd level, or None for not at all."""

    level: int | None = 3

    def __str__(self) -> str:
        return "none" if self.level is None else f"zstd:{self.level}"


def parse_compression(text: str) -> Compression:
    """Read `none`, `zstd` or `zstd:LEVEL`.

    Raises:
        ConfigurationError: another method, or a level outside 1 to 22.
    """
    method, _, level = text.strip().lower().partition(":")
    if method == "none" and not level:
        return Compression(None)
    if method != "zstd" or (level and not level.isascii()) or (level and not level.isdigit()):
        raise ConfigurationError(f"{text!r} is no compression; write none, zstd or zstd:LEVEL")
    chosen = Compression(int(level)) if level else Compression()
    if chosen.level not in _ZSTD_LEVELS:
        raise ConfigurationError(f"zstd has no level {level}; take one from 1 to 22")
    return chosen


def _require(holds: bool, text: str) -> None:
    if not holds:
        raise ConfigurationError(text)


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """How to reach the object store; None leaves a choice to boto3's own configuration."""

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    credentials_file: str | None = None
    """A small file with `access_key` and `secret_key`."""
    ca_bundle: str | None = None
    path_style: bool | None = None
    """None: path-style wherever the endpoint is not Amazon's."""
    connections: int = 16
    sse: str | None = None
    """Encryption by the server: `AES256`, `aws:kms`, `aws:kms:KEY` or `none`; None is `AES256`
    towards AWS, and none towards others."""
    sse_c_key_file: str | None = None
    kms_key: str | None = None
    """The key of AWS's key management service whose key slots this machine trusts."""

    def __post_init__(self) -> None:
        _require(1 <= self.connections <= 1024, "--connections must be from 1 to 1024")


@dataclass(frozen=True, slots=True)
class CreateConfig:
    """What `init` was asked for."""

    url: str
    store: StoreConfig = field(default_factory=StoreConfig)
    is_encrypted: bool = True
    compression: Compression = field(default_factory=Compression)
    chunk_bytes: int = MIB
    """Average length of a chunk; a power of two, since the cuts compare hash bits."""
    pack_bytes: int = 64 * MIB

    def __post_init__(self) -> None:
        size = self.chunk_bytes
        _require(
            64 * KIB <= size <= 16 * MIB and size & (size - 1) == 0,
            "--chunk-size must be a power of two from 64KiB to 16MiB",
        )
        _require(
            5 * MIB <= self.pack_bytes <= GIB and self.pack_bytes >= 4 * size,
            "--pack-size must be from 5MiB to 1GiB and at least four chunks",
        )


@dataclass(frozen=True, slots=True)
class MountConfig:
    """What `mount` was asked for; every path is absolute."""

    url: str
    mountpoint: Path
    cache_dir: Path
    state_dir: Path
    runtime_dir: Path
    store: StoreConfig = field(default_factory=StoreConfig)
    fuse_options: tuple[str, ...] = ()
    is_read_only: bool = False
    keep_open: bool = False
    foreground: bool = False
    allow_forget: bool = False
    take_over: bool = False
    must_be_encrypted: bool = False
    """A passphrase is configured, so that a repository without encryption is not the right one."""
    backup: bytes | None = None
    """Show only this backup; None shows all."""
    key_slot: str | None = None
    """The id of the key slot to open; None lists them and tries all."""
    cache_bytes: int = GIB
    memory_bytes: int = 256 * MIB
    retry_for_s: float = DAY_S
    idle_checkpoint_s: float = 5.0
    max_checkpoint_s: float = 300.0
    lease_s: float = 600.0
    compression: Compression | None = None
    """Overrides what the repository says for what this mount writes."""
    log_level: str = "info"
    log_file: Path | None = None
    log_to_syslog: bool = False

    def __post_init__(self) -> None:
        _require(self.mountpoint.is_absolute(), f"{self.mountpoint} is not an absolute path")
        _require(
            self.key_slot is None or re.fullmatch("[0-9a-f]{32}", self.key_slot) is not None,
            "--key-slot takes a whole id of 32 digits, as s3backfs key list --json shows it",
        )
        _require(self.memory_bytes >= 32 * MIB, "--memory must be at least 32MiB")
        _require(self.retry_for_s >= 0, "--retry-for must not be negative")
        _require(self.idle_checkpoint_s > 0, "--idle-checkpoint must be longer than 0s")
        _require(
            self.max_checkpoint_s >= self.idle_checkpoint_s,
            "--max-checkpoint must not be shorter than --idle-checkpoint",
        )
        _require(1 <= self.lease_s <= DAY_S, "--lease must be between 1s and 24h")
        _require(not (self.log_file and self.log_to_syslog), "take one of --log-file and --syslog")


# -- places ----------------------------------------------------------------------------------


def default_cache_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Say where what can be thrown away is kept: `/var/cache/s3backfs` for root."""
    return _place("XDG_CACHE_HOME", ".cache", "/var/cache/s3backfs", environ)


def default_state_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Say where pins and logs are kept: `/var/lib/s3backfs` for root."""
    return _place("XDG_STATE_HOME", ".local/state", "/var/lib/s3backfs", environ)


def _place(variable: str, below_home: str, for_root: str, given: Mapping[str, str] | None) -> Path:
    environ = os.environ if given is None else given
    if environ.get(variable, "").startswith("/"):
        return Path(environ[variable]) / "s3backfs"
    if os.geteuid() == 0:
        return Path(for_root)
    return Path.home() / below_home / "s3backfs"


def default_runtime_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Say where this user's control sockets are."""
    return runtime_dirs_of(os.geteuid(), environ)[0]


def runtime_dirs_of(uid: int, environ: Mapping[str, str] | None = None) -> tuple[Path, ...]:
    """List where a mount process of `uid` may have put its socket, most likely first.

    A mount may have been made from a login session and be asked from cron, or by root.
    """
    given = (os.environ if environ is None else environ).get("XDG_RUNTIME_DIR", "")
    own = [Path(given) / "s3backfs"] if uid == os.geteuid() and _belongs_to(given, uid) else []
    session = Path(f"/run/user/{uid}/s3backfs")
    usual = [Path("/run/s3backfs")] if uid == 0 else []
    if not usual and session.parent.is_dir():
        usual = [session]
    return tuple(dict.fromkeys([*own, *usual, Path(f"/tmp/s3backfs-{uid}")]))


def _belongs_to(directory: str, uid: int) -> bool:
    # After `sudo -E` the variable may name another user's directory.
    try:
        return directory.startswith("/") and os.stat(directory).st_uid == uid
    except OSError:
        return False


def make_private_dir(path: Path) -> Path:
    """Make a directory that only this user can enter, or check the one that is there.

    Raises:
        ConfigurationError: it cannot be made, or belongs to somebody else.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise ConfigurationError(f"{path} is not a directory of this user; remove it")
        if stat.S_IMODE(found.st_mode) & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(f"cannot make {path}: {error.strerror}") from error
    return path
