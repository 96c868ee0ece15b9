"""Prune while mounts write and read, on a real server."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.mount.trees import differences
from tests.mounts import TIMEOUT_S, Machine
from tests.servers import Server

pytestmark = pytest.mark.mount

MIB = 1 << 20
PRUNE = ("prune", "--grace", "0s", "--wait", "60s", "--max-unused", "0%", "--json")


def prune(machine: Machine, *options: str) -> dict[str, int]:
    """Prune at once; a live mount hears of it within a second."""
    result: dict[str, int] = json.loads(machine.run(*PRUNE, *options, machine.url).stdout)
    return result


def make_tree(path: Path, seed: int) -> None:
    """A few large files, many small ones, some of them tiny."""
    randomness = random.Random(seed)
    for number in range(4):
        directory = path / f"d{number}"
        directory.mkdir(parents=True)
        # Sizes tell the trees apart: rsync may see the same second in their times.
        (directory / "large").write_bytes(randomness.randbytes(MIB + 7 * seed))
        for name in range(20):
            (directory / str(name)).write_bytes(randomness.randbytes(randomness.randrange(9000)))


def rsync(source: Path, target: Path, *options: str) -> None:
    subprocess.run(["rsync", "-aHAX", *options, f"{source}/", f"{target}/"], check=True)


def test_what_only_forgotten_backups_need_goes(
    machine: Machine, other: Machine, tmp_path: Path
) -> None:
    """A dry run changes nothing; a real one frees what is forgotten, and the rest is whole."""
    source = tmp_path / "source"
    make_tree(source, 1)
    with machine.mounted("-o", "allow-forget") as mount:
        rsync(source, mount.path / "old")
    shutil.rmtree(source / "d0")
    shutil.rmtree(source / "d1")
    with machine.mounted("-o", "allow-forget") as mount:
        rsync(source, mount.path / "new", "--link-dest=../old")
    with machine.mounted("-o", "allow-forget") as mount:
        shutil.rmtree(mount.path / "old")
    before = prune(machine, "--dry-run")
    assert before["deleted_packs"] == 0
    assert before["unused_bytes"] > 2 * MIB
    assert prune(machine, "--dry-run") == before
    done = prune(machine)
    assert done["deleted_bytes"] > before["unused_bytes"]
    after = prune(machine)
    assert after["packs_bytes"] < before["packs_bytes"] - 2 * MIB
    assert after["condemned_packs"] == after["deleted_packs"] == 0
    with other.mounted("-o", "ro") as mount:
        assert not differences(source, mount.path / "new")


def test_the_grace_keeps_what_was_just_condemned(machine: Machine, tmp_path: Path) -> None:
    """With a grace nothing young is condemned, and nothing condemned is deleted at once."""
    make_tree(tmp_path / "source", 2)
    with machine.mounted() as mount:
        rsync(tmp_path / "source", mount.path / "gone")
        shutil.rmtree(mount.path / "gone")
    done = json.loads(machine.run("prune", "--json", machine.url).stdout)
    assert done["condemned_packs"] == done["deleted_packs"] == 0
    done = json.loads(machine.run("prune", "--no-delete", "--grace", "0s", "--json").stdout)
    assert done["condemned_packs"] > 0
    assert done["deleted_packs"] == 0
    assert prune(machine)["deleted_packs"] == done["condemned_packs"]


def test_mounts_that_are_at_work_agree_first(
    machine: Machine, other: Machine, tmp_path: Path
) -> None:
    """Prune goes round and round under writers; all that they wrote is whole at the end."""
    machine.run("prune", "--grace", "0s")
    sources = []
    ended = threading.Event()
    results: list[dict[str, int]] = []

    def prune_on() -> None:
        while not ended.is_set():
            results.append(prune(other))

    with machine.mounted("--lease", "3s", "-o", "allow-forget") as mount:
        pruner = threading.Thread(target=prune_on)
        pruner.start()
        try:
            for night in range(6):
                source = tmp_path / f"source{night}"
                make_tree(source, night // 2)
                (source / "d0" / "large").write_bytes(random.Random(night).randbytes(MIB - night))
                rsync(source, mount.path / str(night), f"--link-dest=../{night - 1}")
                sources.append(source)
                machine.run("seal", str(mount.path / str(night)))
                if night % 3 == 2:
                    shutil.rmtree(mount.path / str(night - 2))
        finally:
            ended.set()
            pruner.join()
    prune(other)
    assert sum(result["deleted_packs"] for result in results) > 0
    with other.mounted("-o", "ro") as mount:
        assert sorted(path.name for path in mount.path.iterdir()) == ["1", "2", "4", "5"]
        for night in (1, 2, 4, 5):
            assert not differences(sources[night], mount.path / str(night))


def test_a_mount_that_does_not_agree_is_waited_for(machine: Machine, tmp_path: Path) -> None:
    """While a mount has not heard of what is condemned, nothing is deleted; exit code 6 says so."""
    make_tree(tmp_path / "source", 3)
    with machine.mounted() as mount:
        rsync(tmp_path / "source", mount.path / "gone")
        shutil.rmtree(mount.path / "gone")
    with machine.mounted():
        done = machine.run("prune", "--grace", "0s", "--wait", "0s", machine.url, check=False)
        assert done.returncode == 6
        assert "waiting for mounts on" in done.stdout
    assert prune(machine)["deleted_packs"] > 0


def test_bad_shares(machine: Machine) -> None:
    """An impossible share is refused in one line."""
    done = machine.run("prune", "--max-unused", "lots", machine.url, check=False)
    assert done.returncode == 2
    assert "--max-unused" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def _await_claim(server: Server, url: str) -> None:
    """Wait until a prune says that it is at work."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    deadline_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline_s:
        listed = server.client().list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/leases/")
        if any(item["Key"].endswith("/prune") for item in listed.get("Contents", ())):
            return
    raise AssertionError("no prune has begun")


def test_a_killed_prune_does_not_block_the_next(
    machine: Machine, server: Server, tmp_path: Path
) -> None:
    """After kill -9 in the middle of a prune the next one of this machine does all at once."""
    make_tree(tmp_path / "source", 4)
    with machine.mounted() as mount:
        rsync(tmp_path / "source", mount.path / "gone")
        shutil.rmtree(mount.path / "gone")
    with machine.mounted() as mount:
        pid = mount.pid()
        os.kill(pid, signal.SIGSTOP)
        # It has to wait for the mount, which hears nothing.
        killed = subprocess.Popen(
            [sys.executable, "-m", "s3backfs.cli", *PRUNE, machine.url],
            env=machine.variables(),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _await_claim(server, machine.url)
        finally:
            killed.kill()
            killed.wait()
            os.kill(pid, signal.SIGCONT)
    assert prune(machine)["deleted_packs"] > 0
