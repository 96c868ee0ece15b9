"""A week of nightly backups of a machine that crashes in each night.

LOAD_LONG=1 runs it, LOAD_NIGHTS=30 makes that many, LOAD_SEED=3 chooses other moments.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from tests.load.long import only_long
from tests.load.sources import Source, make_source
from tests.mount.test_kill import stored_bytes
from tests.mount.trees import differences, rsync
from tests.mounts import Machine, Mount
from tests.servers import Server

pytestmark = pytest.mark.mount

NIGHTS = int(os.environ.get("LOAD_NIGHTS", "7"))
SEED = int(os.environ.get("LOAD_SEED", "1"))
MOST_CRASHES = 3
LARGE_BYTES = 24 << 20
CRASH_SHARE = 1.3
"""What a crash may leave behind in packs that were not complete."""


def options_of(night: int) -> list[str]:
    link = [f"--link-dest=../night{night - 1}"] if night else []
    return ["-aHAX", "--delete", "--numeric-ids", *link]


def crash_under_rsync(mount: Mount, source: Path, night: int, randomness: random.Random) -> None:
    """Let rsync run for a random time, then kill the mount."""
    target = f"{mount.path}/night{night}/"
    quiet = subprocess.DEVNULL
    writer = subprocess.Popen(
        ["rsync", *options_of(night), f"{source}/", target], stdout=quiet, stderr=quiet
    )
    try:
        time.sleep(randomness.uniform(0.05, 1.5))
        mount.kill()
    finally:
        writer.kill()
        writer.wait()


@only_long
@pytest.mark.timeout(200 * (NIGHTS + 1))
def test_nights_with_crashes(
    machine: Machine, other: Machine, server: Server, tmp_path: Path
) -> None:
    """Every night is complete in the end, and what was stored before is not stored again."""
    randomness = random.Random(SEED)
    top = tmp_path / "source"
    make_source(top, randomness, file_count=300, large_bytes=LARGE_BYTES)
    source, kept = Source(top, randomness), []
    for night in range(NIGHTS):
        is_first = not night
        new_bytes = LARGE_BYTES * 2 if is_first else source.change(40)
        before_bytes = stored_bytes(server, machine)
        for _ in range(randomness.randint(1, MOST_CRASHES)):
            with machine.mounted("--idle-checkpoint", "300ms", "--max-checkpoint", "1s") as mount:
                crash_under_rsync(mount, top, night, randomness)
        with machine.mounted() as mount:
            rsync(*options_of(night), f"{top}/", f"{mount.path}/night{night}/")
        kept.append(tmp_path / f"kept{night}")
        rsync("-aHAX", f"{top}/", f"{kept[-1]}/")
        grown_bytes = stored_bytes(server, machine) - before_bytes
        note = f"seed {SEED}, night {night}: {grown_bytes} stored for {new_bytes}"
        assert grown_bytes <= CRASH_SHARE * new_bytes, note
    with other.mounted("-o", "ro") as mount:
        for night, place in enumerate(kept):
            assert differences(place, mount.path / f"night{night}") == "", f"seed {SEED}"
    assert "Traceback" not in machine.log()
