"""What was measured, kept as JSON, and the tables of it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

MIB = 1 << 20


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

    @property
    def key(self) -> tuple[str, float, str]:
        return self.work, self.latency_ms, self.peer


def medians(results: Iterable[Result]) -> list[Result]:
    """One result for each work, latency and peer: the run of median wall, its CPU the median."""
    groups: dict[tuple[str, float, str], list[Result]] = {}
    for result in results:
        groups.setdefault(result.key, []).append(result)
    return [_median(group) for group in groups.values()]


def _median(group: Sequence[Result]) -> Result:
    middle = sorted(group, key=lambda result: result.wall_s)[(len(group) - 1) // 2]
    cpu_s = statistics.median(result.cpu_s for result in group)
    return msgspec.structs.replace(middle, cpu_s=cpu_s)


def save(path: Path, results: Sequence[Result]) -> None:
    """Keep every run."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results)))


def load(path: Path) -> list[Result]:
    """Read what `save` kept."""
    return msgspec.json.decode(path.read_bytes(), type=list[Result])


def show(results: Iterable[Result]) -> None:
    """Print a table of medians."""
    table = Table()
    for name in ("work", "ms", "peer"):
        table.add_column(name)
    for name in ("wall s", "MB/s", "files/s", "CPU s", "RSS MB", "requests", "up", "down", "kept"):
        table.add_column(name, justify="right")
    table.add_column("by kind")
    for result in medians(results):
        table.add_row(*_row(result))
    Console(width=180).print(table)


def _row(result: Result) -> list[str]:
    wall_s = max(result.wall_s, 1e-9)
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(result.requests.items()))
    return [
        *(result.work, f"{result.latency_ms:.0f}", result.peer, f"{result.wall_s:.2f}"),
        *(f"{result.content_bytes / 1e6 / wall_s:.0f}", f"{result.files_count / wall_s:.0f}"),
        *(f"{result.cpu_s:.2f}", f"{result.peak_bytes / MIB:.0f}"),
        str(sum(result.requests.values())),
        *(_megabytes(n) for n in (result.up_bytes, result.down_bytes, result.stored_bytes)),
        kinds,
    ]


def _megabytes(length: int) -> str:
    return f"{length / 1e6:.1f}"


def compare(before: Iterable[Result], after: Iterable[Result]) -> None:
    """Print what the second set needs of what the first needed; below 1 is better."""
    old = {result.key: result for result in medians(before)}
    table = Table("work", "ms", "peer", "wall", "CPU", "RSS", "requests", "up", "down")
    for new in medians(after):
        if new.key in old:
            then = old[new.key]
            pairs = (
                (new.wall_s, then.wall_s),
                (new.cpu_s, then.cpu_s),
                (new.peak_bytes, then.peak_bytes),
                (sum(new.requests.values()), sum(then.requests.values())),
                (new.up_bytes, then.up_bytes),
                (new.down_bytes, then.down_bytes),
            )
            ratios = [f"{a / b:.2f}" if b else "" for a, b in pairs]
            table.add_row(new.work, f"{new.latency_ms:.0f}", new.peer, *ratios)
    Console(width=140).print(table)
