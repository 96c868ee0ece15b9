"""What becomes of a backup when a program that wrote to it was told of an error."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from tests.mounts import Machine, Mount
from tests.proxy import FaultName, Incoming, Proxy

pytestmark = pytest.mark.mount


def refuse_data(incoming: Incoming) -> FaultName | None:
    """No pack of data may be stored."""
    return "403" if incoming.method in ("PUT", "POST") and "/data/" in incoming.path else None


def states(machine: Machine) -> dict[str, str]:
    """The state of each backup."""
    listed = json.loads(machine.run("list", "--json").stdout)
    return {backup["name"]: backup["state"] for backup in listed}


def fail_to_sync(path: Path) -> None:
    """Ask for what is refused."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(PermissionError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lose_a_write(mount: Mount, proxy: Proxy, name: str) -> None:
    """Write two megabytes of which the second is refused; afterwards S3 takes everything."""
    backup = mount.path / name
    backup.mkdir()
    with open(backup / "file", "wb", buffering=0) as file:
        file.write(os.urandom(1 << 20))
        proxy.script = refuse_data
        fail_to_sync(backup)
        with pytest.raises(OSError, match=os.strerror(errno.EACCES)):
            file.write(b"lost" * (1 << 18))
    proxy.script = lambda _: None


def test_a_refused_write_keeps_its_backup_open(behind: Machine, proxy: Proxy) -> None:
    """It is not sealed though all that was taken is stored, until a later mount writes to it."""
    with behind.mounted() as mount:
        (mount.path / "whole").mkdir()
        lose_a_write(mount, proxy, "torn")
        ended = mount.umount(check=False)
        assert ended.returncode == 1
        assert "backup torn stays open" in ended.stderr
    assert states(behind) == {"torn": "open", "whole": "sealed"}
    with behind.mounted():
        pass
    assert states(behind)["torn"] == "open"
    with behind.mounted() as mount:
        (mount.path / "torn" / "file").write_bytes(b"all of it")
    assert states(behind)["torn"] == "sealed"


def test_what_is_written_later_does_not_make_it_whole(behind: Machine, proxy: Proxy) -> None:
    """A copy that goes on with its next file, or takes the torn one away, was torn all the same."""
    with behind.mounted() as mount:
        lose_a_write(mount, proxy, "torn")
        (mount.path / "torn" / "file").unlink()
        (mount.path / "torn" / "next").write_bytes(b"next")
        assert mount.umount(check=False).returncode == 1
    assert states(behind) == {"torn": "open"}


def test_sealing_after_a_refused_write_is_to_be_forced(behind: Machine, proxy: Proxy) -> None:
    """`seal` refuses such a backup in one line, and seals it with --force."""
    with behind.mounted() as mount:
        lose_a_write(mount, proxy, "torn")
        path = str(mount.path / "torn")
        refused = behind.run("seal", path, check=False)
        assert (refused.returncode, refused.stderr.count("\n")) == (10, 1)
        assert "--force" in refused.stderr
        assert states(behind) == {"torn": "open"}
        behind.run("seal", "--force", path)
        assert mount.umount().stderr == ""
    assert states(behind) == {"torn": "sealed"}


def test_a_failed_fsync_alone_tears_nothing(behind: Machine, proxy: Proxy) -> None:
    """Where all that was written is stored in the end, the backup is sealed."""
    with behind.mounted() as mount:
        (mount.path / "whole").mkdir()
        with open(mount.path / "whole" / "file", "wb", buffering=0) as file:
            file.write(os.urandom(1 << 20))
            proxy.script = refuse_data
            with pytest.raises(PermissionError):
                os.fsync(file.fileno())
            proxy.script = lambda _: None
            os.fsync(file.fileno())
        assert mount.umount().returncode == 0
    assert states(behind) == {"whole": "sealed"}
