"""The benchmark itself: that it cleans up, and that what it prints of kept results is true."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import tables
from tests.bench.__main__ import ALL_PARTS
from tests.bench.meter import wait_until
from tests.bench.micro import PartResult, measure_all
from tests.bench.results import Result, load, medians, parts_of, save, works_of

PROJECT = Path(__file__).parents[2]


def result(work: str = "W2", *, wall_s: float, scale: float = 1.0, files_count: int = 10) -> Result:
    return Result(
        work=work,
        peer="s3backfs",
        latency_ms=0.0,
        wall_s=wall_s,
        cpu_s=1.0,
        peak_bytes=1 << 20,
        files_count=files_count,
        content_bytes=1000,
        requests={"GET": 3 * files_count},
        up_bytes=0,
        down_bytes=0,
        stored_bytes=0,
        scale=scale,
    )


def part(name: str, *walls_s: float) -> PartResult:
    return PartResult(name, 1.0, "MB", 8.0, list(walls_s), [1.0] * len(walls_s))


def mounts_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [place for line in lines if (place := line.split()[4]).startswith(f"{folder}/")]


def alive(folder: Path) -> list[int]:
    """The processes that have the folder in their command line, or in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            words = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
            if os.fsencode(folder) in words:
                found.append(int(path.name))
    return found


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder of its own: sockets of the mounts below it need short paths."""
    with tempfile.TemporaryDirectory(prefix="s3b.") as folder:
        yield Path(folder)


@pytest.mark.mount
@pytest.mark.parametrize(("number", "is_for_all"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_a_signal_leaves_nothing_behind(
    short_path: Path, number: signal.Signals, is_for_all: bool
) -> None:
    """SIGTERM, or Ctrl-C to all of them, while a mount is used: no mount, process, folder stays."""
    folder = short_path / "bench"
    command = [sys.executable, "-m", "tests.bench", "--folder", str(folder)]
    command += ["--work", "R1", "--peer", "s3backfs", "--scale", "0.01"]
    environment = {**os.environ, "STARTED_BELOW": str(folder)}
    process = subprocess.Popen(
        command,
        cwd=PROJECT,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    try:
        wait_until(lambda: bool(mounts_below(folder)) or process.poll() is not None)
        (os.killpg if is_for_all else os.kill)(process.pid, number)
        assert process.wait(60) == 128 + number
        assert not mounts_below(folder)
        assert not alive(folder)
        assert {path.name for path in folder.iterdir()} == {"data-0.01", "log"}
    finally:
        for mount in mounts_below(folder):
            subprocess.run(["umount", "-l", mount], check=False)
        for left in alive(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)
        process.wait()


@pytest.mark.mount
def test_works_for_memory_can_be_measured(short_path: Path) -> None:
    """Many names made and walked, and a long stream: on real mounts, in a small way."""
    command = [sys.executable, "-m", "tests.bench", "--folder", str(short_path), "--json"]
    command += [str(short_path / "kept"), "--work", "names,walk,stream", "--peer", "s3backfs"]
    subprocess.run([*command, "--scale", "0.0002"], cwd=PROJECT, check=True, capture_output=True)
    names, walk, stream = works_of(load(short_path / "kept"))
    assert names.files_count == walk.files_count == 200
    assert stream.content_bytes == 4_000_000 < stream.stored_bytes


def test_every_part_can_be_measured(tmp_path: Path) -> None:
    """Each part of the pipeline runs by itself, and says how much it did."""
    found = list(measure_all(ALL_PARTS, list(ALL_PARTS), 0.001, tmp_path, 1))
    assert [each.part for each in found] == list(ALL_PARTS)
    assert all(each.amount > 0 and each.rate > 0 for each in found)


def test_names_of_parts_can_be_given_by_commas() -> None:
    """No name of a part has a comma in it."""
    assert not [name for name in ALL_PARTS if "," in name]


def test_kept_results_come_back(tmp_path: Path) -> None:
    """A kept file gives the runs of works, or those of parts."""
    works, parts = [result(wall_s=1.0), result(wall_s=2.0)], [part("cut", 1.0, 2.0)]
    save(tmp_path / "works", works)
    save(tmp_path / "parts", parts)
    assert works_of(load(tmp_path / "works")) == works
    assert parts_of(load(tmp_path / "parts")) == parts
    assert not parts_of(load(tmp_path / "works"))


def test_comparing_pairs_equal_works_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Ratios are of the median runs of the same work at the same scale; others are named."""
    before = [result(wall_s=wall_s) for wall_s in (9.0, 2.0, 4.0)]
    tables.compare(before, [result(wall_s=1.0), result(wall_s=1.0, scale=0.1)])
    text = capsys.readouterr().out
    assert "0.25" in text
    assert "in one set only: W2 0.1 rclone 0 s3backfs" in text


def test_comparing_parts_by_the_time_of_a_unit(capsys: pytest.CaptureFixture[str]) -> None:
    """A part that now takes half of the time for a unit is at 0.50."""
    tables.compare_parts([part("cut", 1.0, 2.0, 9.0)], [part("cut", 1.0), part("seal", 1.0)])
    text = capsys.readouterr().out
    assert "0.50" in text
    assert "in one set only: seal (1)" in text


def test_growth_is_seen_beside_that_of_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    """Ten times the work in thirty times the time: both ratios stand in one line."""
    less = result(wall_s=1.0, scale=0.1, files_count=10)
    tables.show_growth([less, result(wall_s=30.0, scale=1.0, files_count=100)])
    text = capsys.readouterr().out
    assert "10.00 │ 30.00" in text
    assert "100.000" in text
    assert "300.000" in text


def test_the_median_run_is_taken() -> None:
    """Of three runs that of median wall stands for all."""
    (middle,) = medians([result(wall_s=wall_s) for wall_s in (3.0, 1.0, 2.0)])
    assert middle.wall_s == 2.0


@pytest.mark.parametrize("option", ["--latency=x", "--latency=-5", "--scale=0", "--runs=0"])
def test_impossible_options_are_told(option: str, tmp_path: Path) -> None:
    """They end with a line and exit code 2, and nothing is made."""
    command = [sys.executable, "-m", "tests.bench", "--folder", str(tmp_path / "new"), option]
    done = subprocess.run(command, cwd=PROJECT, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"Invalid value for '{option.partition('=')[0]}'" in done.stderr
    assert not (tmp_path / "new").exists()
