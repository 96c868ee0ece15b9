"""Long verbs on a terminal, and interrupted."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.mounts import TIMEOUT_S, Machine
from tests.proxy import FaultName, Incoming, Proxy, proxy_for
from tests.servers import Server

pytestmark = pytest.mark.mount

# What each verb asks for in the middle of its work.
VERBS = {
    ("check", "--read-data"): "/data/",
    ("prune",): "/moved/",
    ("find", "*"): "/backups/",
    ("diff", "one", "two"): "/tags/",
    ("stats",): "/meta/",
    ("versions", "file"): "/backups/",
    ("forget", "--keep-last", "1"): "/backups/",
    ("unforget",): "/trash/",
    ("repair", "index"): "/index/",
}


@pytest.fixture(scope="module")
def proxy(server: Server) -> Iterator[Proxy]:
    with proxy_for(server) as running:
        yield running


@pytest.fixture(scope="module")
def machine(proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A machine behind the proxy with two sealed backups."""
    url = f"s3://{proxy.server.make_bucket(f'long-{uuid.uuid4().hex}')}/prefix"
    machine = Machine(tmp_path_factory.mktemp("long"), url, proxy.server.environment, None)
    machine.run("init", "--encryption", "none", url)
    with machine.mounted() as mount:
        for name in ("one", "two"):
            (mount.path / name).mkdir()
            (mount.path / name / "file").write_bytes(os.urandom(300_000))
            for number in range(100):
                (mount.path / name / f"name {name} {number}").symlink_to("x" * 100)
    return machine


@contextmanager
def stalled(proxy: Proxy, part: str) -> Iterator[threading.Event]:
    """Let the first request with this in its path wait for an answer; the event says it came."""
    came = threading.Event()

    def script(incoming: Incoming) -> FaultName | None:
        asks = part in incoming.path.replace("%2F", "/") and not came.is_set()
        if asks:
            came.set()
        return "stalled" if asks else None

    proxy.script = script
    try:
        yield came
    finally:
        proxy.script = lambda _: None


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "s3backfs.cli", *words]


@pytest.mark.parametrize("words", VERBS, ids=lambda words: " ".join(words))
def test_an_interrupt_is_one_line(words: tuple[str, ...], machine: Machine, proxy: Proxy) -> None:
    """Ctrl-C in mid-work ends a verb with one line and exit code 130, and it can be repeated."""
    with (
        stalled(proxy, VERBS[words]) as came,
        subprocess.Popen(
            command(*words),
            env=machine.variables(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert came.wait(TIMEOUT_S)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out, err) == (130, "", "s3backfs: interrupted\n")
    machine.run(*words, *(("--dry-run",) if words[0] == "forget" else ()))


def on_terminal(machine: Machine, *words: str) -> str:
    """Run a verb whose standard error is a terminal, and say what came there."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        process = subprocess.Popen(
            command(*words),
            env={**machine.variables(), "TERM": "xterm", "COLUMNS": "100"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=theirs,
        )
        os.close(theirs)
        said = b""
        # At the end of a terminal that nobody holds open, Linux says EIO.
        with contextlib.suppress(OSError):
            while part := terminal.read(1 << 16):
                said += part
        assert process.wait(TIMEOUT_S) == 0
    return said.decode()


@pytest.mark.parametrize("words", [("check", "--read-data"), ("stats",), ("prune", "--dry-run")])
def test_a_bar_on_a_terminal(words: tuple[str, ...], machine: Machine) -> None:
    """What is done, and how much of it, is shown on a terminal, and nothing with --quiet."""
    said = on_terminal(machine, *words)
    assert "walking 2 backups" in said
    assert "100%" in said
    assert on_terminal(machine, *words, "--quiet") == ""
    assert on_terminal(machine, *words, "--json") == ""


def test_nothing_where_nobody_looks_on(machine: Machine) -> None:
    """What takes no minute writes no line into a log."""
    assert machine.run("check").stderr == ""
