"""A tree goes in on one machine and comes out on another."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mount.trees import differences, make_tree, rsync
from tests.mounts import Machine

pytestmark = pytest.mark.mount


def test_every_byte_and_attribute_comes_back(
    machine: Machine, other: Machine, tmp_path: Path
) -> None:
    """What rsync -aHAX wrote on one machine is read unchanged on another one."""
    source = tmp_path / "source"
    make_tree(source)
    with machine.mounted() as mount:
        rsync("-aHAX", "--numeric-ids", f"{source}/", f"{mount.path}/monday/")
        assert differences(source, mount.path / "monday") == ""
    with other.mounted() as mount:
        assert differences(source, mount.path / "monday") == ""
        restored = tmp_path / "restored"
        rsync("-aHAX", "--numeric-ids", f"{mount.path}/monday/", f"{restored}/")
        assert differences(source, restored) == ""


def test_a_second_backup_links_to_the_first(
    machine: Machine, other: Machine, tmp_path: Path
) -> None:
    """rsync --link-dest moves no data, and both backups are whole on another machine."""
    source = tmp_path / "source"
    make_tree(source)
    with machine.mounted() as mount:
        rsync("-aHAX", "--numeric-ids", f"{source}/", f"{mount.path}/monday/")
    old = tmp_path / "old"
    rsync("-aHAX", "--numeric-ids", f"{source}/", f"{old}/")
    (source / "tiny").write_bytes(b"changed")
    (source / "new").write_bytes(b"new")
    with machine.mounted() as mount:
        rsync(
            "-aHAX",
            "--numeric-ids",
            "--link-dest=../monday",
            f"{source}/",
            f"{mount.path}/tuesday/",
        )
    with other.mounted() as mount:
        assert differences(source, mount.path / "tuesday") == ""
        assert differences(old, mount.path / "monday") == ""


def test_a_killed_mount_goes_on_from_its_last_checkpoint(machine: Machine, tmp_path: Path) -> None:
    """After kill -9 what was synced is there, and the same machine goes on writing it."""
    with machine.mounted() as mount:
        backup = mount.path / "monday"
        backup.mkdir()
        (backup / "first").write_bytes(b"first" * 1000)
        machine.run("sync", str(mount.path))
        (backup / "second").write_bytes(b"second")
        mount.kill()
    with machine.mounted() as mount:
        backup = mount.path / "monday"
        assert (backup / "first").read_bytes() == b"first" * 1000
        (backup / "third").write_bytes(b"third")
    with machine.mounted() as mount:
        assert (mount.path / "monday" / "third").read_bytes() == b"third"
        with pytest.raises(OSError, match="Read-only file system"):
            (mount.path / "monday" / "fourth").touch()
