"""Going to the background, seen from a process that does it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROLOGUE = """
import os, signal, sys
from pathlib import Path
from s3backfs.cli.daemon import launch
from s3backfs.cli.failures import explain
from s3backfs.cli.passphrase import prompt_passphrase
from s3backfs.errors import WrongKeyError
out = Path(sys.argv[1])
"""
EPILOGUE = """
try:
    code = launch(work, prompt_passphrase, Path("/the/log"))
except Exception as error:
    print(explain(error).text)
    code = explain(error).exit_code
print("command ends", flush=True)
sys.exit(code)
"""


def command(body: str, out: Path) -> list[str]:
    program = PROLOGUE + textwrap.dedent(body) + EPILOGUE
    return [sys.executable, "-c", program, str(out)]


def launched(body: str, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(body, out), capture_output=True, text=True, timeout=30, check=False
    )


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def test_ready(fifo: Path) -> None:
    """The command ends with 0 when the work is ready, and the work goes on, detached."""
    done = launched(
        """
        def work(link):
            link.ready()
            stdout = os.readlink("/proc/self/fd/1")
            facts = [os.getcwd(), os.getsid(0) != os.getpid(), os.isatty(0), stdout]
            out.write_text(repr(facts))
            return 0
        """,
        fifo,
    )
    assert (done.returncode, done.stdout) == (0, "command ends\n")
    assert fifo.read_text() == "['/', True, False, '/dev/null']"


def test_expected_failure(tmp_path: Path) -> None:
    """An error before the work is ready becomes the command's own text and exit code."""
    done = launched(
        """
        def work(link):
            raise WrongKeyError("wrong passphrase")
        """,
        tmp_path,
    )
    assert (done.returncode, done.stdout) == (13, "wrong passphrase\ncommand ends\n")


def test_bug(tmp_path: Path) -> None:
    """A bug before the work is ready is one line, too."""
    done = launched(
        """
        def work(link):
            raise ExceptionGroup("many", [ZeroDivisionError("by zero")])
        """,
        tmp_path,
    )
    assert done.returncode == 70
    assert done.stdout.startswith("ZeroDivisionError: by zero; this is a bug")
    assert "Traceback" not in done.stdout + done.stderr


def test_killed(tmp_path: Path) -> None:
    """A background process that is killed before it is ready does not leave the command waiting."""
    done = launched(
        """
        def work(link):
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
    )
    assert done.returncode == 1
    assert "see /the/log" in done.stdout


def test_passphrase_without_terminal(tmp_path: Path) -> None:
    """Where the foreground cannot ask, the work gets its error, and so does the user."""
    body = """
        def work(link):
            link.ask_passphrase()
    """
    with open(os.devnull) as nothing:
        done = subprocess.run(
            command(body, tmp_path), stdin=nothing, capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stdout.startswith("no passphrase: set S3BACKFS_PASSPHRASE_FILE")


def test_passphrase_from_terminal(fifo: Path) -> None:
    """The foreground asks on its terminal for the work, which has none."""
    body = """
        def work(link):
            secret = link.ask_passphrase()
            link.ready()
            out.write_bytes(secret)
            return 0
    """
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        command(body, fifo),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    ) as process:
        os.close(terminal)
        asked = b""
        while b"Passphrase" not in asked:
            asked += os.read(controller, 1024)
        os.write(controller, "gr\u00fcn \u20ac\n".encode())
        assert fifo.read_bytes() == "gr\u00fcn \u20ac".encode()
        assert process.wait(30) == 0
    os.close(controller)


@pytest.mark.parametrize("delay", [0, 0.5])
def test_interrupt(fifo: Path, delay: float) -> None:
    """Ctrl-C while the command waits ends the work, too, even before it knows whom it awaits."""
    body = f"""
        import time
        waitpid = os.waitpid
        def waits(*args):
            try:
                return waitpid(*args)
            finally:
                time.sleep({delay})
        os.waitpid = waits
        def work(link):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            with out.open("wb") as held:
                held.write(b"begun")
                held.flush()
                signal.pause()
    """
    with subprocess.Popen(
        command(body, fifo), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        with fifo.open("rb") as reader:
            assert reader.read(5) == b"begun"
            process.send_signal(signal.SIGINT)
            # Ends only when the last writer is gone.
            assert reader.read() == b""
        process.communicate(timeout=30)
