"""Turn whatever went wrong into one line and an exit code."""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass

import click

from s3backfs.cli.entry import INTERRUPTED_EXIT_CODE
from s3backfs.errors import S3backfsError

BUG_EXIT_CODE = 70


class InterruptedVerb(Exception):
    """Somebody has pressed Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What the user is told; `text` is one line, or empty where there is nothing to say."""

    text: str
    exit_code: int


def explain(error: BaseException) -> Failure:
    """Say what an exception means to the user; with S3BACKFS_DEBUG the traceback is printed too."""
    cause = _cause(error)
    if os.environ.get("S3BACKFS_DEBUG"):
        traceback.print_exception(error)
    if isinstance(cause, S3backfsError):
        return Failure(_one_line(str(cause)), cause.exit_code)
    if isinstance(cause, click.UsageError):
        return Failure(_usage_text(cause), cause.exit_code)
    if isinstance(cause, click.ClickException):
        return Failure(_one_line(cause.format_message()), cause.exit_code)
    if isinstance(cause, KeyboardInterrupt | InterruptedVerb | click.Abort):
        return Failure("interrupted", INTERRUPTED_EXIT_CODE)
    text = f"{type(cause).__name__}: {cause}; this is a bug, run with S3BACKFS_DEBUG=1"
    return Failure(_one_line(text), BUG_EXIT_CODE)


def _cause(error: BaseException) -> BaseException:
    """Find in a group the one error to tell: an interrupt, else ours, else the first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [_cause(inner) for inner in error.exceptions]
    for leaf in leaves:
        if isinstance(leaf, KeyboardInterrupt):
            return leaf
    return next((leaf for leaf in leaves if isinstance(leaf, S3backfsError)), leaves[0])


def _usage_text(error: click.UsageError) -> str:
    hint = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
    return _one_line(error.format_message()) + hint


def _one_line(text: str) -> str:
    return " ".join(text.split())
