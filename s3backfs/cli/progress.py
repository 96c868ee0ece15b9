"""Showing how far long work is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from s3backfs.cli.terminal import note, printable
from s3backfs.reporting import Report, silent

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_EVERY_S = 60.0
"""Work that is done sooner says nothing where nobody looks on: cron would mail it."""

_QUIET = "s3backfs.quiet"

Command = TypeVar("Command", bound=Callable[..., Any])


def _note_quiet(context: click.Context, _option: click.Parameter, value: bool) -> None:
    context.meta[_QUIET] = value


def quiet_option(command: Command) -> Command:
    """Add `--quiet` to a verb that may take long."""
    option = click.option(
        "-q", "--quiet", is_flag=True, expose_value=False, callback=_note_quiet,
        help="Show no progress.",
    )  # fmt: skip
    return option(command)


def _is_quiet() -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_QUIET) or context.params.get("as_json"))


@contextmanager
def reporting() -> Iterator[Report]:
    """Show on standard error what is being done; nothing with --quiet or --json."""
    if _is_quiet():
        yield silent
    elif sys.stderr.isatty():
        with Bar() as bar:
            yield bar
    else:
        with Lines(LINE_EVERY_S, note) as lines:
            yield lines


class Bar:
    """One changing line on a terminal; it begins with the first report, behind any prompt."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._kind = ""

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, text: str, done: float = 0, total: float = 0) -> None:
        """Show this from now on."""
        if self._progress is None:
            self._progress = _new_progress()
            self._task = self._progress.add_task("", total=None)
            self._progress.start()
        assert self._task is not None
        kind, length = _kind(text), total or None
        if kind != self._kind:
            self._kind = kind
            # Work that is over sooner than the screen is drawn anew is shown all the same.
            self._progress.refresh()
            self._progress.reset(self._task, total=length)
        self._progress.update(self._task, description=_escaped(text), completed=done, total=length)


def _new_progress() -> Progress:
    from rich.console import Console  # slow to import
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TaskProgressColumn as Share
    from rich.progress import TimeRemainingColumn as Left

    columns = (TextColumn("{task.description}"), BarColumn(), Share(), TimeElapsedColumn(), Left())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(printable(text))


def _kind(text: str) -> str:
    """Texts that differ in numbers tell of one and the same work."""
    return re.sub(r"\d+", "#", text)


class Lines:
    """One line every so many seconds, by a thread: also where work has nothing new to say."""

    def __init__(self, every_s: float, write: Callable[[str], None]) -> None:
        self._every_s = every_s
        self._write = write
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._state = ("", 0.0, 0.0)
        self._kind = ""
        self._began_s = time.monotonic()

    def __enter__(self) -> Lines:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def __call__(self, text: str, done: float = 0, total: float = 0) -> None:
        """Say this in the next line."""
        kind = _kind(text)
        if kind != self._kind:
            self._kind, self._began_s = kind, time.monotonic()
        self._state = (text, done, total)

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            if self._state[0]:
                self._write(progress_line(*self._state, time.monotonic() - self._began_s))


def progress_line(text: str, done: float, total: float, elapsed_s: float) -> str:
    """Write what is being done, how much of it is done, and about how long it takes yet."""
    if total <= 0:
        return printable(text)
    share = min(1.0, max(0.0, done / total))
    line = f"{printable(text)}: {share:.0%}"
    return f"{line}, about {_duration(elapsed_s / share - elapsed_s)} left" if share else line


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
