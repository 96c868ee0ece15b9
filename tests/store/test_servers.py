"""The servers that the tests start."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

from tests.servers import rclone_server

_STARTER = """
import sys
from pathlib import Path
from tests.servers import rclone_server
with rclone_server(Path(sys.argv[1])) as server:
    print(server.process.pid, flush=True)
    sys.stdin.read()
"""


def test_a_server_ends_with_its_test(tmp_path: Path) -> None:
    """Leaving the context ends the process, also if it was paused."""
    with rclone_server(tmp_path / "data") as server:
        with server.paused():
            pass
        assert "secret" not in repr(server).replace(str(tmp_path), "")
    assert server.process.poll() is not None


def test_a_server_dies_with_its_parent(tmp_path: Path) -> None:
    """A killed test run leaves no server behind."""
    starter = subprocess.Popen(
        [sys.executable, "-c", _STARTER, str(tmp_path / "data")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    with starter:
        assert starter.stdout is not None
        server = os.pidfd_open(int(starter.stdout.readline()))
        starter.kill()
    try:
        ended, _, _ = select.select([server], [], [], 10)
        assert ended
    finally:
        os.close(server)
