"""Many writers at once: processes in one mount, and machines in one repository.

LOAD_LONG=1 makes them more, and the trees larger.
"""

from __future__ import annotations

import os
import random
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.load.long import IS_LONG, only_long
from tests.load.sources import make_source
from tests.mount.trees import differences, rsync
from tests.mounts import Machine

pytestmark = pytest.mark.mount

PROCESS_COUNT = 64 if IS_LONG else 16
BACKUP_COUNT = 4
MACHINE_COUNT = 4
FILE_COUNT = 300 if IS_LONG else 20
LARGE_BYTES = (24 << 20) if IS_LONG else (1 << 20)
ROUNDS = 6 if IS_LONG else 2


def start_rsync(source: Path, target: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["rsync", "-aHAX", *options, f"{source}/", f"{target}/"],
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(processes: list[subprocess.Popen[str]]) -> None:
    """Wait for all; what one of them complains of is the failure."""
    complaints = [process.communicate()[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert set(codes) == {0}, "".join(complaints)[:2000]


@pytest.mark.timeout(1200 if IS_LONG else 300)
def test_many_processes_write_many_trees(machine: Machine, other: Machine, tmp_path: Path) -> None:
    """Trees that many processes write at once into one mount are all whole, on another machine."""
    randomness = random.Random(1)
    sources = [tmp_path / "sources" / f"{number % BACKUP_COUNT}" / f"tree{number}"
               for number in range(PROCESS_COUNT)]  # fmt: skip
    for source in sources:
        make_source(source, randomness, file_count=FILE_COUNT, large_bytes=LARGE_BYTES)
    with machine.mounted() as mount:
        for number in range(BACKUP_COUNT):
            (mount.path / f"{number}").mkdir()
        targets = [mount.path / source.parent.name / source.name for source in sources]
        wait_for([start_rsync(*pair) for pair in zip(sources, targets, strict=True)])
        for number in range(BACKUP_COUNT):
            copy = tmp_path / "sources" / f"{number}"
            rsync("-dlptgoA", f"{copy}/", f"{mount.path}/{number}/")
    with other.mounted("-o", "ro") as mount:
        for number in range(BACKUP_COUNT):
            left = tmp_path / "sources" / f"{number}"
            assert differences(left, mount.path / f"{number}") == ""
    assert "Traceback" not in machine.log()


@only_long
@pytest.mark.timeout(1200)
def test_four_machines_write_and_one_reads(machine: Machine, url: str, tmp_path: Path) -> None:
    """Each of four machines that write at once stores what it was given, as a fifth one sees."""
    sources, machines = [], []
    for number in range(MACHINE_COUNT + 1):
        home = tmp_path / f"m{number}"
        home.mkdir()
        machines.append(Machine(home, url, machine.environment))
    for number in range(MACHINE_COUNT):
        source = tmp_path / "sources" / f"{number}"
        # Two of them write the same.
        randomness = random.Random(number // 2)
        make_source(source, randomness, file_count=FILE_COUNT * 4, large_bytes=LARGE_BYTES * 4)
        sources.append(source)
    with ExitStack() as stack:
        mounts = [stack.enter_context(each.mounted()) for each in machines[:-1]]
        reader = stack.enter_context(machines[-1].mounted("-o", "ro")).path
        for round_number in range(ROUNDS):
            names = [f"machine{number}-{round_number}" for number in range(MACHINE_COUNT)]
            running = [
                start_rsync(
                    source,
                    mount.path / name,
                    # The other machine of the same source: rsync believes sizes and times.
                    f"--link-dest=../machine{number ^ 1}-{round_number - 1}",
                )
                for number, (source, mount, name) in enumerate(
                    zip(sources, mounts, names, strict=True)
                )
            ]
            read_while_they_run(reader, running, sources)
            wait_for(running)
            for mount, name in zip(mounts, names, strict=True):
                mount.machine.run("seal", f"{mount.path}/{name}")
    with machine.mounted("-o", "ro") as mount:
        for round_number in range(ROUNDS):
            for number, source in enumerate(sources):
                found = mount.path / f"machine{number}-{round_number}"
                assert differences(source, found) == ""
    assert "Traceback" not in "".join(each.log() for each in machines)


def read_while_they_run(
    reader: Path, running: list[subprocess.Popen[str]], sources: list[Path]
) -> None:
    """Read what is sealed, and what is open, as often as there is time."""
    while any(process.poll() is None for process in running):
        for name in sorted(os.listdir(reader)):
            source = sources[int(name.removeprefix("machine").partition("-")[0])]
            path = reader / name / "large"
            # Of an open backup of another machine it may be there or not, but it is never half.
            if path.exists():
                assert path.read_bytes() == (source / "large").read_bytes()
            elif os.access(reader / name / "dir0", os.R_OK):
                os.listdir(reader / name / "dir0")
