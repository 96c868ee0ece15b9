"""A secret as a QR code: drawn on a terminal, and nowhere else."""

from __future__ import annotations

import sys

import click

from s3backfs.errors import ConfigurationError

QUIET_MODULES = 4
_BLOCKS = "█▄▀ "


def check_can_draw() -> None:
    """Make sure that what is drawn is seen by a person, and kept by no file.

    Raises:
        ConfigurationError: standard output is no terminal, or cannot show blocks.
    """
    if not sys.stdout.isatty():
        raise ConfigurationError("--qr draws on a terminal only: the words can be kept in a file")
    try:
        _BLOCKS.encode(sys.stdout.encoding)
    except UnicodeEncodeError as error:
        raise ConfigurationError("--qr needs a terminal with UTF-8, see `locale`") from error


def draw(words: str) -> None:
    """Draw words on the terminal, light around dark whatever its colours are."""
    for line in qr_lines(words):
        click.secho(line, fg="bright_white", bg="black")


def qr_lines(words: str) -> list[str]:
    """Make the lines of a QR code, two modules high each: blocks are what is light."""
    import io

    import segno  # slow to import

    lines = io.StringIO()
    # Upper case takes less room; readers take both.
    code = segno.make_qr(words.upper(), error="m")
    code.terminal(lines, border=QUIET_MODULES, compact=True)
    return lines.getvalue().splitlines()
