"""Old roots of open backups that somebody has put back, and all that only looks like it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from tests.mounts import Machine, Mount
from tests.servers import Server

pytestmark = pytest.mark.mount

NEVER = ("--idle-checkpoint", "1h", "--max-checkpoint", "1h")
ALARM = "somebody has put an old root back"


@pytest.fixture
def local(tmp_path: Path) -> Machine:
    """A machine with a repository in a directory, where conditions are enforced."""
    home = tmp_path / "l"
    home.mkdir()
    (tmp_path / "repository").mkdir()
    machine = Machine(home, f"file://{tmp_path / 'repository'}")
    machine.run("init")
    return machine


def another(machine: Machine, tmp_path: Path) -> Machine:
    """A machine that shares the repository alone."""
    home = tmp_path / "a"
    home.mkdir()
    return dataclasses.replace(machine, home=home)


def open_roots(tmp_path: Path) -> dict[Path, bytes]:
    """The open roots as they are now."""
    found = (tmp_path / "repository" / "open").rglob("*")
    return {path: path.read_bytes() for path in found if path.is_file()}


def put_back(roots: dict[Path, bytes]) -> None:
    """Put roots where they were."""
    for path, data in roots.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


def store(mount: Mount, path: str) -> None:
    """Write a file, and have it stored."""
    (mount.path / path).write_text(path)
    mount.machine.run("sync", str(mount.path))


def sealed_root(machine: Machine, tmp_path: Path, path: str) -> dict[Path, bytes]:
    """Seal a new backup `b` that holds one file; its root as it is now."""
    with machine.mounted() as mount:
        (mount.path / "b").mkdir()
        store(mount, path)
    (root,) = (tmp_path / "repository" / "backups").iterdir()
    return {root: root.read_bytes()}


def remembered(machine: Machine) -> list[str]:
    """The backups whose open roots are remembered."""
    found = (machine.home / "state" / "s3backfs").glob("*/open/*/*")
    return [path.name for path in found]


def rewound(machine: Machine, tmp_path: Path) -> None:
    """Leave a backup that is older than the mount that was killed had stored it."""
    with machine.mounted(*NEVER) as mount:
        (mount.path / "b").mkdir()
        store(mount, "b/old")
        before = open_roots(tmp_path)
        store(mount, "b/newer")
        mount.kill()
    put_back(before)


def found_after(machine: Machine, *options: str) -> list[str]:
    """Mount, look at the backup `b`, kill; no alarm may be raised."""
    with machine.mounted(*NEVER, *options) as mount:
        names = sorted(os.listdir(mount.path / "b"))
        (mount.path / "b" / "probe").touch()
        mount.kill()
    assert ALARM not in machine.log()
    return names


def test_an_old_root_that_was_put_back_is_told(local: Machine, tmp_path: Path) -> None:
    """The command, status and the log say so; the backup can be read, and is not gone on with."""
    rewound(local, tmp_path)
    before = open_roots(tmp_path)
    for _ in range(2):
        path = local.home / "mnt"
        done = local.run("mount", local.url, str(path))
        mount = Mount(local, path)
        try:
            assert [ALARM in line for line in done.stderr.splitlines()].count(True) == 1
            assert "another writer's" not in done.stderr
            status = json.loads(local.run("status", "--json", str(path)).stdout)
            assert ALARM in status["last_error"]
            assert os.listdir(path / "b") == ["old"]
            with pytest.raises(OSError, match="Read-only"):
                (path / "b" / "more").touch()
            (path / "another").mkdir(exist_ok=True)
            mount.umount("--keep-open")
        finally:
            mount.clean_up()
    assert ALARM in local.log()
    kept = open_roots(tmp_path)
    assert {name: kept[name] for name in before} == before


def test_taking_over_goes_on_from_an_old_root(local: Machine, tmp_path: Path) -> None:
    """With --take-over it is written again, and later mounts have nothing to say."""
    rewound(local, tmp_path)
    with local.mounted("--take-over", *NEVER) as mount:
        store(mount, "b/after")
        mount.kill()
    told = local.log().count(ALARM)
    with local.mounted() as mount:
        assert sorted(os.listdir(mount.path / "b")) == ["after", "old"]
        (mount.path / "b" / "last").touch()
    assert local.log().count(ALARM) == told


@pytest.mark.parametrize("state", ["sealed", "open"])
def test_an_old_sealed_root_that_was_put_back_is_told(
    local: Machine, tmp_path: Path, state: str
) -> None:
    """A sealed root from before a reopening is told, and what it holds can be read."""
    before = sealed_root(local, tmp_path, "b/old")
    with local.mounted(*NEVER) as mount:
        local.run("reopen", str(mount.path / "b"))
        store(mount, "b/newer")
        if state == "open":
            mount.kill()
    assert ALARM not in local.log()
    put_back(before)
    with local.mounted("--read-only") as mount:
        assert os.listdir(mount.path / "b") == ["old"]
        status = json.loads((mount.path / ".s3backfs" / "status.json").read_text())
        assert ALARM in status["last_error"]
    assert "backup b is older than this machine has left it" in local.log()


def test_an_interrupted_reopening_is_not_old(local: Machine, tmp_path: Path) -> None:
    """Until the sealed root is removed it is the one that counts."""
    before = sealed_root(local, tmp_path, "b/file")
    with local.mounted(*NEVER) as mount:
        local.run("reopen", str(mount.path / "b"))
        mount.kill()
    put_back(before)
    with local.mounted() as mount:
        assert os.listdir(mount.path / "b") == ["file"]
        local.run("reopen", str(mount.path / "b"))
        store(mount, "b/more")
    assert ALARM not in local.log()


def test_what_another_machine_took_over_is_not_old(local: Machine, tmp_path: Path) -> None:
    """Another machine goes on with a backup: its roots have a higher epoch."""
    with local.mounted(*NEVER) as mount:
        (mount.path / "b").mkdir()
        for number in range(4):
            store(mount, f"b/{number}")
        mount.kill()
    with another(local, tmp_path).mounted("--take-over", "--keep-open") as mount:
        (mount.path / "b" / "theirs").touch()
    assert len(found_after(local, "--take-over")) == 5


def test_a_renamed_backup_is_not_old(local: Machine, tmp_path: Path) -> None:
    """What an interrupted rename leaves under the old name is older, and does not count."""
    with local.mounted(*NEVER) as mount:
        (mount.path / "a").mkdir()
        store(mount, "a/file")
        before = open_roots(tmp_path)
        (mount.path / "a").rename(mount.path / "b")
        store(mount, "b/more")
        mount.kill()
    put_back(before)
    assert found_after(local) == ["file", "more"]


def test_another_backup_of_the_name_is_not_old(local: Machine) -> None:
    """A backup that was removed, and another one under its name, have nothing in common."""
    with local.mounted(*NEVER) as mount:
        (mount.path / "b").mkdir()
        store(mount, "b/file")
        (mount.path / "b" / "file").unlink()
        (mount.path / "b").rmdir()
        assert remembered(local) == []
        (mount.path / "b").mkdir()
        mount.kill()
    assert found_after(local) == []


def test_a_sealed_and_reopened_backup_is_not_old(local: Machine, tmp_path: Path) -> None:
    """Nothing is remembered of a sealed backup, and who reopens it raises the epoch."""
    with local.mounted(*NEVER) as mount:
        (mount.path / "b").mkdir()
        store(mount, "b/file")
    assert remembered(local) == []
    second = another(local, tmp_path)
    with local.mounted("--keep-open") as mount:
        local.run("reopen", str(mount.path / "b"))
        (mount.path / "b" / "one").touch()
    with second.mounted("--take-over") as mount:
        (mount.path / "b" / "two").touch()
    with second.mounted("--keep-open") as mount:
        second.run("reopen", str(mount.path / "b"))
    assert found_after(local, "--take-over") == ["file", "one", "two"]


def test_a_fenced_backup_is_not_old(local: Machine, tmp_path: Path) -> None:
    """Prune takes a dead writer for gone and raises the epoch of what it left open."""
    with local.mounted("--lease", "1s", *NEVER) as mount:
        (mount.path / "b").mkdir()
        store(mount, "b/file")
        mount.kill()
    before = open_roots(tmp_path)
    second = another(local, tmp_path)
    with second.mounted() as mount:
        (mount.path / "gone").mkdir()
        (mount.path / "gone" / "file").write_bytes(os.urandom(1 << 20))
    second.run("delete", second.url, "gone")
    second.run("prune", second.url, "--grace", "0s")
    assert open_roots(tmp_path) != before
    assert found_after(local) == ["file"]


def test_a_copy_of_the_bucket_is_not_old(local: Machine, tmp_path: Path) -> None:
    """What stands at another URL has an age of its own."""
    with local.mounted(*NEVER) as mount:
        (mount.path / "b").mkdir()
        store(mount, "b/file")
        shutil.copytree(tmp_path / "repository", tmp_path / "copy")
        store(mount, "b/more")
        mount.kill()
    copy = dataclasses.replace(local, url=f"file://{tmp_path / 'copy'}")
    assert found_after(copy) == ["file"]
    # The copy's mount has taken the dead writer for its own.
    assert found_after(local, "--take-over") == ["file", "more"]


def test_an_old_root_beside_its_newer_copy_is_not_old(machine: Machine, server: Server) -> None:
    """Where conditions are not enforced a late request may bring an old root: the copy counts."""
    bucket, _, prefix = machine.url.removeprefix("s3://").partition("/")
    client = server.client()
    with machine.mounted(*NEVER) as mount:
        (mount.path / "b").mkdir()
        store(mount, "b/old")
        listed = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/open/")["Contents"]
        key = listed[0]["Key"]
        before = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        store(mount, "b/newer")
        mount.kill()
    client.put_object(Bucket=bucket, Key=key, Body=before)
    client.close()
    assert found_after(machine) == ["newer", "old"]


def test_what_is_remembered_is_private(local: Machine) -> None:
    """Nobody else can read which backups this machine has open."""
    with local.mounted("--keep-open") as mount:
        (mount.path / "b").mkdir()
    (path,) = (local.home / "state" / "s3backfs").glob("*/open/*")
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
