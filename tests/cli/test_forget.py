"""The verbs that look after backups: what they refuse before they open anything."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from s3backfs.cli.find import path_test
from s3backfs.cli.finding import parse_moment
from s3backfs.cli.main import cli, run
from s3backfs.errors import ConfigurationError

URL = "file:///nonexistent/repository"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["forget", "--keep-last", "-1"], "--keep-last"),
        (["forget", "--keep-daily", "x"], "--keep-daily"),
        (["forget", "--keep-within", "soon"], "not a duration"),
        (["forget", "--keep-within", "6m"], "minutes or months"),
        (["forget", "--keep-last", "1", "--group-by", "colour"], "--group-by"),
        (["forget", "--keep-last", "1", "--group-by", ""], "--group-by"),
        (["forget", "--keep-last", "1", "--max-share", "nan"], "--max-share"),
        (["forget", URL, "--keep-tag", ""], "--keep-tag"),
        (["forget", URL, "--keep-tag", "=1"], "--keep-tag"),
        (["forget", "--keep-last", "1", "--max-share", "200%"], "--max-share"),
        (["forget", URL], "at least one --keep-"),
        (["forget", URL, "--keep-last", "0", "--min-keep", "3"], "at least one --keep-"),
        (["forget", URL, "--keep-within", "0s"], "--keep-... option above 0"),
        (["delete", URL], "give the NAME"),
        (["unforget"], "S3BACKFS_REPOSITORY"),
        (["tag", URL, "--note", "x"], "give the NAME"),
        (["diff", URL, "one"], "give two backups"),
        (["find", URL], "give one PATTERN"),
        (["find", URL, "x", "--newer", "soon"], "neither a date nor"),
        (["find", URL, "x", "--newer", "2026-13-01"], "no date"),
        (["versions", URL], "give one PATH"),
        (["stats", URL, "--by", "colour"], "--by"),
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: list[str],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What cannot be is refused with exit code 2, before anything is opened."""
    monkeypatch.delenv("S3BACKFS_REPOSITORY", raising=False)
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert text in error
    assert len(error.splitlines()) == 1


def test_the_variable_stands_for_the_url(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With S3BACKFS_REPOSITORY the first word is a name."""
    monkeypatch.setenv("S3BACKFS_REPOSITORY", URL)
    assert run(["delete", "monday"]) == 33
    assert "/nonexistent/repository" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["forget", "unforget", "delete", "tag", "diff", "find", "stats"])
def test_json_is_offered(verb: str) -> None:
    """Every verb that says something says it to programs too."""
    assert "--json" in CliRunner().invoke(cli, [verb, "--help"]).output


def test_moments() -> None:
    """A date is local midnight, a time of day is local, a duration is so long ago."""
    assert parse_moment("2026-11-21T06:00") - parse_moment("2026-11-21") == 6 * 3600 * 10**9
    day_ago = parse_moment("1d")
    assert 0 <= parse_moment("1s") - day_ago - 86399 * 10**9 < 60 * 10**9
    for text in ("soon", "2026-02-30", ""):
        with pytest.raises(ConfigurationError):
            parse_moment(text)


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        (b"*.conf", b"etc/a.conf", True),
        (b"*.conf", b"etc.conf/a", False),
        (b"etc/*", b"etc/a/b", True),
        (b"/etc/a/", b"etc/a", True),
        (b"etc/a", b"x/etc/a", False),
        (b"[ab]?", b"d/b\xff", True),
        (b"*", b".", False),
        (b"a\nb", b"a\nb", True),
        (b"*b", b"a\nb", True),
    ],
)
def test_patterns(pattern: bytes, path: bytes, fits: bool) -> None:
    """Patterns with a slash are held against paths, others against names, whatever the bytes."""
    assert path_test(pattern)(path) == fits
