"""Which call comes next in a walk: chance, with an eye on what is there."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.mount.model_calls import (
    ACL_NAMES,
    KINDS,
    USERS,
    UTIME_NOW,
    UTIME_OMIT,
    World,
)

NAMES = ("a", "b", "c", "d", "é", "x" * 255, "x" * 256)
SLOTS = range(5)
IDS = (-1, 0, 777, *(uid for uid, _, _ in USERS), *(gid for _, gid, _ in USERS))
KEYS = ("user.a", "user.b", "trusted.c", "security.d", "bad.e", *ACL_NAMES)
MAX_BYTES = 4 << 20
RDEVS = (0, os.makedev(1, 3), os.makedev(259, 70_000))


@dataclass(frozen=True)
class Step:
    """One call: who makes it, and with which arguments."""

    who: int
    umask: int
    name: str
    arguments: tuple[Any, ...]


@dataclass
class Choices:
    """Draws steps; `names` are the paths that are there, `reference` is where they are."""

    seed: int
    reference: World
    names: list[str] = field(default_factory=list)
    has_default_lists: bool = False

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self._makers: list[tuple[int, str, Callable[[], tuple[Any, ...]]]] = [
            (10, "open_file", self._open),
            (4, "close", self._slot),
            (8, "pread", self._range),
            (16, "pwrite", self._write),
            (6, "write", lambda: (self._handle(), self._length(), self._seed())),
            (3, "seek", lambda: (self._handle(), self._size(), self.chance.randrange(3))),
            (4, "ftruncate", lambda: (self._handle(), self._size())),
            (5, "map_shared", self._write),
            (3, "map_read", self._range),
            (4, "map_keep", self._slot),
            (6, "map_poke", lambda: (self._mapped(), *self._write()[1:])),
            (2, "append_flag", lambda: (self._handle(), self.chance.random() < 0.5)),
            (1, "fsync", self._slot),
            (2, "fchmod", lambda: (self._handle(), self._mode())),
            (1, "fchown", lambda: (self._handle(), self._id(), self._id())),
            (1, "fsetxattr", lambda: (self._handle(), *self._xattr())),
            (4, "fstat", self._slot),
            (10, "rename", self._rename),
            (6, "link", lambda: (self._old(), self._new())),
            (4, "symlink", lambda: (self.chance.choice(["a", "a/b", "x" * 900]), self._new())),
            (1, "readlink", self._one),
            (6, "unlink", self._one),
            (7, "mkdir", lambda: (self._new(), self._mode())),
            (4, "rmdir", self._one),
            (3, "mknod", self._mknod),
            (2, "listdir", self._one),
            (2, "access", lambda: (self._old(), self.chance.randrange(8))),
            (3, "truncate", lambda: (self._old(), self._size())),
            (6, "chmod", lambda: (self._old(), self._mode())),
            (5, "chown", lambda: (self._old(), self._id(), self._id())),
            (4, "utimens", lambda: (self._old(), (self._time(), self._time()))),
            (5, "setxattr", lambda: (self._old(), *self._xattr())),
            (2, "getxattr", lambda: (self._old(), self.chance.choice(KEYS))),
            (3, "removexattr", lambda: (self._old(), self.chance.choice(KEYS))),
            (1, "listxattr", self._one),
            (5, "setacl", self._acl),
        ]
        self._weights = [weight for weight, _, _ in self._makers]

    def step(self) -> Step:
        """Draw the next step."""
        who = self.chance.choices(range(len(USERS)), (10, 3, 2, 2))[0]
        # Under a default list the umask counts here and not elsewhere, as is documented.
        umask = 0 if self.has_default_lists else self.chance.choice((0, 0o022, 0o027, 0o077))
        _, name, maker = self.chance.choices(self._makers, self._weights)[0]
        return Step(who, umask, name, maker())

    # -- arguments ---------------------------------------------------------------------------

    def _old(self) -> str:
        if self.names and self.chance.random() < 0.93:
            return self.chance.choice(self.names)
        return self._new()

    def _new(self) -> str:
        folders = [name for name in self.names if self._is_directory(name)]
        folder = self.chance.choice([*folders, "."])
        if folder.count("/") > 3:
            folder = "."
        if self.chance.random() < 0.05:
            folder = self._old() if self.names else "missing"
        name = self.chance.choices(NAMES, (10, 10, 10, 5, 5, 1, 0.3))[0]
        return name if folder == "." else f"{folder}/{name}"

    def _is_directory(self, name: str) -> bool:
        return stat.S_ISDIR(os.lstat(self.reference.path(name)).st_mode)

    def _one(self) -> tuple[str]:
        return (self._old(),)

    def _handle(self) -> int:
        if self.reference.slots and self.chance.random() < 0.97:
            return self.chance.choice(sorted(self.reference.slots))
        return self.chance.choice(SLOTS)

    def _slot(self) -> tuple[int]:
        return (self._handle(),)

    def _mapped(self) -> int:
        return self.chance.choice(sorted(self.reference.maps) or [0])

    def _seed(self) -> int:
        return self.chance.randrange(1000)

    def _length(self) -> int:
        return int(2 ** self.chance.uniform(0, 19)) - 1

    def _size(self) -> int:
        kind = self.chance.random()
        if kind < 0.2:
            return 0
        if kind < 0.5:
            return self.chance.randrange(64) * 4096
        return int(2 ** self.chance.uniform(0, 22))

    def _range(self) -> tuple[int, int, int]:
        return self._handle(), self._size(), self._length()

    def _write(self) -> tuple[int, int, int, int]:
        return *self._range(), self._seed()

    def _mode(self) -> int:
        special = self.chance.choice((0, 0, 0, 0o1000, 0o2000, 0o4000, 0o6000))
        plain = (0o777, 0o755, 0o644, 0o750, 0o070, 0o707, 0, 0o666, 0o770, 0o511)
        return special | self.chance.choice(plain)

    def _id(self) -> int:
        return self.chance.choice(IDS)

    def _time(self) -> tuple[int, int]:
        kind = self.chance.random()
        if kind < 0.3:
            return 0, UTIME_OMIT
        if kind < 0.4:
            return 0, UTIME_NOW
        seconds = self.chance.choice((-1_000, 0, 1, 1_234_567_890, 2_000_000_000, 4_000_000_000))
        return seconds, self.chance.choice((0, 1, 999_999_999, 123_456_789))

    def _xattr(self) -> tuple[str, int, int, int]:
        length = self.chance.choice((0, 1, 20, 300, 900))
        return self.chance.choice(KEYS[:5]), length, self._seed(), self.chance.choice((0, 0, 1, 2))

    def _open(self) -> tuple[Any, ...]:
        flags = self.chance.choice((os.O_RDONLY, os.O_WRONLY, *[os.O_RDWR] * 4))
        for flag, share in (
            (os.O_CREAT, 0.6),
            (os.O_TRUNC, 0.15),
            (os.O_EXCL, 0.1),
            (os.O_APPEND, 0.15),
            (os.O_NOFOLLOW, 0.1),
            (os.O_DIRECTORY, 0.02),
        ):
            if self.chance.random() < share:
                flags |= flag
        # Without O_CREAT, what O_EXCL means is not defined.
        flags &= ~os.O_EXCL if not flags & os.O_CREAT else -1
        name = self._new() if self.chance.random() < 0.4 else self._old()
        # A fifo would wait for its other end.
        return name, flags | os.O_NONBLOCK, self._mode(), self.chance.choice(SLOTS)

    def _rename(self) -> tuple[str, str, int]:
        new = self._old() if self.chance.random() < 0.5 else self._new()
        return self._old(), new, self.chance.choice((0, 0, 0, 1, 2, 3))

    def _mknod(self) -> tuple[str, int, int]:
        mode = self.chance.choice(KINDS) | self._mode()
        return self._new(), mode, self.chance.choice(RDEVS)

    def _acl(self) -> tuple[Any, ...]:
        def line(tag: int, number: int = 0xFFFFFFFF) -> tuple[int, int, int]:
            return tag, self.chance.randrange(8), number

        lines = [line(1)]
        named = self.chance.random() < 0.7
        if named:
            lines += [line(2, number) for number in (1234, 1235) if self.chance.random() < 0.6]
        lines.append(line(4))
        if named and self.chance.random() < 0.5:
            lines.append(line(8, 2346))
        if len(lines) > 2 or self.chance.random() < 0.2:
            lines.append(line(16))
        lines.append(line(32))
        if self.chance.random() < 0.05:
            lines = []
        return self._old(), self.chance.choice(ACL_NAMES), tuple(lines)
