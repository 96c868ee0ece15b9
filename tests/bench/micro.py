"""The parts of the pipeline, each by itself: only the project's own code is timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec

DEFAULT_RUNS = 5
_LONG_S = 2.0
_LONG_RUNS = 3


@dataclass(frozen=True)
class Job:
    """What is timed, and how much of `unit` it does; `before` prepares each run."""

    run: Callable[[], object]
    amount: float
    unit: str
    before: Callable[[], object] = bool


Maker: TypeAlias = Callable[[float, Path], AbstractContextManager[Job]]
"""Prepares a job at a scale, with a folder of its own."""


class PartResult(msgspec.Struct, frozen=True):
    """One part. `walls_s` and `cpus_s` have every run; each run did `amount` of `unit`."""

    part: str
    scale: float
    unit: str
    amount: float
    walls_s: list[float]
    cpus_s: list[float]

    @property
    def key(self) -> tuple[str, float]:
        return self.part, self.scale

    @property
    def rate(self) -> float:
        """Units a second, of the median run."""
        return self.amount / max(statistics.median(self.walls_s), 1e-9)

    @property
    def spread(self) -> tuple[float, float]:
        """The slowest and the fastest run, units a second."""
        return self.amount / max(*self.walls_s, 1e-9), self.amount / max(min(self.walls_s), 1e-9)

    @property
    def cpu_each_s(self) -> float:
        """CPU seconds for each unit, of the median run."""
        return statistics.median(self.cpus_s) / self.amount


def measure(name: str, scale: float, job: Job, runs_count: int) -> PartResult:
    """Run a job once to warm up, then so often; one that takes long is its own warm-up."""
    timed = [_once(job)]
    if timed[0][0] < _LONG_S:
        timed = []
        wanted = runs_count
    else:
        wanted = min(runs_count, _LONG_RUNS)
    while len(timed) < wanted:
        timed.append(_once(job))
    walls_s, cpus_s = zip(*timed, strict=True)
    return PartResult(name, scale, job.unit, job.amount, list(walls_s), list(cpus_s))


def _once(job: Job) -> tuple[float, float]:
    """Wall and CPU seconds of one run, all threads included."""
    job.before()
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    job.run()
    return time.perf_counter() - begin_s, time.process_time() - begin_cpu_s


def measure_all(
    makers: dict[str, Maker], names: Sequence[str], scale: float, folder: Path, runs_count: int
) -> Iterator[PartResult]:
    """Measure parts one after the other."""
    for name in names:
        place = folder / str(names.index(name))
        place.mkdir()
        with makers[name](scale, place) as job:
            yield measure(name, scale, job, runs_count)
