"""Torture of one file: random operations, each compared with a plain array of bytes.

    python tests/mount/torture.py FILE [SEED [COUNT [SIZE]]]

prints the operations that led to the first difference and exits with 1.
"""

from __future__ import annotations

import mmap
import os
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PAGE_BYTES = mmap.PAGESIZE


class Difference(AssertionError):
    """The file is not what it should be; the text lists what was done to it."""


@dataclass
class Torture:
    """A file, what it must hold, and a source of chance."""

    path: Path
    seed: int
    max_bytes: int = 3 << 20
    expected: bytearray = field(default_factory=bytearray)
    done: list[str] = field(default_factory=list)
    descriptor: int = -1

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    def run(self, count: int) -> None:
        """Do `count` operations.

        Raises:
            Difference: the file was wrong after the last one.
        """
        operations: list[tuple[int, Callable[[], None]]] = [
            (30, self.write),
            (25, self.read),
            (5, self.append),
            (6, self.truncate_down),
            (6, self.truncate_up),
            (8, self.map_shared),
            (4, self.map_private),
            (6, self.write_zeros),
            (8, self.reopen),
            (4, self.write_only),
            (2, self.sync),
            (1, self.check),
        ]
        weights = [weight for weight, _ in operations]
        self.open()
        try:
            for _ in range(count):
                self.chance.choices(operations, weights)[0][1]()
            self.check()
            self.reopen()
            self.check()
        finally:
            os.close(self.descriptor)

    def open(self) -> None:
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT)

    def note(self, name: str, *numbers: int) -> None:
        self.done.append(f"{name} {' '.join(map(str, numbers))}")

    def _range(self, end: int) -> tuple[int, int]:
        """An offset and a length, mostly small, sometimes at the boundaries of pages."""
        offset = self.chance.randrange(max(end, 1))
        if self.chance.random() < 0.3:
            offset = offset // PAGE_BYTES * PAGE_BYTES
        length = int(2 ** self.chance.uniform(0, 19))
        return offset, min(length, end - offset)

    def _put(self, offset: int, data: bytes) -> None:
        if len(self.expected) < offset:
            self.expected.extend(bytes(offset - len(self.expected)))
        self.expected[offset : offset + len(data)] = data

    def _compare(self, what: str, offset: int, got: bytes) -> None:
        wanted = bytes(self.expected[offset : offset + len(got)])
        if got == wanted:
            return
        first = next(i for i in range(len(got)) if got[i : i + 1] != wanted[i : i + 1])
        raise Difference(
            f"seed {self.seed}: {what}: first wrong byte at {offset + first} of "
            f"{len(self.expected)}; operations: " + "; ".join(self.done[-40:])
        )

    # -- operations --------------------------------------------------------------------------

    def write(self) -> None:
        offset, length = self._range(self.max_bytes)
        self.note("write", offset, length)
        data = self.chance.randbytes(length)
        os.pwrite(self.descriptor, data, offset)
        self._put(offset, data)

    def write_zeros(self) -> None:
        offset, length = self._range(self.max_bytes)
        self.note("zeros", offset, length)
        os.pwrite(self.descriptor, bytes(length), offset)
        self._put(offset, bytes(length))

    def append(self) -> None:
        data = self.chance.randbytes(self.chance.randrange(1, 5000))
        if len(self.expected) + len(data) > self.max_bytes:
            return
        self.note("append", len(data))
        with self.path.open("ab") as file:
            file.write(data)
        self.expected += data

    def write_only(self) -> None:
        """Write through a handle of its own, while the other one is closed."""
        offset, length = self._range(self.max_bytes)
        self.note("write-only", offset, length)
        os.close(self.descriptor)
        data = self.chance.randbytes(length)
        descriptor = os.open(self.path, os.O_WRONLY)
        os.pwrite(descriptor, data, offset)
        os.close(descriptor)
        self._put(offset, data)
        self.open()

    def read(self) -> None:
        offset, length = self._range(len(self.expected) + 1)
        self.note("read", offset, length)
        got = os.pread(self.descriptor, length, offset)
        if len(got) != max(0, min(length, len(self.expected) - offset)):
            raise Difference(f"seed {self.seed}: short read: " + "; ".join(self.done[-40:]))
        self._compare("read", offset, got)

    def truncate_down(self) -> None:
        size = self.chance.randrange(len(self.expected) + 1)
        self.note("truncate", size)
        os.ftruncate(self.descriptor, size)
        del self.expected[size:]

    def truncate_up(self) -> None:
        size = self.chance.randrange(len(self.expected), self.max_bytes + 1)
        self.note("extend", size)
        os.truncate(self.path, size)
        self._put(size, b"")

    def map_shared(self) -> None:
        if not self.expected:
            return
        offset, length = self._range(len(self.expected))
        self.note("map", offset, length)
        data = self.chance.randbytes(length)
        with mmap.mmap(self.descriptor, 0) as mapped:
            self._compare("shared map", offset, mapped[offset : offset + length])
            mapped[offset : offset + length] = data
            self._put(offset, data)
            if self.chance.random() < 0.5:
                mapped.flush()

    def map_private(self) -> None:
        if not self.expected:
            return
        offset, length = self._range(len(self.expected))
        self.note("private", offset, length)
        with mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_COPY) as mapped:
            self._compare("private map", offset, mapped[offset : offset + length])
            mapped[offset : offset + length] = bytes(length)

    def reopen(self) -> None:
        self.note("reopen")
        os.close(self.descriptor)
        self.open()

    def sync(self) -> None:
        self.note("fsync")
        os.fsync(self.descriptor)

    def check(self) -> None:
        """Compare the whole file, and its size."""
        if os.fstat(self.descriptor).st_size != len(self.expected):
            raise Difference(f"seed {self.seed}: wrong size: " + "; ".join(self.done[-40:]))
        self._compare("check", 0, os.pread(self.descriptor, len(self.expected) + 1, 0))


def main() -> int:
    path = Path(sys.argv[1])
    seed, count, size = ([*map(int, sys.argv[2:]), 0, 0, 0])[:3]
    try:
        Torture(path, seed, size or 3 << 20).run(count or 10_000)
    except Difference as difference:
        print(difference)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
