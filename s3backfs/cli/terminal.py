"""What a person reads: sizes, times, names and tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import click

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def format_bytes(count: float) -> str:
    """Write a number of bytes with three digits or so: `512 B`, `1.5 MiB`."""
    unit = 0
    while abs(count) >= 1024 and unit < len(_UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 else f"{count:.1f} {_UNITS[unit]}"


def plural(count: int, noun: str) -> str:
    """Write `1 pack`, `2 packs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_time(time_ns: int | None) -> str:
    """Write a time to the second in local time; `-` where there is none."""
    if not time_ns:
        return "-"
    return datetime.fromtimestamp(time_ns // 10**9).strftime("%Y-%m-%d %H:%M:%S")


def printable(name: bytes | str) -> str:
    """Write a name such that it can do nothing to a terminal and stays on one line."""
    data = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name
    text = data.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns; headers that begin with `>` are right-aligned; empty ones are left out.

    On a terminal the last column is wrapped at its edge, in a pipe nothing is.
    """
    from rich.console import Console  # slow to import
    from rich.table import Table
    from rich.text import Text

    is_terminal = sys.stdout.isatty()
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(headers))
    for number, header in enumerate(headers, 1):
        table.add_column(
            header.lstrip(">"),
            justify="right" if header.startswith(">") else "left",
            no_wrap=not is_terminal or number < len(headers),
            overflow="fold" if number == len(headers) else "ellipsis",
        )
    for row in rows:
        # Text, not str: a name in brackets is no markup.
        table.add_row(*(Text(cell) for cell in row))
    console = Console(width=None if is_terminal else 4096, soft_wrap=not is_terminal)
    with console.capture() as captured:
        console.print(table)
    # Cells are filled up with spaces, those of the last column too.
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def print_json(value: Any) -> None:
    """Print a value as JSON for programs."""
    click.echo(json.dumps(value, indent=2))


def note(text: str) -> None:
    """Tell something beside the result, on standard error."""
    click.echo(f"s3backfs: {text}", err=True)
