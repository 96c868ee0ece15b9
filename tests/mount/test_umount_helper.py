"""umount(8) waits for what is left to store where the helper of contrib/ is installed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mount.trees import needs
from tests.mounts import Machine

pytestmark = [
    pytest.mark.mount,
    needs("unshare", "umount"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a place with another /sbin"),
]

HELPER = Path(__file__).parents[2] / "contrib" / "umount.fuse.s3backfs"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """What /sbin gets in addition, and a directory with `s3backfs` for the path."""
    directory = tmp_path / "sbin"
    directory.mkdir()
    command = tmp_path / "bin" / "s3backfs"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m s3backfs.cli "$@"\n')
    command.chmod(0o755)
    helper = directory / HELPER.name
    helper.write_text(HELPER.read_text().replace("program=s3backfs", f"program={command}"))
    helper.chmod(0o755)
    return directory


def run_with_helper(machine: Machine, programs: Path, script: str) -> str:
    """Run a script where /sbin has the helper; return what it prints."""
    sbin = Path("/sbin").resolve()
    prepare = f"mount -t overlay none -o lowerdir={programs}:{sbin} {sbin} || exit 99"
    mountpoint = machine.home / "mnt"
    mountpoint.mkdir()
    text = f"""
        {prepare}
        mount -t tmpfs none /run/mount || exit 99
        PATH={programs.parent}/bin:$PATH
        MNT={shlex.quote(str(mountpoint))}
        s3backfs mount "$MNT" || exit 1
        {script}
        mountpoint -q "$MNT" && umount -i -l "$MNT"
        exit 0
    """
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", text],
        env=machine.variables(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if done.returncode == 99:
        pytest.skip(f"no overlay can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_plain_umount_waits(machine: Machine, programs: Path) -> None:
    """When umount(8) returns 0 the backup is sealed and the mount is gone."""
    said = run_with_helper(
        machine,
        programs,
        """
        mkdir "$MNT/monday" && head -c 20000000 /dev/urandom >"$MNT/monday/file"
        umount "$MNT"; echo "umount $?"
        s3backfs list
        mountpoint "$MNT"
        """,
    )
    # The table of what was sealed is the helper's.
    assert "sealed" in said.partition("umount 0\n")[0]
    assert "is not a mountpoint" in said


def test_a_busy_mount_stays(machine: Machine, programs: Path) -> None:
    """umount(8) of a mount in use fails with the reason; lazily it is detached at once."""
    said = run_with_helper(
        machine,
        programs,
        """
        mkdir "$MNT/monday"
        exec 9>"$MNT/monday/file"
        umount "$MNT"; echo "umount $?"
        umount -l "$MNT"; echo "lazily $?"
        exec 9>&-
        """,
    )
    assert "busy" in said
    assert "umount 3\n" in said
    assert "lazily 0\n" in said


def test_a_dead_mount_is_removed(machine: Machine, programs: Path) -> None:
    """umount(8) of a mount whose process was killed says so and removes it."""
    said = run_with_helper(
        machine,
        programs,
        """
        mkdir "$MNT/monday"
        for process in $(grep -lsz "^$MNT\\$" /proc/[0-9]*/cmdline | cut -d/ -f3); do
            case $(tr '\\0' ' ' <"/proc/$process/cmdline") in
                *s3backfs.cli*) kill -9 "$process" ;;
            esac
        done
        umount "$MNT"
        mountpoint "$MNT"
        """,
    )
    assert "the process behind" in said
    assert "is not a mountpoint" in said
