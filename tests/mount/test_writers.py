"""Which mount goes on with which open backup."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.mounts import Machine

pytestmark = pytest.mark.mount


def writer_files(machine: Machine) -> list[Path]:
    return sorted((machine.home / "state").rglob("writers/*"))


def test_a_kept_open_backup_is_gone_on_with(machine: Machine) -> None:
    """What was kept open is writable in the next mount of this machine; a seal leaves no writer."""
    with machine.mounted() as mount:
        (mount.path / "monday").mkdir()
        (mount.path / "monday" / "one").write_bytes(b"one")
        mount.umount("--keep-open")
    assert len(writer_files(machine)) == 1
    with machine.mounted() as mount:
        (mount.path / "monday" / "two").write_bytes(b"two")
    assert writer_files(machine) == []
    with machine.mounted() as mount:
        assert (mount.path / "monday" / "one").read_bytes() == b"one"
        assert (mount.path / "monday" / "two").read_bytes() == b"two"


def test_a_mount_waits_for_one_that_is_finishing(machine: Machine) -> None:
    """After a plain umount the next mount waits until all of the first one is in S3."""
    with machine.mounted() as mount:
        (mount.path / "monday").mkdir()
        (mount.path / "monday" / "file").write_bytes(bytes(range(256)) * 40_000)
        subprocess.run(["umount", str(mount.path)], check=True)
    with machine.mounted() as mount:
        assert (mount.path / "monday" / "file").read_bytes() == bytes(range(256)) * 40_000
        with pytest.raises(OSError, match="Read-only file system"):
            (mount.path / "monday" / "more").touch()
