"""Where the passphrase comes from."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from s3backfs.cli.passphrase import passphrase_reader, prompt_passphrase, take_passphrase
from s3backfs.errors import ConfigurationError

FILE = "S3BACKFS_PASSPHRASE_FILE"
COMMAND = "S3BACKFS_PASSPHRASE_COMMAND"
VALUE = "S3BACKFS_PASSPHRASE"
IDENTITY = "S3BACKFS_IDENTITY_FILE"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (FILE, COMMAND, VALUE, IDENTITY):
        monkeypatch.delenv(name, raising=False)


def taken() -> bytes:
    secret = take_passphrase()
    assert secret is not None
    return secret.reveal()


def test_no_source() -> None:
    """Without any variable there is no passphrase."""
    assert take_passphrase() is None


def test_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file comes before the command, the command before the value."""
    (tmp_path / "secret").write_bytes(b"from file\n")
    sources = {FILE: str(tmp_path / "secret"), COMMAND: "echo from command", VALUE: "from value"}
    for skipped, expected in enumerate([b"from file", b"from command", b"from value"]):
        for name, value in list(sources.items())[skipped:]:
            monkeypatch.setenv(name, value)
        assert taken() == expected


def test_variables_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No child process inherits a passphrase or the way to one, the command itself included."""
    monkeypatch.setenv(VALUE, "secret")
    code = "import os; print(any('PASSPHRASE' in name for name in os.environ))"
    monkeypatch.setenv(COMMAND, f'{sys.executable} -c "{code}"')
    assert taken() == b"False"
    assert not any("PASSPHRASE" in name for name in os.environ)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"word\n", b"word"),
        (b"word\r\n", b"word"),
        (b" a b \n\n", b" a b \n"),
        (b"\xff\0", b"\xff\0"),
    ],
)
def test_one_newline_is_stripped(
    content: bytes, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line end is no part of the passphrase; everything else is, any byte."""
    (tmp_path / "secret").write_bytes(content)
    monkeypatch.setenv(FILE, str(tmp_path / "secret"))
    assert taken() == expected


def test_command_has_no_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words are split as a shell would; nothing is expanded or chained."""
    monkeypatch.setenv(COMMAND, "echo '$HOME; id' `x` | tee")
    assert taken() == b"$HOME; id `x` | tee"


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        (FILE, "/nonexistent/file", "No such file"),
        (FILE, "/", "Is a directory"),
        (FILE, "/dev/null", "is empty"),
        (FILE, "/dev/zero", "at most"),
        (FILE, "", "set but empty"),
        (COMMAND, "false", "status 1"),
        (COMMAND, "true", "is empty"),
        (COMMAND, "/nonexistent/program", "cannot run it"),
        (COMMAND, "echo 'open", "cannot run it"),
        (VALUE, "", "set but empty"),
        (IDENTITY, "/dev/null", "AGE-SECRET-KEY-1"),
        (IDENTITY, "/etc/hostname", f"AGE-SECRET-KEY-1.*{FILE}"),
    ],
)
def test_unusable_sources(
    variable: str, value: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that cannot be used is an error that names its variable, never a next source."""
    monkeypatch.setenv(variable, value)
    if variable != VALUE:
        monkeypatch.setenv(VALUE, "another")
    with pytest.raises(ConfigurationError, match=rf"{variable}\b.*{text}"):
        take_passphrase()


def test_no_prompt_without_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal the error names the three variables."""
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        with pytest.raises(ConfigurationError, match=f"{FILE}, {COMMAND} or {VALUE}"):
            prompt_passphrase()
        with pytest.raises(ConfigurationError):
            passphrase_reader(None)()
