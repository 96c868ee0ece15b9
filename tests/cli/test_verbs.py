"""The command line as a person sees it: help, exit codes, one line for each error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from s3backfs.cli.failures import explain
from s3backfs.cli.main import cli
from s3backfs.cli.mount import mount, mount_config
from s3backfs.config import GIB, MIB, Compression, MountConfig
from s3backfs.errors import ConfigurationError, S3backfsError, WrongKeyError

from .conftest import Runner

VERBS = [
    "check",
    "delete",
    "diff",
    "doctor",
    "find",
    "forget",
    "init",
    "key",
    "list",
    "mount",
    "policy",
    "prune",
    "reopen",
    "repair",
    "seal",
    "stats",
    "status",
    "sync",
    "tag",
    "umount",
    "unforget",
    "versions",
]


def test_verbs_are_a_contract() -> None:
    """The verbs have the names that scripts rely on."""
    assert sorted(cli.commands) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_examples(verb: str) -> None:
    """Every verb's help ends its text with examples that begin with the command."""
    result = CliRunner().invoke(cli, [verb, "--help"])
    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert f"s3backfs {verb}" in result.output.partition("Examples:")[2]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "text"),
    [
        (["bogus"], 2, "No such command"),
        (["mount"], 2, "give URL and MOUNTPOINT"),
        (["mount", "/mnt"], 2, "S3BACKFS_REPOSITORY"),
        (["mount", "a", "b", "c"], 2, "give URL and MOUNTPOINT"),
        (["mount", "file:///r", "/nonexistent/place"], 3, "make it with mkdir"),
        (["mount", "file:///r", "/etc/passwd"], 3, "not a directory"),
        (["mount", "file:///r", "/mnt", "-o", "wibble"], 2, "wibble"),
        (["mount", "file:///r", "/mnt", "-o", "cache-size=zz"], 2, "-o cache-size: 'zz'"),
        (["mount", "file:///r", "/mnt", "-o", "memory"], 2, "-o memory needs a value"),
        (["mount", "file:///r", "/mnt", "-o", "keep-open=1"], 2, "takes no value"),
        (["mount", "file:///r", "/mnt", "--memory", "1M"], 2, "at least 32MiB"),
        (["mount", "file:///r", "/mnt", "--retry-for", "soon"], 2, "--retry-for"),
        (["mount", "https://host/b", "/mnt"], 2, "s3://bucket"),
        (["init", "bucket"], 2, "no repository URL"),
        (["list", "ftp://host"], 2, "ftp:// is not known"),
        (["init"], 2, "Missing argument 'URL'"),
        (["init", "file:///r", "--chunk-size", "3M"], 2, "power of two"),
        (["init", "file:///r", "--encryption", "rot13"], 2, "rot13"),
        (["init", "file:///r"], 2, "no passphrase"),
        (["umount", "/"], 5, "no s3backfs process answers for /"),
        (["status", "/"], 5, "no s3backfs process"),
        (["sync", "/"], 5, "no s3backfs process"),
        (["seal", "/etc/passwd"], 5, "not inside an s3backfs mount"),
        (["reopen", "/etc"], 5, "MOUNTPOINT/NAME"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], exit_code: int, text: str, run_cli: Runner
) -> None:
    """Each mistake has its exit code and one line on stderr that begins with the program's name."""
    done = run_cli(*arguments)
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert done.stderr.startswith("s3backfs: ")
    assert done.stderr.count("\n") == 1
    assert text in done.stderr


def test_no_passphrase_without_encryption(run_cli: Runner) -> None:
    """`--encryption none` is refused where a passphrase is configured."""
    done = run_cli("init", "file:///r", "--encryption", "none", S3BACKFS_PASSPHRASE="x")
    assert done.returncode == 2
    assert "takes no passphrase" in done.stderr


def test_url_from_the_environment(run_cli: Runner) -> None:
    """With S3BACKFS_REPOSITORY the one argument of mount is the mount point."""
    done = run_cli("mount", "/nonexistent/place", S3BACKFS_REPOSITORY="file:///r")
    assert done.returncode == 3


def config_of(*arguments: str) -> MountConfig:
    with mount.make_context("mount", list(arguments)) as context:
        return mount_config(context, context.params["places"], context.params["words"])


def test_mount_defaults(tmp_path: Path) -> None:
    """The defaults are those that the help states."""
    config = config_of("s3://bucket/p", str(tmp_path))
    assert config.mountpoint == tmp_path
    assert (config.memory_bytes, config.cache_bytes) == (256 * MIB, GIB)
    assert (config.idle_checkpoint_s, config.max_checkpoint_s) == (5, 300)
    assert (config.retry_for_s, config.store.connections) == (86400, 16)
    assert (config.is_read_only, config.keep_open, config.compression) == (False, False, None)
    assert config.store.path_style is None


def test_mount_options(tmp_path: Path) -> None:
    """`-o` takes this command's options and those of FUSE; words for fstab alone are dropped."""
    words = "rw,noauto,x-systemd.automount,_netdev,allow_other,nodev,nodiratime"
    config = config_of(
        "s3://bucket/p",
        str(tmp_path),
        *("-o", words),
        *("-o", "keep_open,cache-size=4G,compression=zstd:9,path-style,backup=web1"),
    )
    assert config.fuse_options == ("allow_other", "nodev")
    assert (config.keep_open, config.cache_bytes) == (True, 4 * GIB)
    assert (config.compression, config.backup) == (Compression(9), b"web1")
    assert config.store.path_style is True


@pytest.mark.parametrize("arguments", [["-o", "ro"], ["--read-only"], ["-o", "read-only"]])
def test_read_only(arguments: list[str], tmp_path: Path) -> None:
    """A read-only mount is read-only for the kernel, too."""
    config = config_of("s3://bucket/p", str(tmp_path), *arguments)
    assert config.is_read_only
    assert config.fuse_options == ("ro",)


def test_groups_are_explained_by_our_error() -> None:
    """Of a group of exceptions the one that this project raises on purpose is told."""
    group = ExceptionGroup("a", [ValueError("x"), ExceptionGroup("b", [WrongKeyError("wrong")])])
    assert (explain(group).text, explain(group).exit_code) == ("wrong", 13)


def test_bugs_are_one_line() -> None:
    """An unexpected error says how to get its traceback."""
    failure = explain(ValueError("a\nb"))
    assert failure.text == "ValueError: a b; this is a bug, run with S3BACKFS_DEBUG=1"
    assert explain(KeyboardInterrupt()).exit_code == 130
    assert explain(click.Abort()).exit_code == 130


def test_exit_codes_do_not_collide() -> None:
    """Every kind of error that has an exit code of its own has it alone."""

    def below(kind: type[S3backfsError]) -> list[type[S3backfsError]]:
        return [kind, *(found for child in kind.__subclasses__() for found in below(child))]

    kinds = [
        kind
        for kind in below(S3backfsError)
        if "exit_code" in vars(kind) and kind.__module__ == ConfigurationError.__module__
    ]
    assert len({kind.exit_code for kind in kinds}) == len(kinds)


def test_start_is_light() -> None:
    """Neither the help nor a usage error waits for boto3, trio, pyfuse3 or rich."""
    code = (
        "import sys; from s3backfs.cli.main import run; run(['mount', '--help']); "
        "print({'boto3', 'botocore', 'trio', 'pyfuse3', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.splitlines()[-1] == "set()"


def test_an_interrupt_at_the_start_is_one_line(run_cli: Runner, tmp_path: Path) -> None:
    """Ctrl-C while libraries are still being imported is told as at any other time."""
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = run_cli("list", "file:///x", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (130, "s3backfs: interrupted\n")
