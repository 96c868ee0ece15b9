"""Where the passphrase comes from.

In this order: what S3BACKFS_IDENTITY_FILE names, the first line of what S3BACKFS_PASSPHRASE_FILE
names, what S3BACKFS_PASSPHRASE_COMMAND prints, S3BACKFS_PASSPHRASE itself, a prompt on a terminal.
A recovery key and a raw key are given in the same ways. That of a new slot comes from the variables
with S3BACKFS_NEW_ in their names.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from s3backfs.config import Secret
from s3backfs.errors import ConfigurationError
from s3backfs.privacy import wipe_variable

FILE_VARIABLE = "S3BACKFS_PASSPHRASE_FILE"
COMMAND_VARIABLE = "S3BACKFS_PASSPHRASE_COMMAND"
VARIABLE = "S3BACKFS_PASSPHRASE"
IDENTITY_VARIABLE = "S3BACKFS_IDENTITY_FILE"
_MAX_BYTES = 64 << 10


def take_passphrase() -> Secret | None:
    """Read the passphrase that the environment leads to; None where it names no source.

    The variables are removed from the environment, so that no child process inherits them, and
    overwritten where the kernel shows them.

    Raises:
        ConfigurationError: the source cannot be read, or holds nothing.
    """
    return _take((IDENTITY_VARIABLE, FILE_VARIABLE, COMMAND_VARIABLE, VARIABLE))


def take_new_passphrase() -> Secret | None:
    """Read the passphrase for a new slot that the environment leads to.

    The variables are removed from the environment, so that no child process inherits them.

    Raises:
        ConfigurationError: the source cannot be read, or holds nothing.
    """
    return _take(tuple(_new(name) for name in (FILE_VARIABLE, COMMAND_VARIABLE, VARIABLE)))


def _new(variable: str) -> str:
    return variable.replace("S3BACKFS_", "S3BACKFS_NEW_", 1)


def _take(variables: Sequence[str]) -> Secret | None:
    for name in variables:
        wipe_variable(name)
    given = {name: os.environ.pop(name, None) for name in variables}
    for variable, value in given.items():
        if value is not None:
            if not value:
                raise ConfigurationError(f"{variable} is set but empty; unset it or give a value")
            read = _read(variable, value)
            if variable == IDENTITY_VARIABLE:
                _check_identity(value, read)
            return _checked(read, variable)
    return None


def _check_identity(path: str, text: bytes) -> None:
    """Take no other text for a passphrase where an identity is named."""
    from s3backfs.format.words import read_identity  # slow to import

    if read_identity(text.decode("utf-8", errors="replace")) is None:
        raise ConfigurationError(
            f"{IDENTITY_VARIABLE}: {path}: there is no line that begins with AGE-SECRET-KEY-1; "
            f"a passphrase in a file is named by {FILE_VARIABLE}"
        )


def _read(variable: str, value: str) -> bytes:
    if variable.endswith("_FILE"):
        return _from_file(value, variable)
    if variable.endswith("_COMMAND"):
        return _from_command(value, variable)
    return os.fsencode(value)


def prompt_new_passphrase() -> Secret:
    """Ask for the passphrase of a further slot; errors as of `prompt_passphrase`."""
    if not sys.stdin.isatty():
        variables = ", ".join(_new(name) for name in (FILE_VARIABLE, COMMAND_VARIABLE))
        raise ConfigurationError(f"no new passphrase: set {variables} or {_new(VARIABLE)}")
    return prompt_passphrase(is_new=True)


def prompt_passphrase(*, is_new: bool = False) -> Secret:
    """Ask on the terminal; a new passphrase is asked for twice.

    Raises:
        ConfigurationError: there is no terminal to ask on.
    """
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"no passphrase: set {FILE_VARIABLE}, {COMMAND_VARIABLE} or {VARIABLE}"
        )
    label = "New passphrase" if is_new else "Passphrase"
    text: str = click.prompt(label, hide_input=True, confirmation_prompt=is_new, err=True)
    return Secret(os.fsencode(text))


def passphrase_reader(known: Secret | None) -> Callable[[], bytes]:
    """Give what `open_repository` calls once it knows that a passphrase is needed."""

    def read() -> bytes:
        return (known or prompt_passphrase()).reveal()

    return read


def _from_file(path: str, variable: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{variable}: {path}: {error.strerror}") from error


def _from_command(command: str, variable: str) -> bytes:
    # No shell: words are split as a shell would, nothing is expanded; stderr passes through.
    try:
        ended = subprocess.run(shlex.split(command), stdout=subprocess.PIPE, check=False)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{variable}: cannot run it: {error}") from error
    if ended.returncode != 0:
        raise ConfigurationError(f"{variable}: it ended with status {ended.returncode}")
    return ended.stdout


def _checked(value: bytes, variable: str) -> Secret:
    stripped = value.removesuffix(b"\n").removesuffix(b"\r")
    if not stripped:
        raise ConfigurationError(f"{variable}: the passphrase is empty")
    if len(stripped) > _MAX_BYTES:
        raise ConfigurationError(f"{variable}: a passphrase has at most {_MAX_BYTES} bytes")
    return Secret(stripped)
