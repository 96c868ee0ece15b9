"""Trees that can be told apart, and what nights do to them."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

SIZES = (0, 80, 700, 5_000, 60_000, 200_000)
FIRST_DAY_S = 1_700_000_000


def make_source(top: Path, randomness: random.Random, *, file_count: int, large_bytes: int) -> None:
    """Small files in some directories, hard links, a symbolic link, and one large file."""
    top.mkdir(parents=True)
    for number in range(file_count):
        directory = top / f"dir{number % 7}" / f"sub{number % 3}"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"file{number}"
        path.write_bytes(randomness.randbytes(randomness.choice(SIZES)))
        if number % 5 == 0:
            os.link(path, directory / f"second name {number}")
    (top / "large").write_bytes(randomness.randbytes(large_bytes))
    os.symlink("dir0/sub0/file0", top / "link")


@dataclass
class Source:
    """A tree that changes from night to night."""

    top: Path
    randomness: random.Random
    day: int = 0
    made_count: int = field(default=0)

    def files(self) -> list[Path]:
        """What can be changed: files with one name."""
        found = [path for path in self.top.rglob("*") if path.is_file() and not path.is_symlink()]
        return sorted(path for path in found if path.stat().st_nlink == 1)

    def change(self, change_count: int) -> int:
        """Let a day pass; return how many bytes are new."""
        self.day += 1
        return sum(self._change_one() for _ in range(change_count)) + self._change_large()

    def _change_one(self) -> int:
        randomness = self.randomness
        path = randomness.choice(self.files())
        match randomness.randrange(5):
            case 0:
                path.unlink()
                return 0
            case 1:
                self.made_count += 1
                path.rename(path.with_name(f"renamed{self.made_count}"))
                return 0
            case 2:
                path.chmod(randomness.choice([0o600, 0o644, 0o755]))
                return 0
            case 3:
                self.made_count += 1
                path = path.with_name(f"new{self.made_count}")
        return self._write(path, randomness.randbytes(randomness.choice(SIZES)))

    def _change_large(self) -> int:
        path = self.top / "large"
        data = bytearray(path.read_bytes()) if path.exists() else bytearray(3 << 20)
        offset = self.randomness.randrange(len(data))
        data[offset : offset + 1000] = self.randomness.randbytes(1000)
        self._write(path, bytes(data))
        # The chunks around the change, which are about 1 MiB each and 4 at most.
        return 8 << 20

    def _write(self, path: Path, data: bytes) -> int:
        path.write_bytes(data)
        # rsync takes a file of the same size and second for unchanged.
        moment_s = FIRST_DAY_S + self.day * 86_400 + self.randomness.randrange(86_400)
        os.utime(path, (moment_s, moment_s))
        return len(data)

    def keep(self, place: Path) -> Path:
        """Copy the tree as it is today."""
        shutil.copytree(self.top, place, symlinks=True, copy_function=shutil.copy2)
        return place
