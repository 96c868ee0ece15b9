"""The ways a mount ends: by `umount`, by a signal, under somebody's feet."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounts import TIMEOUT_S, Machine, Mount

pytestmark = pytest.mark.mount


def states(machine: Machine) -> dict[str, str]:
    listed = json.loads(machine.run("list", "--json").stdout)
    return {backup["name"]: backup["state"] for backup in listed}


def until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@contextlib.contextmanager
def tmpfs_on(path: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "none", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def leave_a_file_open(mount: Mount, name: str) -> int:
    (mount.path / name).mkdir()
    descriptor = os.open(mount.path / name / "file", os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, b"half")
    return descriptor


def test_a_busy_mount_stays_as_it_is(machine: Machine) -> None:
    """`umount` of a busy mount says so and changes nothing: the next one seals all the same."""
    with machine.mounted() as mount:
        descriptor = leave_a_file_open(mount, "monday")
        refused = mount.umount("--keep-open", check=False)
        assert (refused.returncode, refused.stderr.count("\n")) == (3, 1)
        assert "busy" in refused.stderr
        os.write(descriptor, b"whole")
        os.close(descriptor)
        assert mount.umount().stderr == ""
    assert states(machine) == {"monday": "sealed"}


def test_a_detached_mount_is_finished(machine: Machine) -> None:
    """After `umount -l` the command still ends the process; what was being written stays open."""
    with machine.mounted() as mount:
        descriptor = leave_a_file_open(mount, "torn")
        (mount.path / "whole").mkdir()
        subprocess.run(["umount", "-l", mount.path], check=True)
        done = mount.umount()
        with contextlib.suppress(OSError):
            os.close(descriptor)
    assert "torn stays open" in done.stderr
    assert states(machine) == {"torn": "open", "whole": "sealed"}


def test_plain_umount_seals(machine: Machine) -> None:
    """umount(8) does not wait, but the process goes on and seals."""
    with machine.mounted() as mount:
        (mount.path / "monday").mkdir()
        subprocess.run(["umount", mount.path], check=True)
        until(lambda: states(machine) == {"monday": "sealed"})


def test_sigterm_leaves_backups_open(machine: Machine) -> None:
    """SIGTERM makes everything durable and seals nothing; the next mount goes on."""
    with machine.mounted() as mount:
        (mount.path / "monday").mkdir()
        (mount.path / "monday" / "file").write_bytes(b"content")
        mount.terminate()
        assert not mount.is_there()
    assert states(machine) == {"monday": "open"}
    with machine.mounted() as mount:
        assert (mount.path / "monday" / "file").read_bytes() == b"content"
        (mount.path / "monday" / "more").write_bytes(b"more")
    assert states(machine) == {"monday": "sealed"}


def test_only_its_own_mount_is_taken_away(machine: Machine) -> None:
    """What was mounted over the mount point meanwhile is not unmounted by a process that ends."""
    with machine.mounted() as mount:
        cover = tmpfs_on(mount.path)
        with cover:
            (mount.path / "other").touch()
            mount.terminate()
            assert os.listdir(mount.path) == ["other"]
        assert mount.umount(check=False).returncode == 5
        assert not mount.is_there()


def test_no_credentials_for_umount(machine: Machine, tmp_path: Path) -> None:
    """The programs that a mount starts find no secret in their environment."""
    programs, seen = tmp_path / "programs", tmp_path / "seen"
    programs.mkdir()
    (programs / "umount").write_text(f'#!/bin/sh\nenv >{seen}\nexec /usr/bin/umount "$@"\n')
    (programs / "umount").chmod(0o755)
    path = {"PATH": f"{programs}:{os.environ['PATH']}"}
    machine.environment = {**machine.environment, **path}
    with machine.mounted():
        pass
    environment = seen.read_text()
    assert "PATH=" in environment
    assert "AWS_" not in environment
    assert "S3BACKFS" not in environment


def test_a_store_that_is_gone(tmp_path: Path) -> None:
    """`sync` and `umount` say in one line what is missing, and their exit codes tell."""
    directory, elsewhere = tmp_path / "repository", tmp_path / "elsewhere"
    directory.mkdir()
    machine = Machine(tmp_path, directory.as_uri())
    machine.run("init")
    with machine.mounted() as mount:
        (mount.path / "monday").mkdir()
        (mount.path / "monday" / "file").write_bytes(os.urandom(1 << 20))
        directory.rename(elsewhere)
        synced = machine.run("sync", str(mount.path), check=False)
        assert (synced.returncode, synced.stderr.count("\n")) == (33, 1)
        assert str(directory) in synced.stderr
        refused = mount.umount(check=False)
        assert (refused.returncode, refused.stderr.count("\n")) == (33, 1)
        assert "not unmounted" in refused.stderr
        elsewhere.rename(directory)
        mount.umount()
    assert "sealed" in machine.run("list").stdout


def test_what_cannot_be_stored_is_given_up_by_a_plain_umount(tmp_path: Path) -> None:
    """After a plain umount the process ends though the store refuses, and the backup stays open."""
    directory, elsewhere = tmp_path / "repository", tmp_path / "elsewhere"
    directory.mkdir()
    machine = Machine(tmp_path, directory.as_uri())
    machine.run("init")
    with machine.mounted() as mount:
        (mount.path / "monday").mkdir()
        machine.run("sync", str(mount.path))
        (mount.path / "monday" / "file").write_bytes(os.urandom(1 << 20))
        directory.rename(elsewhere)
        pid = mount.pid()
        subprocess.run(["umount", str(mount.path)], check=True)
        mount.await_end(pid)
    assert "monday is not complete" in machine.log()
    elsewhere.rename(directory)
    assert "open" in machine.run("list").stdout
