"""The works: each prepares what it needs, then times what it measures."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.data import Data, extent
from tests.bench.meter import Meter, drop_caches, touch_memory
from tests.bench.peers import Peer, Place

READS_COUNT = 200
READ_BYTES = 4096
_BACKUPS_COUNT = 100
_NAMES_COUNT = 1_000_000
_STREAM_BYTES = 20_000_000_000
NAME = "first"
SPARE_BYTES = 1 << 30
COPIES = 2
"""What is copied comes into the page cache twice: on its way, and where it goes to."""


class NotForPeerError(Exception):
    """A peer cannot do this work."""


@dataclass
class Run:
    """One peer at one work. `timed` holds what is measured; the rest is preparation.

    `kept` are folders where what the peer has stored may lie; `warm_up` asks the server for all of
    it once, `on_start` is called when what is measured begins.
    """

    peer: Peer
    place: Place
    meter: Meter
    data: Data
    kept: Sequence[Path]
    warm_up: Callable[[], None]
    on_start: Callable[[], None]
    wall_s: float = 0.0
    files_count: int = 0
    content_bytes: int = 0

    @contextlib.contextmanager
    def timed(self, source: Path | None = None) -> Iterator[None]:
        """Measure; a tree that is `source` says how much work it was."""
        if source is not None:
            self.files_count, self.content_bytes = extent(source)
        drop_caches()
        # All that will be read comes from memory: disks are not what is measured.
        for folder in (source, *self.kept):
            if folder is not None and folder.exists():
                subprocess.run(f"tar -cPf - '{folder}' | cat > /dev/null", shell=True, check=True)
        if trial := self.peer.trial():
            self.meter.run(trial)
        # Servers that read all of an object for its first byte do so once, which S3 never does.
        self.warm_up()
        # Last: a host takes memory back within seconds.
        touch_memory(SPARE_BYTES + COPIES * self.content_bytes)
        self.meter.cpu_s, self.meter.peak_bytes = 0.0, 0
        self.on_start()
        begin_s = time.monotonic()
        yield
        self.wall_s = time.monotonic() - begin_s

    def store(self, source: Path, tool: tuple[str, ...] = ("cp", "-a"), name: str = NAME) -> None:
        """Store a tree by the peer's own command, or by a tool through its mount."""
        if not self.peer.writes_by_mount:
            self.peer.store(self.place, self.meter, source, name)
            return
        with self.peer.mounted(self.place, self.meter, read_only=False) as top:
            self.copy_in(source, top, tool, name)

    def copy_in(self, source: Path, top: Path, tool: tuple[str, ...], name: str = NAME) -> None:
        (top / name).mkdir()
        self.meter.run([*tool, f"{source}/.", f"{top / name}/"])

    def on_fresh_machine(self) -> None:
        """Forget what this machine has cached."""
        home = self.place.home.with_name("other")
        home.mkdir()
        self.place = replace(self.place, home=home)
        self.meter.environment = self.place.environment()

    @contextlib.contextmanager
    def reading(self, source: Path, *, count: bool = True) -> Iterator[Path]:
        """Time a fresh mount of a stored tree; the null file system has to stay mounted."""
        if not self.peer.is_mount:
            raise NotForPeerError
        if self.peer.keeps_data:
            self.store(source)
            self.on_fresh_machine()
            with (
                self.timed(source if count else None),
                self.peer.mounted(self.place, self.meter, read_only=True) as top,
            ):
                yield top
            return
        with self.peer.mounted(self.place, self.meter, read_only=False) as top:
            self.copy_in(source, top, ("cp", "-a"))
            with self.timed(source if count else None):
                yield top


def _in(run: Run, source: Path, tool: tuple[str, ...] = ("cp", "-a")) -> None:
    with run.timed(source):
        run.store(source, tool)


def _out(run: Run, source: Path) -> None:
    target = run.place.home.parent / "out"
    if run.peer.is_mount:
        with run.reading(source) as top:
            run.meter.run(["cp", "-a", str(run.peer.tree(top, NAME)), str(target)])
        return
    run.store(source)
    run.on_fresh_machine()
    with run.timed(source):
        run.peer.fetch(run.place, run.meter, NAME, target)


def _again(run: Run, *, scattered: bool) -> None:
    """Store the small files, then the changed ones; mounts by --link-dest."""
    first, second = run.data.small(), run.data.changed(scattered=scattered)
    tool = ("rsync", "-a")
    linked = (*tool, f"--link-dest=../{NAME}")
    if run.peer.keeps_data:
        run.store(first, tool)
        with run.timed(second):
            run.store(second, linked, "second")
        return
    with run.peer.mounted(run.place, run.meter, read_only=False) as top:
        run.copy_in(first, top, tool)
        with run.timed(second):
            run.copy_in(second, top, linked, "second")


def _list(run: Run) -> None:
    with run.reading(run.data.small()) as top:
        run.meter.run(["ls", "-lR", str(run.peer.tree(top, NAME))])


def _random_reads(run: Run) -> None:
    """Time the reads alone: the wall is that of all of them, mount and first open apart."""
    source = run.data.big()
    with run.reading(source, count=False) as top:
        descriptor = os.open(run.peer.tree(top, NAME) / "file", os.O_RDONLY)
        try:
            run.on_start()
            begin_s = time.monotonic()
            length = os.fstat(descriptor).st_size
            chosen = random.Random(1)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            for _ in range(READS_COUNT):
                place = chosen.randrange(length // READ_BYTES) * READ_BYTES
                os.pread(descriptor, READ_BYTES, place)
            reads_s = time.monotonic() - begin_s
        finally:
            os.close(descriptor)
    run.wall_s, run.files_count = reads_s, READS_COUNT


def _first_byte(run: Run) -> None:
    source = run.data.small()
    deepest = max(
        (path for path in source.rglob("*") if path.is_file() and not path.is_symlink()),
        key=lambda path: len(path.parts),
    )
    with run.reading(source, count=False) as top:
        run.meter.run(["head", "-c1", str(run.peer.tree(top, NAME) / deepest.relative_to(source))])


def _begin_with_backups(run: Run) -> int:
    """Fill the repository with small backups by the library, and return how many."""
    count = max(1, round(_BACKUPS_COUNT * run.data.scale))
    program = [sys.executable, "-m", "tests.bench.backups"]
    run.meter.run([*program, run.peer.url(run.place), str(count)])
    run.on_fresh_machine()
    return count


def _mount_many(run: Run) -> None:
    """Mount, `ls` of the root, unmount."""
    count = _begin_with_backups(run)
    with run.timed(), run.peer.mounted(run.place, run.meter, read_only=True) as top:
        run.meter.run(["ls", str(top)])
    run.files_count = count


def _one_more(run: Run) -> None:
    """A new small backup, mount and unmount included."""
    count, source = _begin_with_backups(run), run.data.few()
    with run.timed():
        run.store(source)
    run.files_count = count


def _root(run: Run) -> None:
    with run.reading(run.data.changed(scattered=False), count=False) as top:
        run.meter.run(["ls", str(top)])


def _make_names(run: Run) -> None:
    """Mount, many empty files in one directory, unmount."""
    program = "import os, sys\nfor n in range(int(sys.argv[2])): os.mknod(f'{sys.argv[1]}/{n}')"
    run.files_count = round(_NAMES_COUNT * run.data.scale)
    with run.peer.mounted(run.place, run.meter, read_only=False) as top:
        (top / NAME).mkdir()
        run.meter.run([sys.executable, "-c", program, str(top / NAME), str(run.files_count)])


def _names(run: Run) -> None:
    with run.timed():
        _make_names(run)


def _walk(run: Run) -> None:
    """`ls -lR` of what `names` makes, on a fresh machine, mount included."""
    _make_names(run)
    run.on_fresh_machine()
    with run.timed(), run.peer.mounted(run.place, run.meter, read_only=True) as top:
        run.meter.run(["ls", "-lR", str(top / NAME)])


def _stream(run: Run) -> None:
    """One file of noise that comes through a pipe; who makes it takes processors, too."""
    length = round(_STREAM_BYTES * run.data.scale)
    zeros = "0" * 32
    noise = f"openssl enc -aes-128-ctr -K {zeros} -iv {zeros} -in /dev/zero"
    with run.timed(), run.peer.mounted(run.place, run.meter, read_only=False) as top:
        (top / NAME).mkdir()
        command = f"{noise} 2>/dev/null | head -c {length} > '{top / NAME}/file'"
        run.meter.run(["sh", "-c", command])
    run.files_count, run.content_bytes = 1, length


WORKS: dict[str, Callable[[Run], None]] = {
    "W1": lambda run: _in(run, run.data.big()),
    "W1r": lambda run: _in(run, run.data.noise()),
    "W2": lambda run: _in(run, run.data.small()),
    "W2rsync": lambda run: _in(run, run.data.small(), ("rsync", "-a")),
    "W3": lambda run: _again(run, scattered=True),
    "W3dir": lambda run: _again(run, scattered=False),
    "R1": lambda run: _out(run, run.data.big()),
    "R2": lambda run: _out(run, run.data.small()),
    "ls": _list,
    "random": _random_reads,
    "first": _first_byte,
    "root": _root,
    "mountmany": _mount_many,
    "onemore": _one_more,
    "names": _names,
    "walk": _walk,
    "stream": _stream,
}

GROWING = ("W1", "W2", "mountmany", "onemore")
"""Done with a tenth of the work too, to see what grows faster than the work."""

ALONE = {
    "boto3": {"W1", "W1r", "R1"},
    # What it stores, it stores as `restic` does.
    "resticmount": {"R1", "R2", "ls", "random", "first", "root"},
}
FOR_MOUNTS = {"W2rsync", "ls", "random", "first", "root"}
"""A native tool has no other way to do these."""
FOR_ITSELF = {"mountmany", "onemore", "names", "walk", "stream"}
CANNOT = {
    *(("rclone", "W3"), ("rclone", "W3dir"), ("s3fs", "W3"), ("s3fs", "W3dir")),
    *(("nullfs", "R1"), ("nullfs", "random")),
}


def can(peer: Peer, work: str) -> bool:
    """Whether a peer is measured at a work."""
    if work in FOR_MOUNTS and not peer.is_mount:
        return False
    if (peer.name, work) in CANNOT or (work in FOR_ITSELF and peer.name != "s3backfs"):
        return False
    return work in ALONE.get(peer.name, {work})
