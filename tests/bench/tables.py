"""Tables of what was measured, and of what changed between two sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click
from rich.console import Console
from rich.table import Table

from tests.bench.micro import PartResult
from tests.bench.peers import PEERS
from tests.bench.results import Result, medians

MIB = 1 << 20
_FIGURES = ("wall s", "MB/s", "files/s", "CPU s", "RSS MB", "requests", "up", "down", "kept")


def show(results: Iterable[Result]) -> None:
    """Print a table of medians; a star stands for a peer that does not encrypt."""
    table = _table(("work", "scale", "server", "ms", "peer"), _FIGURES)
    table.add_column("by kind")
    for result in medians(results):
        table.add_row(*_row(result))
    _print(table, 190)


def _table(words: Sequence[str], figures: Sequence[str]) -> Table:
    table = Table(*words)
    for name in figures:
        table.add_column(name, justify="right")
    return table


def _print(table: Table, width: int) -> None:
    if table.row_count:
        Console(width=width).print(table)


def _labels(result: Result) -> list[str]:
    is_plain = result.peer in PEERS and PEERS[result.peer].is_plain
    peer = result.peer + "*" * is_plain
    return [result.work, f"{result.scale:g}", result.server, f"{result.latency_ms:.0f}", peer]


def _row(result: Result) -> list[str]:
    wall_s = max(result.wall_s, 1e-9)
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(result.requests.items()))
    return [
        *(*_labels(result), f"{result.wall_s:.2f}"),
        *(f"{result.content_bytes / 1e6 / wall_s:.0f}", f"{result.files_count / wall_s:.0f}"),
        *(f"{result.cpu_s:.2f}", f"{result.peak_bytes / MIB:.0f}" if result.peak_bytes else "?"),
        str(sum(result.requests.values())),
        *(_megabytes(n) for n in (result.up_bytes, result.down_bytes, result.stored_bytes)),
        kinds,
    ]


def _megabytes(length: int) -> str:
    return f"{length / 1e6:.1f}"


def _ratios(new: Result, old: Result) -> list[str]:
    pairs = (
        (new.wall_s, old.wall_s),
        (new.cpu_s, old.cpu_s),
        (new.peak_bytes, old.peak_bytes),
        (sum(new.requests.values()), sum(old.requests.values())),
        (new.up_bytes, old.up_bytes),
        (new.down_bytes, old.down_bytes),
    )
    return [f"{a / b:.2f}" if b else "" for a, b in pairs]


_RATIOS = ("wall", "CPU", "RSS", "requests", "up", "down")


def compare(before: Iterable[Result], after: Iterable[Result]) -> None:
    """Print what the second set needs of what the first needed; below 1 is better."""
    old = {result.key: result for result in medians(before)}
    table = _table(("work", "scale", "server", "ms", "peer"), _RATIOS)
    unpaired = []
    for new in medians(after):
        if new.key in old:
            table.add_row(*_labels(new), *_ratios(new, old.pop(new.key)))
        else:
            unpaired.append(new)
    _print(table, 140)
    _tell_unpaired(" ".join(_labels(result)) for result in (*old.values(), *unpaired))


def _tell_unpaired(names: Iterable[str]) -> None:
    if text := "; ".join(names):
        click.echo(f"in one set only: {text}")


# -- growth -------------------------------------------------------------------------------------


def show_growth(results: Iterable[Result]) -> None:
    """Print how works done at two scales grew; ratios above that of the work are bad."""
    groups: dict[object, list[Result]] = {}
    for result in medians(results):
        groups.setdefault(result.key[:-1], []).append(result)
    each = ("ms each, less", "more", "requests each, less", "more")
    table = _table(("work", "ms", "peer", "unit", "less", "more"), (*each, "work", *_RATIOS))
    for group in groups.values():
        ordered = sorted(group, key=lambda result: result.scale)
        if len(ordered) > 1:
            table.add_row(*_growth_row(ordered[0], ordered[-1]))
    _print(table, 190)


def _growth_row(less: Result, more: Result) -> list[str]:
    (few, unit), (many, _) = less.amount, more.amount
    pairs = ((less, few), (more, many))
    return [
        *(less.work, f"{less.latency_ms:.0f}", less.peer, unit, f"{few:.0f}", f"{many:.0f}"),
        *(f"{1000 * result.wall_s / amount:.3f}" for result, amount in pairs),
        *(f"{sum(result.requests.values()) / amount:.4f}" for result, amount in pairs),
        *(f"{many / few:.2f}", *_ratios(more, less)),
    ]


# -- parts --------------------------------------------------------------------------------------


def show_parts(results: Iterable[PartResult]) -> None:
    """Print the rate of each part, and the CPU time of each unit."""
    table = _table(
        ("part", "scale", "unit"), ("a second", "slowest", "fastest", "CPU us each", "runs")
    )
    for result in results:
        figures = (result.rate, *result.spread, result.cpu_each_s * 1e6)
        numbers = [f"{figure:,.{1 if figure < 100 else 0}f}" for figure in figures]
        words = (result.part, f"{result.scale:g}", result.unit)
        table.add_row(*words, *numbers, str(len(result.walls_s)))
    _print(table, 130)


def compare_parts(before: Iterable[PartResult], after: Iterable[PartResult]) -> None:
    """Print the time each unit takes now, of what it took; below 1 is better."""
    old = {result.key: result for result in before}
    table = _table(("part", "scale", "unit"), ("wall", "CPU"))
    unpaired = []
    for new in after:
        if new.key not in old:
            unpaired.append(new)
            continue
        then = old.pop(new.key)
        cpu = f"{new.cpu_each_s / then.cpu_each_s:.2f}" if then.cpu_each_s else ""
        wall = f"{then.rate / new.rate:.2f}"
        table.add_row(new.part, f"{new.scale:g}", new.unit, wall, cpu)
    _print(table, 100)
    _tell_unpaired(f"{result.part} ({result.scale:g})" for result in (*old.values(), *unpaired))
