"""The parts of the demo that a shell does badly; each verb stands beside its function."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MIB = 1 << 20
LARGEST_CHOSEN_BYTES = MIB


def print_free_port() -> None:
    """free-port: print a TCP port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        print(probe.getsockname()[1])


def wait_for_port(port: str) -> None:
    """wait-for-port PORT: return when somebody listens, fail after 20 seconds."""
    deadline_s = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", int(port)), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)


def choose_files(count: str, *directories: str) -> None:
    """choose-files COUNT DIRECTORY...: print COUNT paths below them, each ended by a NUL."""
    chosen = 0
    for path in (path for directory in directories for path in walk_files(directory)):
        if chosen == int(count):
            return
        sys.stdout.buffer.write(os.fsencode(path) + b"\0")
        chosen += 1
    if chosen < int(count):
        raise SystemExit(f"there are only {chosen} files below {' '.join(directories)}")


def walk_files(directory: str) -> Iterator[str]:
    """Yield readable files and symbolic links of moderate size, in order of their names."""
    for root, directories, names in os.walk(os.path.realpath(directory)):
        directories.sort()
        for name in sorted(names):
            path = os.path.join(root, name)
            if os.path.islink(path) or is_suitable(path):
                yield path


def is_suitable(path: str) -> bool:
    """Say whether this is a plain file that this user can read and that is not large."""
    if not os.path.isfile(path) or not os.access(path, os.R_OK):
        return False
    return os.path.getsize(path) <= LARGEST_CHOSEN_BYTES


def make_large_file(length_mib: str, path: str) -> None:
    """make-large-file MIB PATH: the same bytes each time; half of them can be compressed."""
    with Path(path).open("wb") as file:
        for number in range(int(length_mib)):
            noise = hashlib.shake_256(b"demo %d" % number).digest(MIB // 2)
            line = b"%016d the quick brown fox jumps over the lazy dog\n" % number
            file.write(noise + (line * (MIB // 2 // len(line) + 1))[: MIB // 2])


def print_field(name: str) -> None:
    """field NAME: print one field of the JSON object on standard input."""
    print(json.load(sys.stdin)[name])


def print_table(work: str, *names: str) -> None:
    """table WORK NAME...: print what each backup read, stored and cost."""
    backups = {backup["name"]: backup for backup in json.loads(Path(work, "list").read_text())}
    heads = ("backup", "files", "MiB read", "MiB stored", "seconds", "requests")
    print("{:10} {:>8} {:>10} {:>11} {:>9} {:>9}".format(*heads))
    for name in names:
        backup = backups[name]
        status = json.loads(Path(work, f"{name}.status").read_text())
        begun_s, ended_s = map(float, Path(work, f"{name}.times").read_text().split())
        print(
            f"{name:10} {backup['files']:8} {status['written_bytes'] / MIB:10.1f}"
            f" {backup['stored_bytes'] / MIB:11.1f} {ended_s - begun_s:9.1f}"
            f" {sum(status['requests'].values()):9}"
        )


VERBS: dict[str, Callable[..., None]] = {
    "free-port": print_free_port,
    "wait-for-port": wait_for_port,
    "choose-files": choose_files,
    "make-large-file": make_large_file,
    "field": print_field,
    "table": print_table,
}

if __name__ == "__main__":
    VERBS[sys.argv[1]](*sys.argv[2:])
