"""Walks of chance on real mounts, compared with a plain directory at each step.

MODEL_RUNS makes more of them, MODEL_STEPS longer ones; MODEL_SEED begins at another place.
"""

from __future__ import annotations

import os
import random
import shutil
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mount.model import Walk
from tests.mount.model_calls import World
from tests.mount.model_choices import Choices
from tests.mount.trees import run
from tests.mounts import Machine, Mount
from tests.servers import Server

pytestmark = [pytest.mark.mount, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

RUNS = int(os.environ.get("MODEL_RUNS", "1"))
STEPS = int(os.environ.get("MODEL_STEPS", "30"))
FIRST_SEED = int(os.environ.get("MODEL_SEED", "1"))
STRETCHES = 6
DROP_CACHES = Path("/proc/sys/vm/drop_caches")

OPTIONS = (
    (),
    ("--memory", "64M", "--idle-checkpoint", "1s", "--max-checkpoint", "1s"),
    ("--compression", "none", "--idle-checkpoint", "1h", "--max-checkpoint", "1h"),
)


@dataclass
class Long:
    """One walk over several mounts of one repository."""

    machine: Machine
    other: Machine
    plain: Path
    seed: int
    stack: ExitStack
    name: str = "backup"

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.options = ("-o", "allow_other", *self.chance.choice(OPTIONS))
        self.mount = self._mounted()
        self.mount.path.joinpath(self.name).mkdir()
        self.walk = Walk(World(self.mount.path / self.name), World(self.plain))

    def _mounted(self) -> Mount:
        return self.stack.enter_context(self.machine.mounted(*self.options))

    def go(self) -> None:
        """Walk, with something else that must change nothing after each stretch."""
        between = [self.sync, self.drop_caches, self.rename, self.remount, self.crash, self.rest]
        self.chance.shuffle(between)
        choices = Choices(self.seed, self.walk.plain)
        for act in between[:STRETCHES]:
            self.walk.run(choices, STEPS)
            self.noted(act)
        self.walk.close()
        self.noted(self.seal)
        first, mounted = self.walk, self.mount.path / self.name
        self.noted(self.clone)
        self.walk.run(Choices(self.seed, self.walk.plain), STEPS)
        self.walk.close()
        self.noted(self.remount)
        self.compare_elsewhere()
        first.compare_all(self.mount.path / mounted.name)

    def noted(self, act: Callable[[], None]) -> None:
        """Do something, and compare everything after it; a failure says what it was."""
        try:
            act()
            self.walk.compare_all()
        except AssertionError as error:
            raise AssertionError(f"seed {self.seed}, after {act.__name__}: {error}") from error

    def rest(self) -> None:
        """Close all files, so that what they hold is settled."""
        self.walk.close()

    def sync(self) -> None:
        """Store everything; another machine reads the same."""
        self.machine.run("sync", str(self.mount.path))
        self.compare_elsewhere()

    def drop_caches(self) -> None:
        """Let the kernel forget names, attributes and pages."""
        os.sync()
        DROP_CACHES.write_text("3")

    def rename(self) -> None:
        """Give the backup another name."""
        self.name = f"renamed {self.seed}"
        self.walk.mounted.top = self.walk.mounted.top.rename(self.mount.path / self.name)

    def remount(self) -> None:
        """Mount anew, with nothing in the cache."""
        self.walk.close()
        self.mount.umount("--keep-open")
        shutil.rmtree(self.machine.home / "cache")
        self.mount = self._mounted()

    def crash(self) -> None:
        """Kill the process after everything was stored, and mount anew."""
        self.walk.close()
        self.machine.run("sync", str(self.mount.path))
        self.mount.kill()
        self.mount = self._mounted()

    def seal(self) -> None:
        """Make the backup immutable; it is the same here, elsewhere and after a remount."""
        self.machine.run("seal", str(self.mount.path / self.name))
        self.walk.compare_all()
        self.compare_elsewhere()
        self.remount()

    def clone(self) -> None:
        """Go on in a new backup that begins with links into the sealed one."""
        plain = self.plain.with_name("second")
        run("cp", "-a", f"{self.plain}/.", plain)
        sealed, self.name = self.name, f"{self.name} again"
        run("cp", "-al", f"{self.mount.path / sealed}/.", self.mount.path / self.name)
        self.walk = Walk(World(self.mount.path / self.name), World(plain), has_base=True)

    def compare_elsewhere(self) -> None:
        with self.other.mounted("--read-only") as mount:
            self.walk.compare_all(mount.path / self.name)


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + RUNS))
def test_a_walk_of_chance_is_as_on_a_plain_directory(
    seed: int, open_home: Path, server: Server
) -> None:
    """Calls of chance by several users answer and change as on a local file system.

    Remounts, crashes after a sync, empty caches, a new name of the backup and its sealing change
    nothing that can be seen.
    """
    bucket = server.make_bucket(f"model-{uuid.uuid4().hex}") if seed % 2 else ""
    url = f"s3://{bucket}/walk" if bucket else f"file://{open_home}/repository"
    for name in ("first", "other", "plain", "repository"):
        (open_home / name).mkdir()
    machine = Machine(open_home / "first", url, server.environment)
    machine.run("init", url)
    other = Machine(open_home / "other", url, server.environment)
    with ExitStack() as stack:
        Long(machine, other, open_home / "plain", seed, stack).go()
