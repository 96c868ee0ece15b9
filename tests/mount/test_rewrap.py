"""`prune --rewrap` on a real server: what was written before a rotation goes to the new key."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.mount.test_prune import make_tree, rsync
from tests.mount.trees import differences
from tests.mounts import Machine
from tests.servers import Server

pytestmark = pytest.mark.mount

REWRAP = ("prune", "--rewrap", "--grace", "0s", "--max-unused", "100%", "--json")


def rewrap(machine: Machine, *options: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(machine.run(*REWRAP, *options).stdout)
    return result


def packs_by_epoch(machine: Machine) -> dict[int, int]:
    told = json.loads(machine.run("stats", "--json", machine.url).stdout)
    return {use["epoch"]: use["packs"] for use in told["epochs"]}


def make_two_nights(machine: Machine, tmp_path: Path) -> None:
    """A backup from before a rotation and one that links to it from after."""
    make_tree(tmp_path / "1", 1)
    (tmp_path / "1/many").mkdir()
    for number in range(800):
        (tmp_path / "1/many" / f"{number:0100}").touch()
    with machine.mounted() as mount:
        for directory in ("d0", "."):
            rsync(tmp_path / "1" / directory, mount.path / "1" / directory, "--mkpath")
            # A pack of its own for each.
            machine.run("sync", str(mount.path))
    machine.run("key", "rotate")
    rsync(tmp_path / "1", tmp_path / "2")
    (tmp_path / "2/d0/large").write_bytes(b"changed" * 100_000)
    with machine.mounted() as mount:
        rsync(tmp_path / "2", mount.path / "2", "--link-dest=../1")


def assert_whole(machine: Machine, tmp_path: Path) -> None:
    with machine.mounted("-o", "ro") as mount:
        for night in ("1", "2"):
            assert not differences(tmp_path / night, mount.path / night)


def test_killed_and_repeated(
    machine: Machine, other: Machine, server: Server, tmp_path: Path
) -> None:
    """A dry run says what is to do; bounded, killed and repeated, all goes to the new key."""
    make_two_nights(machine, tmp_path)
    before = packs_by_epoch(machine)
    assert before[0] >= 3
    assert before[1] >= 1
    dry = rewrap(machine, "--dry-run")
    assert (dry["older_packs"], dry["rewrapped_packs"]) == (before[0], before[0])
    first = rewrap(machine, "--no-delete", "--max-repack-bytes", "2MiB")
    assert 0 < first["rewrapped_packs"] < first["older_packs"]
    kill_when_it_has_copied(machine, Bucket(server, machine.url))
    assert_whole(other, tmp_path)
    rewrap(machine)
    assert set(packs_by_epoch(machine)) == {1}
    assert_whole(other, tmp_path)
    machine.run("check", "--read-data")


def kill_when_it_has_copied(machine: Machine, bucket: Bucket) -> None:
    """Kill a rewrap when it has stored a table, and let its lease run out."""
    known = bucket.keys("moved/")
    running = subprocess.Popen(
        [sys.executable, "-m", "s3backfs.cli", *REWRAP], env=machine.variables(),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while running.poll() is None and bucket.keys("moved/") == known:
        pass
    running.kill()
    running.wait()
    bucket.remove("leases/")


@dataclass
class Bucket:
    """What lies under a repository's prefix, seen past the program."""

    server: Server
    url: str

    def keys(self, prefix: str) -> list[str]:
        bucket, _, base = self.url.removeprefix("s3://").partition("/")
        client = self.server.client()
        try:
            told = client.list_objects_v2(Bucket=bucket, Prefix=f"{base}/{prefix}")
            return [found["Key"] for found in told.get("Contents", [])]
        finally:
            client.close()

    def remove(self, prefix: str) -> None:
        bucket = self.url.removeprefix("s3://").partition("/")[0]
        keys = self.keys(prefix)
        client = self.server.client()
        try:
            for key in keys:
                client.delete_object(Bucket=bucket, Key=key)
        finally:
            client.close()


def test_mounts_from_before_the_rotation(machine: Machine, other: Machine, tmp_path: Path) -> None:
    """A mount with the old key keeps all packs until it is mounted anew; one that reads says so."""
    make_tree(tmp_path / "1", 1)
    with machine.mounted() as mount:
        rsync(tmp_path / "1", mount.path / "1")
    with machine.mounted() as mount, other.mounted("-o", "ro") as reader:
        machine.run("key", "rotate")
        done = machine.run(*REWRAP, "--wait", "0s", check=False)
        assert done.returncode == 6
        assert not differences(tmp_path / "1", mount.path / "1")
        assert packs_by_epoch(machine)[0] > 0
        mount.umount()
        assert rewrap(machine)["deleted_packs"] > 0
        assert set(packs_by_epoch(machine)) == {1}
        with pytest.raises(OSError, match="Input/output error"):
            (reader.path / "1/d0/large").read_bytes()
        assert "mount anew" in other.log()
    with other.mounted("-o", "ro") as reader:
        assert not differences(tmp_path / "1", reader.path / "1")
