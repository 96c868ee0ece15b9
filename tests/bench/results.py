"""What was measured, and how it is kept as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

from tests.bench.micro import PartResult

_LARGE_BYTES = 1_000_000


class Result(msgspec.Struct, frozen=True):
    """One run. `requests` are by kind; `stored_bytes` is what lies in the bucket at the end."""

    work: str
    peer: str
    latency_ms: float
    wall_s: float
    cpu_s: float
    peak_bytes: int
    files_count: int
    content_bytes: int
    requests: dict[str, int]
    up_bytes: int
    down_bytes: int
    stored_bytes: int
    scale: float = 1.0
    server: str = "rclone"

    @property
    def key(self) -> tuple[str, str, float, str, float]:
        return self.work, self.server, self.latency_ms, self.peer, self.scale

    @property
    def amount(self) -> tuple[float, str]:
        """How much work it was: megabytes of large files, else names."""
        if self.content_bytes > _LARGE_BYTES * self.files_count:
            return self.content_bytes / 1e6, "MB"
        return self.files_count, "names"


def medians(results: Iterable[Result]) -> list[Result]:
    """One result for each key: the run of median wall, its CPU the median."""
    groups: dict[object, list[Result]] = {}
    for result in results:
        groups.setdefault(result.key, []).append(result)
    return [_median(group) for group in groups.values()]


def _median(group: Sequence[Result]) -> Result:
    middle = sorted(group, key=lambda result: result.wall_s)[(len(group) - 1) // 2]
    cpu_s = statistics.median(result.cpu_s for result in group)
    return msgspec.structs.replace(middle, cpu_s=cpu_s)


Results: TypeAlias = Sequence[Result] | Sequence[PartResult]


def save(path: Path, results: Results) -> None:
    """Keep every run."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results)))


def load(path: Path) -> Results:
    """Read what `save` kept: runs of works, or of parts."""
    rows = msgspec.json.decode(path.read_bytes())
    if any("part" in row for row in rows):
        return msgspec.convert(rows, list[PartResult])
    return msgspec.convert(rows, list[Result])


def works_of(results: Results) -> list[Result]:
    return [result for result in results if isinstance(result, Result)]


def parts_of(results: Results) -> list[PartResult]:
    return [result for result in results if isinstance(result, PartResult)]
