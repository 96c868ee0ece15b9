"""The recovery key as a QR code."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import segno
from click import unstyle

from s3backfs.cli.qr import qr_lines

from .conftest import Runner

WORDS = "-".join(["babab"] * 12)


def modules(lines: list[str]) -> list[list[int]]:
    """The dark modules that a drawing shows; what is drawn is light."""
    rows = []
    for line in lines:
        rows.append([int(block not in "█▀") for block in line])
        rows.append([int(block not in "█▄") for block in line])
    return rows


def test_the_drawing_is_the_code() -> None:
    """What is drawn is the QR code of the words, in a light frame of four modules."""
    drawn = modules(qr_lines(WORDS))
    code = segno.make_qr(WORDS.upper(), error="m")
    expected = [list(map(int, row)) for row in code.matrix_iter(border=4)]
    assert drawn[: len(expected)] == expected
    assert code.version == 4


@pytest.fixture
def url(tmp_path: Path, run_cli: Runner) -> str:
    """A repository in a directory."""
    (tmp_path / "repository").mkdir()
    made = (tmp_path / "repository").as_uri()
    assert run_cli("init", made, S3BACKFS_PASSPHRASE="secret").returncode == 0
    return made


def test_on_a_terminal(url: str, tmp_path: Path, run_cli: Runner) -> None:
    """On a terminal words and code are shown, and the words open the repository."""
    shown = run_on_terminal(tmp_path, "key", "add", url, "--recovery", "--qr")
    words, *lines = unstyle(shown).splitlines()
    assert lines == qr_lines(words)
    assert run_cli("list", url, S3BACKFS_PASSPHRASE=words).returncode == 0
    state = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert not [path for path in state if words.encode() in path.read_bytes()]


def run_on_terminal(home: Path, *arguments: str) -> str:
    """Run a command whose standard output is a terminal, and give what that shows."""
    ours, theirs = pty.openpty()
    variables = {
        "PATH": os.environ["PATH"], "HOME": str(home), "XDG_STATE_HOME": str(home / "state"),
        "LC_ALL": "C.UTF-8", "S3BACKFS_PASSPHRASE": "secret", "TERM": "xterm",
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "s3backfs.cli", *arguments], env=variables,
        stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE,
    ) as running:  # fmt: skip
        os.close(theirs)
        shown = bytearray()
        try:
            while data := os.read(ours, 65536):
                shown += data
        except OSError:
            # The other side is closed.
            pass
        finally:
            os.close(ours)
        assert running.stderr is not None
        errors = running.stderr.read().decode()
        assert running.wait() == 0, errors
    return shown.decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("options", "text"), [(["--recovery", "--qr"], "terminal"), (["--qr"], "--recovery")]
)
def test_nowhere_else(
    url: str, tmp_path: Path, run_cli: Runner, options: list[str], text: str
) -> None:
    """Into a file or a pipe nothing is drawn, and no slot is added; nor for other slots."""
    slots = list((tmp_path / "repository/keys").iterdir())
    done = run_cli("key", "add", url, *options, S3BACKFS_PASSPHRASE="secret")
    assert (done.returncode, done.stdout) == (2, "")
    assert text in done.stderr
    assert list((tmp_path / "repository/keys").iterdir()) == slots
