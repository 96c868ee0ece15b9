"""What a tree looks like: attributes for each step, and everything now and then."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from tests.mount.model_calls import ACL_NAMES

SET_BEFORE_NS = 1_600_000_000 * 10**9
SET_AFTER_NS = 1_950_000_000 * 10**9


@dataclass(frozen=True)
class Look:
    """The attributes of one name."""

    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    device: int
    mtime_ns: int
    ctime_ns: int
    number: int
    has_blocks: bool

    def shown(self) -> tuple[int, ...]:
        """What must be equal everywhere; times only where somebody has set them."""
        is_set = not SET_BEFORE_NS < self.mtime_ns < SET_AFTER_NS
        time_ns = self.mtime_ns if is_set else -1
        return self.mode, self.uid, self.gid, self.nlink, self.size, self.device, time_ns


def look_at(path: Path | bytes) -> Look:
    status = os.lstat(path)
    is_sized = stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)
    is_device = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
    return Look(
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_nlink,
        status.st_size if is_sized else 0,
        status.st_rdev if is_device else 0,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
        status.st_blocks > 0,
    )


def look(top: Path) -> dict[str, Look]:
    """The attributes of every name in a tree, the top included."""
    found = {".": look_at(top)}
    for folder, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = Path(folder, name)
            found[str(path.relative_to(top))] = look_at(path)
    return found


def has_data(path: Path) -> bool:
    """Whether a file holds anything but zeros."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        return False
    data = path.read_bytes()
    return data.count(0) < len(data)


def contents(top: Path, name: str) -> tuple[object, ...]:
    """Bytes, target, extended attributes and access lists of one name."""
    path = top / name
    kind = os.lstat(path).st_mode
    data = b""
    if stat.S_ISREG(kind):
        data = hashlib.blake2b(path.read_bytes()).digest()
    elif stat.S_ISLNK(kind):
        data = os.readlink(os.fsencode(path))
    elif stat.S_ISDIR(kind):
        data = b"/".join(sorted(os.listdir(os.fsencode(path))))
    keys = sorted(set(os.listxattr(path, follow_symlinks=False)) - set(ACL_NAMES))
    values = tuple((key, os.getxattr(path, key, follow_symlinks=False)) for key in keys)
    return data, values, _lists(path, kind)


def _lists(path: Path, kind: int) -> tuple[bytes, ...]:
    """The access lists, asked for by name: not every file system names them in a listing."""
    if stat.S_ISLNK(kind):
        return ()
    found = []
    for key in ACL_NAMES:
        try:
            found.append(os.getxattr(path, key))
        except OSError:
            found.append(b"")
    return tuple(found)


def differing(here: dict[str, Look], there: dict[str, Look]) -> list[str]:
    """What two looks at the same moment show differently."""
    found = [f"only one has {name!r}" for name in sorted(set(here) ^ set(there))]
    for name in sorted(set(here) & set(there)):
        if here[name].shown() != there[name].shown():
            found.append(f"{name!r}: {here[name].shown()} is not {there[name].shown()}")
    if _groups(here) != _groups(there):
        found.append(f"hard links: {_groups(here)} are not {_groups(there)}")
    return found


def _groups(looks: dict[str, Look]) -> list[list[str]]:
    """The names that share a number."""
    by_number: dict[int, list[str]] = {}
    for name in sorted(looks):
        by_number.setdefault(looks[name].number, []).append(name)
    return sorted(by_number.values())


def touched(before: dict[str, Look], after: dict[str, Look]) -> dict[str, tuple[bool, bool]]:
    """Whether mtime and ctime have changed, of each inode that stays, by its names before."""
    by_number = {seen.number: seen for seen in after.values()}
    return {
        name: (
            by_number[seen.number].mtime_ns != seen.mtime_ns,
            by_number[seen.number].ctime_ns != seen.ctime_ns,
        )
        for name, seen in before.items()
        if seen.number in by_number
    }


def backward(before: dict[str, Look], after: dict[str, Look]) -> list[str]:
    """The inodes whose ctime went back."""
    by_number = {seen.number: seen.ctime_ns for seen in after.values()}
    return [
        f"ctime of {name!r} went back"
        for name, seen in before.items()
        if by_number.get(seen.number, seen.ctime_ns) < seen.ctime_ns
    ]
