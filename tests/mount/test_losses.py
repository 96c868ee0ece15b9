"""Packs that are lost while a mount writes: what the user is told."""

from __future__ import annotations

import errno
import json
import random

import pytest

from tests.mounts import Machine, Mount
from tests.servers import Server

pytestmark = pytest.mark.mount

CONTENT = random.Random(1).randbytes(3 << 20)
EXIT_INCOMPLETE = 20


def _lose_contents(server: Server, url: str) -> None:
    """Remove every data pack from the bucket."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    client = server.client()
    listed = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/data/")["Contents"]
    for found in listed:
        client.delete_object(Bucket=bucket, Key=found["Key"])


def _lose_and_learn(mount: Mount, server: Server, url: str) -> None:
    """Write a file, lose it, read it, write another one."""
    (mount.path / "monday").mkdir()
    (mount.path / "monday" / "file").write_bytes(CONTENT)
    mount.machine.run("sync", str(mount.path))
    _lose_contents(server, url)
    with pytest.raises(OSError, match="Input/output error") as caught:
        (mount.path / "monday" / "file").read_bytes()
    assert caught.value.errno == errno.EIO
    (mount.path / "monday" / "more").write_bytes(b"more" * 1000)
    mount.machine.run("sync", str(mount.path))


def test_a_seal_says_that_the_backup_is_incomplete(
    machine: Machine, server: Server, url: str
) -> None:
    """`seal` seals and says so by text and exit code; status, log and list say it too."""
    with machine.mounted() as mount:
        _lose_and_learn(mount, server, url)
        status = json.loads((mount.path / ".s3backfs" / "status.json").read_text())
        assert "is incomplete" in status["last_error"]
        done = machine.run("seal", str(mount.path / "monday"), check=False)
        assert done.returncode == EXIT_INCOMPLETE
        assert "incomplete" in done.stderr
    assert "monday: the backup is incomplete" in machine.log()
    assert "sealed, incomplete" in machine.run("list").stdout


def test_what_is_written_again_is_complete(machine: Machine, server: Server, url: str) -> None:
    """`umount` leaves an incomplete backup open; the next mount heals it by writing the file."""
    with machine.mounted() as mount:
        _lose_and_learn(mount, server, url)
        done = mount.umount(check=False)
        assert done.returncode == EXIT_INCOMPLETE
        assert "stays open: the backup is incomplete" in done.stderr
    assert "open, incomplete" in machine.run("list").stdout
    with machine.mounted() as mount:
        (mount.path / "monday" / "file").write_bytes(CONTENT)
    assert "incomplete" not in machine.run("list").stdout
