"""`init` and `list` on a directory, as commands of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Runner


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    path.mkdir()
    return path


def objects_in(directory: Path) -> dict[str, bytes]:
    paths = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def test_init_and_list(directory: Path, run_cli: Runner) -> None:
    """A new repository says its id and has no backups."""
    url = directory.as_uri()
    made = run_cli("init", url, S3BACKFS_PASSPHRASE="secret")
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout.startswith("made repository ")
    assert made.stdout.endswith(f" at {url}\n")
    listed = run_cli("list", "--json", S3BACKFS_REPOSITORY=url, S3BACKFS_PASSPHRASE="secret")
    assert (listed.returncode, listed.stderr, json.loads(listed.stdout)) == (0, "", [])
    table = run_cli("list", url, S3BACKFS_PASSPHRASE="secret")
    assert table.stdout.split() == [
        *("backup", "state", "created", "updated", "files", "size", "stored", "host"),
    ]


def test_init_twice(directory: Path, run_cli: Runner) -> None:
    """`init` refuses a repository that is there, and changes nothing."""
    url = directory.as_uri()
    run_cli("init", url, S3BACKFS_PASSPHRASE="secret")
    before = objects_in(directory)
    again = run_cli("init", url, S3BACKFS_PASSPHRASE="other")
    assert again.returncode == 12
    assert again.stderr.count("\n") == 1
    assert objects_in(directory) == before


def test_init_among_foreign_objects(directory: Path, run_cli: Runner) -> None:
    """`init` refuses a prefix where something else lies, and names it."""
    (directory / "holiday.jpg").write_bytes(b"jpg")
    done = run_cli("init", directory.as_uri(), "--encryption", "none")
    assert done.returncode == 12
    assert "holiday.jpg" in done.stderr
    assert list(objects_in(directory)) == ["holiday.jpg"]


def test_init_writes_what_was_asked(directory: Path, run_cli: Runner) -> None:
    """The options of `init` are those that repository.json states."""
    options = ["--encryption", "none", "--compression", "zstd:9"]
    sizes = ["--chunk-size", "512K", "--pack-size", "16M"]
    assert run_cli("init", directory.as_uri(), *options, *sizes).returncode == 0
    stated = json.loads((directory / "repository.json").read_bytes())
    assert (stated["encryption"], stated["compression_level"]) == ("none", 9)
    assert stated["chunk_bounds"]["average_bytes"] == 512 << 10
    assert stated["pack_bytes"] == 16 << 20


@pytest.mark.parametrize(
    ("passphrase", "exit_code", "text"), [("wrong", 13, "passphrase"), (None, 2, "no passphrase")]
)
def test_list_with_a_wrong_passphrase(
    passphrase: str | None, exit_code: int, text: str, directory: Path, run_cli: Runner
) -> None:
    """A wrong passphrase, and none, have an exit code each."""
    run_cli("init", directory.as_uri(), S3BACKFS_PASSPHRASE="secret")
    variables = {} if passphrase is None else {"S3BACKFS_PASSPHRASE": passphrase}
    done = run_cli("list", directory.as_uri(), **variables)
    assert done.returncode == exit_code
    assert text in done.stderr


def test_list_of_nothing(directory: Path, run_cli: Runner) -> None:
    """Where there is no repository, `list` says so; where there is no directory, that."""
    assert run_cli("list", directory.as_uri()).returncode == 11
    directory.rmdir()
    assert run_cli("list", directory.as_uri()).returncode == 33


def test_configured_passphrase_refuses_a_clear_repository(directory: Path, run_cli: Runner) -> None:
    """Where a passphrase is configured, a repository without encryption is not the right one."""
    run_cli("init", directory.as_uri(), "--encryption", "none")
    assert run_cli("list", directory.as_uri()).returncode == 0
    done = run_cli("list", directory.as_uri(), S3BACKFS_PASSPHRASE="secret")
    assert done.returncode == 13
    assert "not encrypted" in done.stderr


def test_missing_credentials(run_cli: Runner) -> None:
    """Without credentials for S3 one line says how to give them."""
    nowhere = {"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
    none = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_ACCESS_KEY_ID": ""}
    done = run_cli(
        *("init", "s3://bucket/prefix", "--endpoint-url", "http://127.0.0.1:9"),
        S3BACKFS_PASSPHRASE="secret",
        **nowhere,
        **none,
    )
    assert done.returncode == 34
    assert "AWS_ACCESS_KEY_ID" in done.stderr
    assert done.stderr.count("\n") == 1
