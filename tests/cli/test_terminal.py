"""What is printed for people."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from s3backfs.cli.terminal import format_bytes, format_time, print_table, printable


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (5 << 40, "5.0 TiB"),
        (1 << 60, "1024.0 PiB"),
    ],
)
def test_bytes(count: int, text: str) -> None:
    """Sizes are in powers of 1024."""
    assert format_bytes(count) == text


def test_no_time() -> None:
    """A time that is not there is a dash."""
    assert (format_time(0), format_time(None)) == ("-", "-")


def test_names_cannot_steer_the_terminal() -> None:
    """Control characters and bytes that are no text are shown as escapes."""
    assert printable(b"ok \xc3\xa4") == "ok \u00e4"
    assert printable(b"\x1b[2J\n\xff") == "\\x1b[2J\\n\\xff"
    assert printable("a\udcffb") == "a\\xffb"


def test_table_is_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """Long cells are neither cut nor wrapped nor taken for markup where there is no terminal."""
    long = "[red]" + "x" * 300
    print_table(("name", ">size"), [(long, "1 B"), ("b", "10 B")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1].split() == [long, "1", "B"]


def test_table_fits_a_terminal() -> None:
    """On a terminal the last column is wrapped and whole; in a pipe no line ends with spaces."""
    code = (
        "from s3backfs.cli.terminal import print_table;"
        "print_table(('name', ''), [('a', 'word ' * 40), ('b', 'x')])"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "dumb"}
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        subprocess.run([sys.executable, "-c", code], stdout=theirs, env=environment, check=True)
        shown = terminal.read(65536).decode()
        os.close(theirs)
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("word") == 40
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert piped.stdout.count("\n") == 3
    assert all(line == line.rstrip() for line in piped.stdout.splitlines())
