"""Rotation at the root of the mount, as rsnapshot does it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.mounts import Machine

pytestmark = pytest.mark.mount


def make_sealed(machine: Machine, name: str, *options: str) -> None:
    with machine.mounted(*options) as mount:
        (mount.path / name / "dir").mkdir(parents=True)
        (mount.path / name / "dir" / "file").write_bytes(b"content" * 100)
        os.link(mount.path / name / "dir" / "file", mount.path / name / "second")


def test_a_sealed_backup_stays_unless_forgetting_is_allowed(machine: Machine) -> None:
    """rm -rf of a sealed backup fails with EROFS, and leaves all of it."""
    make_sealed(machine, "daily.0")
    with machine.mounted() as mount:
        done = subprocess.run(
            ["rm", "-rf", str(mount.path / "daily.0")], capture_output=True, check=False
        )
        assert done.returncode
        assert b"Read-only file system" in done.stderr
        assert (mount.path / "daily.0" / "dir" / "file").read_bytes() == b"content" * 100


def test_rotation_by_mv_cp_and_rm(machine: Machine, other: Machine) -> None:
    """mv, cp -al and rm -rf rotate backups; what was linked stays whole elsewhere."""
    make_sealed(machine, "daily.0")
    with machine.mounted("-o", "allow-forget") as mount:
        (mount.path / "daily.0").rename(mount.path / "daily.1")
        subprocess.run(
            ["cp", "-al", str(mount.path / "daily.1"), str(mount.path / "daily.0")], check=True
        )
        (mount.path / "daily.0" / "new").write_bytes(b"new")
        shutil.rmtree(mount.path / "daily.1")
        assert sorted(path.name for path in mount.path.iterdir()) == ["daily.0"]
    with other.mounted() as mount:
        assert [path.name for path in mount.path.iterdir()] == ["daily.0"]
        top = mount.path / "daily.0"
        assert (top / "dir" / "file").read_bytes() == b"content" * 100
        assert (top / "second").stat().st_ino == (top / "dir" / "file").stat().st_ino
        assert (top / "new").read_bytes() == b"new"


def test_what_was_hidden_but_not_forgotten_comes_back(machine: Machine, tmp_path: Path) -> None:
    """A sealed backup whose removal was not finished is whole after a remount."""
    make_sealed(machine, "daily.0")
    with machine.mounted("-o", "allow-forget") as mount:
        (mount.path / "daily.0" / "dir" / "file").unlink()
        assert not (mount.path / "daily.0" / "dir" / "file").exists()
    with machine.mounted() as mount:
        assert (mount.path / "daily.0" / "dir" / "file").read_bytes() == b"content" * 100
