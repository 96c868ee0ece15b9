"""Repair by the command line: what is readable in mounts after damage was planted."""

from __future__ import annotations

import errno
import json
import os
import random
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounts import Machine
from tests.servers import Server

pytestmark = pytest.mark.mount

SIZE_BYTES = 12 << 20
CONTENT = random.Random(1).randbytes(SIZE_BYTES)
SMALL = random.Random(2).randbytes(5000)

Flip = Callable[[str, int], str]
"""Change a bit of the largest object below a prefix, at a part of its length in percent."""


def _flipped(data: bytes, percent: int) -> bytes:
    offset = len(data) * percent // 100
    return data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]


def _local(tmp_path: Path) -> tuple[Machine, Flip]:
    directory = _home(tmp_path, "repository")

    def flip(prefix: str, percent: int) -> str:
        path = max((directory / prefix).iterdir(), key=lambda found: found.stat().st_size)
        path.chmod(0o600)
        path.write_bytes(_flipped(path.read_bytes(), percent))
        return f"{prefix}/{path.name}"

    return Machine(_home(tmp_path, "w"), directory.as_uri()), flip


def _remote(tmp_path: Path, server: Server, url: str) -> tuple[Machine, Flip]:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")

    def flip(kind: str, percent: int) -> str:
        client = server.client()
        listed = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/{kind}/")["Contents"]
        key = max(listed, key=lambda found: found["Size"])["Key"]
        data = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        client.put_object(Bucket=bucket, Key=key, Body=_flipped(data, percent))
        return str(key).removeprefix(f"{prefix}/")

    return Machine(_home(tmp_path, "w"), url, server.environment), flip


def _home(tmp_path: Path, name: str) -> Path:
    home = tmp_path / name
    home.mkdir()
    return home


def _fill(machine: Machine) -> None:
    machine.run("init")
    with machine.mounted() as mount:
        top = mount.path / "monday"
        (top / "dir").mkdir(parents=True)
        (top / "dir" / "large").write_bytes(CONTENT)
        for number in range(1500):
            (top / "dir" / f"{number} {'long name ' * 15}").symlink_to("target" * 10)
        (top / "dir" / "small").write_bytes(SMALL)


@pytest.fixture
def place(
    request: pytest.FixtureRequest, tmp_path: Path, server: Server, url: str
) -> tuple[Machine, Flip]:
    """A machine with a backup, and a way to damage what it has stored."""
    made = _local(tmp_path) if request.param == "file" else _remote(tmp_path, server, url)
    _fill(made[0])
    return made


def _reader(tmp_path: Path, machine: Machine) -> Machine:
    return Machine(_home(tmp_path, "r"), machine.url, machine.environment)


def _error(path: Path) -> int | None:
    try:
        path.read_bytes()
    except OSError as error:
        return error.errno
    return None


@pytest.mark.parametrize("place", ["file", "rclone"], indirect=True)
def test_pack(place: tuple[Machine, Flip], tmp_path: Path) -> None:
    """What is beyond repair gives EIO, all else reads, and the next backup stores it again."""
    machine, flip = place
    key = flip("data", 50)
    done = machine.run("repair", "pack", key, machine.url, "--wait", "0s", "--json", check=False)
    assert done.returncode == 20
    result = json.loads(done.stdout)
    assert (result["lost"], result["deleted_packs"]) == (1, [key])
    with machine.mounted() as mount:
        assert (mount.path / "monday" / "dir" / "small").read_bytes() == SMALL
        (mount.path / "tuesday").mkdir()
        (mount.path / "tuesday" / "large").write_bytes(CONTENT)
    with _reader(tmp_path, machine).mounted("--read-only") as mount:
        assert _error(mount.path / "monday" / "dir" / "large") == errno.EIO
        assert (mount.path / "tuesday" / "large").read_bytes() == CONTENT


@pytest.mark.parametrize("place", ["rclone"], indirect=True)
def test_pack_from_source(place: tuple[Machine, Flip], tmp_path: Path) -> None:
    """With the source at hand everything reads again, and check finds all sound."""
    machine, flip = place
    key = flip("data", 50)
    source = _home(tmp_path, "source")
    (source / "renamed").write_bytes(CONTENT)
    arguments = ("repair", "pack", key, machine.url, "--from", str(source), "--wait", "0s")
    assert "1 found elsewhere, 0 lost" in machine.run(*arguments).stdout
    assert machine.run("check", machine.url, "--read-data").returncode == 0
    with _reader(tmp_path, machine).mounted("--read-only") as mount:
        assert (mount.path / "monday" / "dir" / "large").read_bytes() == CONTENT


@pytest.mark.parametrize("place", ["file"], indirect=True)
def test_met_damage(place: tuple[Machine, Flip], tmp_path: Path) -> None:
    """Who has read a damaged chunk does not deduplicate against it in the same mount."""
    machine, flip = place
    flip("data", 50)
    with machine.mounted() as mount:
        assert _error(mount.path / "monday" / "dir" / "large") == errno.EIO
        (mount.path / "tuesday").mkdir()
        (mount.path / "tuesday" / "large").write_bytes(CONTENT)
    with _reader(tmp_path, machine).mounted("--read-only") as mount:
        assert (mount.path / "tuesday" / "large").read_bytes() == CONTENT


@pytest.mark.parametrize("place", ["file"], indirect=True)
def test_backup(place: tuple[Machine, Flip], tmp_path: Path) -> None:
    """The new backup can be listed and read, is shown as incomplete, and the old one stays."""
    machine, flip = place
    flip("meta", 1)
    done = machine.run("repair", "backup", "monday", machine.url, "--json", check=False)
    assert done.returncode == 20
    result = json.loads(done.stdout)
    assert result["name"] == "monday-repaired"
    rows = {row["name"]: row for row in json.loads(machine.run("list", "--json").stdout)}
    assert [rows[name]["incomplete"] for name in ("monday", "monday-repaired")] == [False, True]
    assert "sealed, incomplete" in machine.run("list").stdout
    assert "monday-repaired is incomplete" in machine.run("check", check=False).stdout
    with _reader(tmp_path, machine).mounted("--read-only") as mount:
        top = mount.path / "monday-repaired"
        names = os.listdir(top / "dir")
        assert 0 < len(names) < 1502
        assert (top / "dir" / "small").read_bytes() == SMALL
        assert all((top / "dir" / name).lstat() for name in names)


def _fill_linked(machine: Machine) -> None:
    """Names of hard-linked files in two directories: few lie in one leaf with their other name."""
    machine.run("init")
    with machine.mounted() as mount:
        top = mount.path / "monday"
        (top / "alpha").mkdir(parents=True)
        (top / "omega").mkdir()
        for number in range(700):
            (top / "alpha" / f"{number}").touch()
            os.link(top / "alpha" / f"{number}", top / "omega" / f"{number:04} file")
            (top / "omega" / f"{number:04} directory").mkdir()


def _check_counts(top: Path) -> None:
    """Hold every st_nlink to the names that are there."""
    names: Counter[int] = Counter()
    counts: dict[int, int] = {}
    for path in [top, *top.rglob("*")]:
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode):
            inside = sum(child.is_dir() for child in path.iterdir())
            assert status.st_nlink == 2 + inside, path
        else:
            names[status.st_ino] += 1
            counts[status.st_ino] = status.st_nlink
    assert counts == names


def test_backup_link_counts(tmp_path: Path) -> None:
    """In a repaired backup st_nlink of files and directories counts the names that are left."""
    machine, flip = _local(tmp_path)
    _fill_linked(machine)
    flip("meta", 70)
    assert machine.run("repair", "backup", "monday", check=False).returncode == 20
    with _reader(tmp_path, machine).mounted("--read-only") as mount:
        _check_counts(mount.path / "monday-repaired")
