"""What is printed for people."""

from __future__ import annotations

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
