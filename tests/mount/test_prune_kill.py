"""Two prunes at once, two mounts that write and forget, and kill -9 of any of them.

PRUNE_ROUNDS=10 makes that many rounds; PRUNE_ROUNDS_SEED=3 chooses other moments.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.mount.test_prune import PRUNE, make_tree
from tests.mount.trees import differences
from tests.mounts import Machine, Mount
from tests.servers import Server

pytestmark = pytest.mark.mount

ROUNDS = int(os.environ.get("PRUNE_ROUNDS", "0"))
SEED = int(os.environ.get("PRUNE_ROUNDS_SEED", "1"))
NIGHTS = 3
LONGEST_S = 6.0
LEASE = ("--lease", "2s", "-o", "allow-forget")


@dataclass
class Writer:
    """A machine that makes backups of one tree, each linked to the one before."""

    machine: Machine
    name: str
    top: Path
    randomness: random.Random
    sealed: dict[str, Path] = field(default_factory=dict)
    count: int = 0

    def work(self) -> None:
        """Make some backups and forget one; the mount may be killed under each of them."""
        for _ in range(NIGHTS):
            with self.machine.mounted(*LEASE) as mount:
                killer = (
                    threading.Timer(self.randomness.uniform(0.3, LONGEST_S), mount.kill)
                    if self.randomness.random() < 0.4
                    else None
                )
                if killer is not None:
                    killer.start()
                try:
                    self._back_up(mount)
                finally:
                    if killer is not None:
                        killer.cancel()
                        killer.join()

    def _back_up(self, mount: Mount) -> None:
        source = self.top / f"{self.name}{self.count}"
        make_tree(source, self.count // 3)
        changed = random.Random(f"{self.name}{self.count}").randbytes(300_000 + self.count)
        (source / "d1" / "large").write_bytes(changed)
        name, before = source.name, f"{self.name}{self.count - 1}"
        self.count += 1
        done = subprocess.run(
            ["rsync", "-aHAX", f"--link-dest=../{before}", f"{source}/", f"{mount.path / name}/"],
            check=False, capture_output=True,
        )  # fmt: skip
        if done.returncode == 0:
            sealed = self.machine.run("seal", str(mount.path / name), check=False)
            if sealed.returncode == 0:
                self.sealed[name] = source
        if len(self.sealed) > 2:
            victim = next(iter(self.sealed))
            # From here on it may be there or not.
            del self.sealed[victim]
            shutil.rmtree(mount.path / victim, ignore_errors=True)


def prune_and_kill(machine: Machine, randomness: random.Random, codes: list[int]) -> None:
    """Run a prune; kill it at a random moment, or let it end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "s3backfs.cli", *PRUNE, machine.url],
        env=machine.variables(),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    if randomness.random() < 0.5:
        time.sleep(randomness.uniform(0.2, LONGEST_S))
        process.kill()
    codes.append(process.wait(timeout=120))


def drop_leases_of_the_killed(server: Server, url: str) -> None:
    """Let the leases of killed prunes be gone, as they are when they have run out."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    client = server.client()
    listed = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/leases/")
    keys = {item["Key"] for item in listed.get("Contents", [])}
    for key in keys:
        if key.endswith("/prune"):
            client.delete_object(Bucket=bucket, Key=key.replace("/prune", "/lease"))
            client.delete_object(Bucket=bucket, Key=key)


def new_machine(machine: Machine, home: Path) -> Machine:
    home.mkdir()
    return Machine(home, machine.url, machine.environment)


@pytest.mark.skipif(not ROUNDS, reason="PRUNE_ROUNDS=10 makes ten rounds: eight minutes")
@pytest.mark.timeout(120 + 120 * ROUNDS)
def test_whatever_is_killed_everything_reads_equal(
    machine: Machine, server: Server, tmp_path: Path, open_home: Path
) -> None:
    """After each round every sealed backup that nobody forgot reads as its source."""
    randomness = random.Random(SEED)
    writers = [
        Writer(
            new_machine(machine, open_home / name), name, tmp_path, random.Random(f"{SEED}{name}")
        )
        for name in ("a", "b")
    ]
    pruners = [new_machine(machine, open_home / f"pruner{number}") for number in range(2)]
    codes: list[int] = []
    for number in range(ROUNDS):
        threads = [threading.Thread(target=writer.work) for writer in writers]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            pair = [
                threading.Thread(
                    target=prune_and_kill, args=(pruner, random.Random(randomness.random()), codes)
                )
                for pruner in pruners
            ]
            for thread in pair:
                thread.start()
            for thread in pair:
                thread.join()
            drop_leases_of_the_killed(server, machine.url)
        for thread in threads:
            thread.join()
        reader = new_machine(machine, open_home / f"reader{number}")
        with reader.mounted("--read-only") as mount:
            for writer in writers:
                for name, source in writer.sealed.items():
                    assert not differences(source, mount.path / name), name
        checked = reader.run("check", machine.url, "--read-data", check=False)
        assert checked.returncode == 0, checked.stdout
    assert -signal.SIGKILL in codes
    assert 0 in codes
    assert any(writer.sealed for writer in writers)
