"""Values that the user writes, and the places that follow from the environment."""

from __future__ import annotations

import dataclasses
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3backfs.config import (
    MIB,
    Compression,
    CreateConfig,
    MountConfig,
    Secret,
    StoreConfig,
    default_cache_dir,
    default_runtime_dir,
    default_state_dir,
    make_private_dir,
    parse_compression,
    parse_duration,
    parse_size,
    runtime_dirs_of,
)
from s3backfs.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64MiB", 64 * MIB),
        ("64M", 64 * MIB),
        ("64 mb", 64 * MIB),
        ("1.5G", 3 << 29),
        ("2T", 2 << 40),
        ("7b", 7),
    ],
)
def test_sizes(text: str, count: int) -> None:
    """Units are powers of 1024, in any case, with or without B or iB."""
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "M", "-1", "1X", "1 2", "0x10", "١", "1e3", "NaN"])
def test_no_sizes(text: str) -> None:
    """Anything else is refused with an example of what is right."""
    with pytest.raises(ConfigurationError, match="64MiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("30", 30), ("500ms", 0.5), ("10m", 600), ("2h", 7200), ("1d", 86400)],
)
def test_durations(text: str, seconds: float) -> None:
    """Bare numbers are seconds."""
    assert parse_duration(text) == seconds


@given(st.text(max_size=8))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes the parsers raise anything but ConfigurationError."""
    for parse in (parse_size, parse_duration, parse_compression):
        try:
            parse(text)
        except ConfigurationError:
            continue


@pytest.mark.parametrize(
    ("text", "level"), [("none", None), ("zstd", 3), ("zstd:1", 1), ("ZSTD:22", 22)]
)
def test_compression(text: str, level: int | None) -> None:
    """`zstd` alone is level 3."""
    assert parse_compression(text) == Compression(level)


@pytest.mark.parametrize("text", ["", "gzip", "zstd:0", "zstd:23", "zstd:-1", "zstd:x", "none:1"])
def test_no_compression(text: str) -> None:
    """Unknown methods and levels are refused."""
    with pytest.raises(ConfigurationError):
        parse_compression(text)


def test_secret_does_not_show() -> None:
    """Neither repr nor str nor formatting shows a secret."""
    secret = Secret(b"hunter2")
    assert "hunter2" not in f"{secret!r} {secret} {[secret]}"
    assert secret.reveal() == b"hunter2"


@pytest.mark.parametrize(
    "values",
    [
        {"chunk_bytes": 3 * MIB},
        {"chunk_bytes": 1024},
        {"pack_bytes": MIB},
        {"pack_bytes": 8 * MIB, "chunk_bytes": 4 * MIB},
    ],
)
def test_impossible_repositories(values: dict[str, int]) -> None:
    """Sizes that the format cannot have are refused before anything is written."""
    with pytest.raises(ConfigurationError):
        CreateConfig(url="file:///x", **values)  # type: ignore[arg-type]


def test_impossible_mounts(tmp_path: Path) -> None:
    """Values that contradict each other are refused."""
    config = MountConfig("file:///x", tmp_path, tmp_path, tmp_path, tmp_path)
    for values in (
        {"memory_bytes": MIB},
        {"max_checkpoint_s": 1.0},
        {"idle_checkpoint_s": 0.0},
        {"mountpoint": Path("relative")},
        {"log_file": tmp_path / "log", "log_to_syslog": True},
    ):
        with pytest.raises(ConfigurationError):
            dataclasses.replace(config, **values)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        StoreConfig(connections=0)


def test_xdg_places(tmp_path: Path) -> None:
    """The XDG variables decide where cache, state and sockets are; relative ones do not count."""
    environ = {
        "XDG_CACHE_HOME": "/c",
        "XDG_STATE_HOME": "/s",
        "XDG_RUNTIME_DIR": str(tmp_path),
    }
    assert default_cache_dir(environ) == Path("/c/s3backfs")
    assert default_state_dir(environ) == Path("/s/s3backfs")
    assert default_runtime_dir(environ) == tmp_path / "s3backfs"
    assert default_cache_dir({"XDG_CACHE_HOME": "c"}) != Path("c/s3backfs")


def test_runtime_dir_of_another_user_is_not_used(tmp_path: Path) -> None:
    """A runtime directory that belongs to somebody else, as after `sudo -E`, does not count."""
    stranger = os.geteuid() + 1
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert tmp_path / "s3backfs" not in runtime_dirs_of(stranger, environ)
    assert Path(f"/tmp/s3backfs-{stranger}") in runtime_dirs_of(stranger, environ)


def test_private_dir(tmp_path: Path) -> None:
    """A private directory is 0700, also when it was there with more rights."""
    (tmp_path / "wide").mkdir(mode=0o755)
    for name in ("wide", "new/deep"):
        made = make_private_dir(tmp_path / name)
        assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_private_dir_is_no_link(tmp_path: Path) -> None:
    """A symbolic link in the place of a private directory is refused."""
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigurationError, match="link"):
        make_private_dir(tmp_path / "link")
