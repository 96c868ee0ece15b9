"""What is backed up: the same bytes whenever it is made at the same scale."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

_BLOCK_BYTES = 1 << 20
_BIG_BYTES = 2 << 30
_NOISE_BYTES = 1 << 30
_FILES_COUNT = 20_000
_FILE_MAX_BYTES = 1 << 20
_SYSTEM = ("/usr/share", "/usr/lib", "/usr/include", "/usr/bin")


class Data:
    """The data below one folder, made when it is first asked for."""

    def __init__(self, folder: Path, scale: float) -> None:
        self._folder = folder
        self.scale = scale
        folder.mkdir(parents=True, exist_ok=True)

    def big(self) -> Path:
        """A folder with one file that zstd-3 makes about half as long."""
        return self._file("big", int(_BIG_BYTES * self.scale), half_random)

    def noise(self) -> Path:
        """A folder with one file that cannot be compressed."""
        return self._file("noise", int(_NOISE_BYTES * self.scale), random.Random.randbytes)

    def _file(self, name: str, length: int, make: Callable[[random.Random, int], bytes]) -> Path:
        folder = self._folder / name
        if not folder.exists():
            partial = self._folder / (name + ".partial")
            partial.mkdir(exist_ok=True)
            source = random.Random(name)
            with (partial / "file").open("wb") as out:
                for _ in range(length // _BLOCK_BYTES):
                    out.write(make(source, _BLOCK_BYTES))
            partial.rename(folder)
        return folder

    def small(self) -> Path:
        """Small files and symlinks of this system, in their directories."""
        folder = self._folder / "small"
        if not folder.exists():
            partial = self._folder / "small.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            _copy_some(partial, int(_FILES_COUNT * self.scale))
            partial.rename(folder)
        return folder

    def few(self) -> Path:
        """Twenty files of a few KiB."""
        folder = self._folder / "few"
        if not folder.exists():
            partial, source = self._folder / "few.partial", random.Random("few")
            partial.mkdir(exist_ok=True)
            for number in range(20):
                (partial / f"{number}").write_bytes(half_random(source, 1 << 16)[:5000])
            partial.rename(folder)
        return folder

    def changed(self, *, scattered: bool) -> Path:
        """The small files with every hundredth changed, or as many side by side."""
        folder = self._folder / ("scattered" if scattered else "together")
        if not folder.exists():
            subprocess.run(["cp", "-a", self.small(), folder], check=True)
            files = sorted(path for path in folder.rglob("*") if _is_plain(path))
            count = max(1, len(files) // 100)
            chosen = files[::100] if scattered else files[:count]
            for path in chosen:
                path.chmod(path.stat().st_mode | stat.S_IWUSR)
                with path.open("ab") as out:
                    out.write(b"changed\n")
        return folder


def half_random(source: random.Random, length: int) -> bytes:
    """Runs of random bytes, each followed by text of the same length."""
    words = b"the quick brown fox jumps over the lazy dog 0123456789 "
    run = 4096
    pieces = []
    for _ in range(length // (2 * run)):
        pieces.append(source.randbytes(run))
        pieces.append((words * (run // len(words) + 1))[:run])
    return b"".join(pieces)


def _is_plain(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def _copy_some(target: Path, count: int) -> None:
    """Copy small files and symlinks, with their directories."""
    names = b"\0".join(os.fsencode(path) for path in _chosen(count))
    command = ["rsync", "-a", "--from0", "--files-from=-", "/", f"{target}/"]
    subprocess.run(command, input=names, check=True)


def _chosen(count: int) -> Iterator[str]:
    """Whole directories from everywhere in the system's trees, up to a number of files."""
    folders = sorted(_folders(), key=lambda folder: hashlib.sha256(os.fsencode(folder)).digest())
    files = (name for folder in folders for name in _small_files(folder))
    return itertools.islice(files, count)


def _folders() -> list[str]:
    return [folder for top in _SYSTEM for folder, _, _ in os.walk(top)]


def _small_files(folder: str) -> list[str]:
    with os.scandir(folder) as found:
        return sorted(entry.path[1:] for entry in found if _is_small(entry))


def _is_small(entry: os.DirEntry[str]) -> bool:
    if entry.is_symlink():
        return True
    return entry.is_file() and entry.stat().st_size <= _FILE_MAX_BYTES


def extent(folder: Path) -> tuple[int, int]:
    """How many names and how many bytes are below a folder."""
    count = length = 0
    for path in folder.rglob("*"):
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            count += 1
            length += found.st_size
    return count, length
