"""kill -9 of the mount process at random moments under a real rsync.

KILL_ROUNDS=50 kills that often; KILL_SEED=3 chooses other moments.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from tests.mount.trees import differences, rsync
from tests.mounts import Machine, Mount
from tests.servers import Server

pytestmark = pytest.mark.mount

ROUNDS = int(os.environ.get("KILL_ROUNDS", "3"))
SEED = int(os.environ.get("KILL_SEED", "1"))
LONGEST_RUN_S = 1.5
BACKUP = "monday"


def make_source(top: Path, randomness: random.Random) -> None:
    """Many small files, some large ones, hard links."""
    for number in range(40):
        directory = top / f"dir{number:02}"
        directory.mkdir(parents=True)
        for index in range(20):
            size = randomness.choice([0, 100, 3_000, 40_000])
            (directory / f"file{index}").write_bytes(randomness.randbytes(size))
        os.link(directory / "file1", directory / "second name")
    for number in range(4):
        (top / f"large{number}").write_bytes(randomness.randbytes(6 << 20))


def contents(top: Path) -> dict[Path, bytes]:
    """Every file that has its final name; rsync writes under a temporary one."""
    return {
        path.relative_to(top): path.read_bytes()
        for path in sorted(top.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def run_and_kill(
    mount: Mount, source: Path, randomness: random.Random, synced: set[Path]
) -> set[Path]:
    """Kill the mount under rsync; return the files that were synced for certain."""
    target = mount.path / BACKUP
    writer = subprocess.Popen(
        ["rsync", "-aHAX", f"{source}/", f"{target}/"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        if randomness.random() < 0.6:
            time.sleep(randomness.uniform(0.1, LONGEST_RUN_S))
            there = set(contents(target)) if target.exists() else set()
            mount.machine.run("sync", str(mount.path))
            synced = there
        time.sleep(randomness.uniform(0.0, LONGEST_RUN_S))
        mount.kill()
    finally:
        writer.kill()
        writer.wait()
    return synced


def stored_bytes(server: Server, machine: Machine) -> int:
    """What lies under `data/` in the bucket."""
    bucket, _, prefix = machine.url.removeprefix("s3://").partition("/")
    client = server.client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    listed = [item for page in pages for item in page.get("Contents", [])]
    client.close()
    return sum(item["Size"] for item in listed if "/data/" in item["Key"])


@pytest.mark.timeout(120 + 40 * ROUNDS)
def test_kill_again_and_again(
    machine: Machine, other: Machine, server: Server, tmp_path: Path
) -> None:
    """After each kill every file is whole, what was synced is there, and rsync completes it all."""
    randomness = random.Random(SEED)
    source = tmp_path / "source"
    make_source(source, randomness)
    wanted = contents(source)
    synced: set[Path] = set()
    for number in range(ROUNDS):
        with machine.mounted("--idle-checkpoint", "300ms", "--max-checkpoint", "1s") as mount:
            synced = run_and_kill(mount, source, randomness, synced)
        with other.mounted("-o", "ro") as mount:
            target = mount.path / BACKUP
            found = contents(target) if target.exists() else {}
            note = f"seed {SEED}, round {number}"
            assert synced <= set(found), f"{note}: lost {sorted(synced - set(found))[:5]}"
            wrong = [path for path, data in found.items() if data != wanted[path]]
            assert not wrong, f"{note}: not whole: {wrong[:5]}"
    with machine.mounted() as mount:
        rsync("-aHAX", "--delete", f"{source}/", f"{mount.path}/{BACKUP}/")
    with other.mounted() as mount:
        assert differences(source, mount.path / BACKUP) == ""
    size = sum(len(data) for data in wanted.values())
    assert stored_bytes(server, machine) < 2 * size, "what was stored was stored again"


def test_another_machine_goes_on(machine: Machine, other: Machine) -> None:
    """What a killed mount has synced another machine goes on with, only if it is told to."""
    with machine.mounted() as mount:
        (mount.path / BACKUP).mkdir()
        (mount.path / BACKUP / "first").write_bytes(b"first" * 1000)
        machine.run("sync", str(mount.path))
        mount.kill()
    with other.mounted() as mount:
        assert (mount.path / BACKUP / "first").read_bytes() == b"first" * 1000
        with pytest.raises(OSError, match="Read-only file system"):
            (mount.path / BACKUP / "second").touch()
    with other.mounted("--take-over") as mount:
        (mount.path / BACKUP / "second").write_bytes(b"second")
    with machine.mounted() as mount:
        assert (mount.path / BACKUP / "second").read_bytes() == b"second"
        with pytest.raises(OSError, match="Read-only file system"):
            (mount.path / BACKUP / "third").touch()


def test_what_becomes_of_a_crashed_night(machine: Machine) -> None:
    """A night that a crash has cut off is not sealed before somebody writes to it; others are."""
    with machine.mounted() as mount:
        (mount.path / BACKUP).mkdir()
        (mount.path / BACKUP / "part").write_bytes(b"part")
        machine.run("sync", str(mount.path))
        mount.kill()
    with machine.mounted() as mount:
        (mount.path / "tuesday").mkdir()
        (mount.path / "tuesday" / "file").write_bytes(b"file")
        assert (mount.path / BACKUP / "part").read_bytes() == b"part"
        assert f"{BACKUP} stays open" in mount.umount().stderr
    assert states(machine) == {BACKUP: "open", "tuesday": "sealed"}
    with machine.mounted() as mount:
        (mount.path / BACKUP / "rest").write_bytes(b"rest")
        assert mount.umount().stderr == ""
    assert states(machine) == {BACKUP: "sealed", "tuesday": "sealed"}


def test_mounting_says_which_backups_are_open(machine: Machine, other: Machine) -> None:
    """One line names the open backups that a mount goes on with, and those of other machines."""
    with machine.mounted() as mount:
        (mount.path / "nightly").mkdir()
        mount.kill()
    expected = "open backups: going on with nightly"
    again = machine.run("mount", machine.url, str(mount.path))
    try:
        assert again.stderr == f"s3backfs: {expected}\n"
        with other.mounted():
            pass
        assert expected in machine.log()
        assert "open backups: nightly: another writer's, read-only here" in other.log()
    finally:
        mount.clean_up()


def test_what_this_machine_remembers_is_private(machine: Machine) -> None:
    """State files are for their user alone, whichever command has written them."""
    with machine.mounted() as mount:
        (mount.path / "monday").mkdir()
        machine.run("list")
        machine.run("check")
    files = [path for path in (machine.home / "state").rglob("*") if path.is_file()]
    assert {"conditions", "epoch", "mode"} <= {path.name for path in files}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def states(machine: Machine) -> dict[str, str]:
    """Name and state of each backup."""
    listed = json.loads(machine.run("list", "--json").stdout)
    return {backup["name"]: backup["state"] for backup in listed}


def test_nothing_written_nothing_sealed(machine: Machine) -> None:
    """A mount that only looks at what a crash has left does not make it look complete."""
    with machine.mounted() as mount:
        (mount.path / BACKUP).mkdir()
        machine.run("sync", str(mount.path))
        mount.kill()
    with machine.mounted() as mount:
        os.listdir(mount.path / BACKUP)
        assert "stays open" in mount.umount().stderr
    with machine.mounted() as mount:
        (mount.path / BACKUP / "file").touch()
    with machine.mounted() as mount, pytest.raises(OSError, match="Read-only file system"):
        (mount.path / BACKUP / "other").touch()
