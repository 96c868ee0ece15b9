"""`check --read-data`, whose value may be left out."""

from __future__ import annotations

import pytest

from s3backfs.cli.check import name_all

from .conftest import Runner


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], []),
        (["--read-data", "file:///x"], ["--read-data=100%", "file:///x"]),
        (["file:///x", "--read-data"], ["file:///x", "--read-data=100%"]),
        (["file:///x", "--read-data", "monday"], ["file:///x", "--read-data=100%", "monday"]),
        (["--read-data", "--json"], ["--read-data=100%", "--json"]),
        (["--read-data", "5%", "file:///x"], ["--read-data", "5%", "file:///x"]),
        (["--read-data", "10GB", "file:///x"], ["--read-data", "10GB", "file:///x"]),
        (["--read-data=5%", "file:///x"], ["--read-data=5%", "file:///x"]),
    ],
)
def test_words(words: list[str], named: list[str]) -> None:
    """What stands behind the option is its value only where it is an amount."""
    assert name_all(words) == named


def test_the_url_comes_last(run_cli: Runner) -> None:
    """The URL may stand behind `--read-data`, and a wrong amount is still told."""
    done = run_cli("check", "--read-data", "file:///nonexistent/place")
    assert (done.returncode, "/nonexistent/place" in done.stderr) == (33, True), done.stderr
    done = run_cli("check", "--read-data=much", "file:///nonexistent/place")
    assert (done.returncode, "a share like 5%" in done.stderr) == (2, True)
