"""How long work says how far it is."""

from __future__ import annotations

import threading

import click
import pytest
from click.testing import CliRunner

from s3backfs.cli.progress import Lines, progress_line, quiet_option, reporting
from s3backfs.reporting import silent


@pytest.mark.parametrize(
    ("done", "total", "elapsed_s", "line"),
    [
        (0, 0, 5, "walking"),
        (0, 4, 5, "walking: 0%"),
        (1, 4, 10, "walking: 25%, about 30 s left"),
        (1, 100, 60, "walking: 1%, about 1.6 h left"),
        (5, 4, 10, "walking: 100%, about 0 s left"),
    ],
)
def test_a_line_says_how_long_it_takes(
    done: float, total: float, elapsed_s: float, line: str
) -> None:
    """The share and the time that is left are told where the whole is known."""
    assert progress_line("walking", done, total, elapsed_s) == line


def test_names_in_lines_cannot_steer_the_terminal() -> None:
    """What is shown of names is printable."""
    assert progress_line("at \x1b[2J", 0, 0, 1) == "at \\x1b[2J"


def test_lines_come_though_nothing_new_is_said() -> None:
    """One report is repeated for as long as the work takes, and no more when it has ended."""
    written: list[str] = []
    twice = threading.Event()

    def write(line: str) -> None:
        written.append(line)
        if len(written) == 2:
            twice.set()

    with Lines(0.001, write) as lines:
        lines("waiting", 1, 2)
        assert twice.wait(30)
    count = len(written)
    assert all(line.startswith("waiting: 50%") for line in written)
    assert not any(thread.name == "progress" for thread in threading.enumerate())
    assert len(written) == count


@pytest.mark.parametrize(
    ("options", "is_silent"),
    [((), False), (("-q",), True), (("--quiet",), True), (("--json",), True)],
)
def test_who_wants_no_progress(options: tuple[str, ...], is_silent: bool) -> None:
    """--quiet and --json show none."""
    seen = []

    @click.command
    @click.option("--json", "as_json", is_flag=True)
    @quiet_option
    def verb(as_json: bool) -> None:
        with reporting() as report:
            seen.append(report is silent)

    assert CliRunner().invoke(verb, options, catch_exceptions=False).exit_code == 0
    assert seen == [bool(options)]
