"""The words of `check`: its arguments, and what it prints."""

from __future__ import annotations

import pytest

from s3backfs.cli.check import PATHS_MAX_COUNT, damage_lines, name_all
from s3backfs.cli.terminal import plural
from s3backfs.maintenance import affected
from s3backfs.maintenance.findings import Damage, What

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


def test_a_pack_that_is_gone_is_one_line() -> None:
    """Frames of one pack that are lost in the same way are counted in one line; others stand."""
    damages = [Damage(What.FRAME, "data/a", at, "the pack is gone", "") for at in (70, 5, 900)]
    damages.insert(1, Damage(What.FRAME, "data/b", 5, "it does not open", ""))
    damages.append(Damage(What.ROOT, "backups/x", 0, "it does not open", ""))
    assert list(damage_lines(damages)) == [
        "damaged: 3 frames of data/a, the first at byte 5: the pack is gone",
        "damaged frame: data/b at byte 5: it does not open",
        "damaged root: backups/x: it does not open",
    ]


@pytest.mark.parametrize(("count", "text"), [(0, "0 packs"), (1, "1 pack"), (2, "2 packs")])
def test_plurals(count: int, text: str) -> None:
    """One is told as one."""
    assert plural(count, "pack") == text


def test_how_many_names_are_kept() -> None:
    """The number that is printed is the one of names that a check keeps."""
    assert affected.PATHS_MAX_COUNT == PATHS_MAX_COUNT
