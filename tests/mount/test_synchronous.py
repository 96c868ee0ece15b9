"""Writes that are durable when they return: O_SYNC, O_DSYNC and mounts with -o sync."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.mounts import Machine, Mount

pytestmark = pytest.mark.mount

# No checkpoint runs by itself: what is there after a crash is there because it was asked for.
NEVER = ("--idle-checkpoint", "1h", "--max-checkpoint", "1h")


def write(path: Path, flags: int, data: bytes) -> None:
    """Open and write; no fsync."""
    descriptor = os.open(path, flags, 0o644)
    try:
        assert os.write(descriptor, data) == len(data)
    finally:
        os.close(descriptor)


def crashed(mount: Mount, machine: Machine) -> dict[str, bytes]:
    """Kill the mount, and read what another one finds in its backup."""
    mount.kill()
    with machine.mounted("--read-only") as again:
        return {path.name: path.read_bytes() for path in (again.path / "b").iterdir()}


@pytest.mark.parametrize("flag", ["O_SYNC", "O_DSYNC"])
def test_a_synchronous_write_is_durable_when_it_returns(machine: Machine, flag: str) -> None:
    """With O_SYNC and O_DSYNC a write survives a crash, whatever else the handle's flags are."""
    made, sync = os.O_CREAT | os.O_EXCL, getattr(os, flag)
    with machine.mounted(*NEVER) as mount:
        backup = mount.path / "b"
        backup.mkdir()
        (backup / "old").write_bytes(b"old")
        write(backup / "both", os.O_RDWR | made | sync, b"22")
        write(backup / "made", os.O_WRONLY | made | sync, b"1")
        write(backup / "old", os.O_WRONLY | os.O_APPEND | sync, b" and new")
        write(backup / "old", os.O_WRONLY | os.O_APPEND, b", not stored")
        found = crashed(mount, machine)
    assert found == {"made": b"1", "both": b"22", "old": b"old and new"}


def test_a_mount_with_sync_stores_every_write(machine: Machine) -> None:
    """On a mount with -o sync each write is durable when it returns, without O_SYNC."""
    with machine.mounted(*NEVER, "-o", "sync") as mount:
        (mount.path / "b").mkdir()
        write(mount.path / "b" / "cached", os.O_RDWR | os.O_CREAT, b"22")
        write(mount.path / "b" / "direct", os.O_WRONLY | os.O_CREAT, b"1")
        found = crashed(mount, machine)
    assert found == {"direct": b"1", "cached": b"22"}
