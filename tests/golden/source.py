"""Make the source trees of the golden repositories, and write down what is in a tree.

    python source.py make TOP monday|tuesday|wednesday
    python source.py describe NAME=TOP... > expected.json

`tuesday` changes the tree that `monday` has made. The description is of the source trees: what
a repository must give back, known without it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MONDAY_NS = 1_700_000_000_123_456_789
PIECES = [(index * 20_000 + 100, 300 + index) for index in range(200)]
TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "device",
}
Description = dict[str, Any]


def words(seed: str, length: int) -> bytes:
    """Give text that no other seed gives, and that compresses a little."""
    dice = random.Random(seed)
    made = bytearray()
    while len(made) < length:
        made += dice.randbytes(dice.randrange(2, 6)).hex().encode() + b" "
    return bytes(made[:length])


def make_monday(top: Path) -> None:
    """Make some of everything that a file system can hold."""
    top.mkdir()
    (top / "empty").touch()
    (top / "inline").write_bytes(b"in the entry itself\n")
    for number in range(5):
        (top / f"bundled-{number}").write_bytes(words(f"bundled {number}", 2000 + number))
    (top / "chunks").write_bytes(words("chunks", 300_000))
    with (top / "sparse").open("wb") as file:
        file.write(words("head", 3000))
        file.seek(1 << 20)
        file.write(words("tail", 3000))
        file.truncate(5 << 20)
    (top / "all hole").touch()
    os.truncate(top / "all hole", 123_456)
    make_pieces(top / "pieces")
    make_special(top)
    make_attributes(top)
    make_many(top / "many")


def make_pieces(path: Path) -> None:
    """Make a file of more extents than an entry holds."""
    with path.open("wb") as file:
        for offset, length in PIECES:
            file.seek(offset)
            file.write(words(f"piece {offset}", length))


def make_special(top: Path) -> None:
    (top / "dir" / "deep" / "deeper").mkdir(parents=True)
    (top / "dir" / "linked").write_bytes(words("linked", 6000))
    os.link(top / "dir" / "linked", top / "dir" / "deep" / "second name")
    os.link(top / "dir" / "linked", top / "a third name")
    (top / "dir" / "linked small").write_bytes(b"small")
    os.link(top / "dir" / "linked small", top / "dir" / "deep" / "deeper" / "small too")
    os.symlink("../somewhere/else", top / "dir" / "link")
    os.symlink("x" * 1500, top / "dir" / "long link")
    os.mkfifo(top / "dir" / "fifo")
    os.mknod(top / "dir" / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.mkdir(os.fsencode(top) + b"/dir \xfe")
    with open(os.fsencode(top) + b"/dir \xfe/not \xff utf8", "wb") as file:
        file.write(b"name")
    (top / ("n" * 255)).write_bytes(b"long name")


def make_attributes(top: Path) -> None:
    os.setxattr(top / "inline", "user.small", b"value")
    os.setxattr(top / "inline", "user.empty", b"")
    os.setxattr(top / "bundled-1", "user.large", words("xattr", 1800))
    os.setxattr(top / "dir" / "deep", "user.of directory", b"\0\xff")
    os.chmod(top / "bundled-2", 0o4711)
    os.chown(top / "inline", 1234, 2345)
    os.chown(top / "dir" / "link", 4_000_000_000, 7, follow_symlinks=False)
    subprocess.run(["setfacl", "-m", "u:1:rwx,g:2:r", top / "bundled-3"], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:1:rwx", top / "dir"], check=True)


def make_many(top: Path) -> None:
    """Make more names than one node of a manifest holds."""
    top.mkdir()
    for number in range(1500):
        (top / f"{number:04}").write_bytes(b"%d\n" % number)


def make_tuesday(top: Path) -> None:
    """Change a little of everything."""
    with (top / "chunks").open("r+b") as file:
        file.seek(150_000)
        file.write(b"CHANGED")
    (top / "inline").write_bytes(b"another text\n")
    (top / "new").write_bytes(words("new", 4000))
    (top / "bundled-4").unlink()
    (top / "a third name").unlink()
    os.chmod(top / "bundled-0", 0o600)
    os.rename(top / "bundled-2", top / "dir" / "renamed")
    for number in (7, 700, 1400):
        (top / "many" / f"{number:04}").write_bytes(b"changed\n")
    (top / "many" / "0800").unlink()
    (top / "many" / "0800 and a half").write_bytes(b"new\n")


def make_wednesday(top: Path) -> None:
    """Make the few files of a backup that stays open."""
    top.mkdir()
    (top / "inline").write_bytes(b"open\n")
    (top / "bundled").write_bytes(words("open", 3000))
    (top / "chunks").write_bytes(words("chunks", 300_000))
    os.link(top / "bundled", top / "linked")
    (top / "dir").mkdir()
    os.symlink("../inline", top / "dir" / "link")


def set_times(top: Path, new_ns: int, since_ns: int) -> None:
    """Give everything that was changed since then times that the seed decides."""
    for number, path in enumerate(sorted(below(top), reverse=True)):
        if path.lstat().st_mtime_ns > since_ns:
            when_ns = new_ns + number * 1_000_000_007
            os.utime(path, ns=(when_ns, when_ns), follow_symlinks=False)


def below(top: Path) -> Iterator[Path]:
    yield top
    yield from top.rglob("*")


def describe(top: Path) -> dict[str, Description]:
    """Describe every file of a tree by its path; fields that say nothing are left out."""
    first: dict[int, str] = {}
    told = {}
    for path in sorted(below(top)):
        name = "" if path == top else str(path.relative_to(top))
        told[name] = describe_one(path)
        if told[name]["type"] == "file" and path.lstat().st_nlink > 1:
            told[name]["links"] = path.lstat().st_nlink
            told[name]["same_as"] = first.setdefault(path.lstat().st_ino, name)
    return told


def describe_one(path: Path) -> Description:
    status = path.lstat()
    kind = TYPES[stat.S_IFMT(status.st_mode)]
    told: Description = {
        "type": kind,
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "mtime_ns": status.st_mtime_ns,
    }
    if (status.st_uid, status.st_gid) != (0, 0):
        told["owner"] = [status.st_uid, status.st_gid]
    if kind == "file":
        told |= {"size": status.st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    if kind == "symlink":
        told["target"] = os.readlink(path)
    if kind == "device":
        told["device"] = [os.major(status.st_rdev), os.minor(status.st_rdev)]
    names = os.listxattr(path, follow_symlinks=False)
    if names:
        told["xattrs"] = {name: os.getxattr(path, name).hex() for name in sorted(names)}
    return told


def print_descriptions(trees: dict[str, Path]) -> None:
    """Print one line for each file."""
    lines = []
    for name, top in trees.items():
        rows = (f"{json.dumps(path)}: {json.dumps(told)}" for path, told in describe(top).items())
        lines.append(f'"{name}": {{\n' + ",\n".join(rows) + "\n}")
    print("{" + ",\n".join(lines) + "}")


def main(verb: str, *arguments: str) -> None:
    os.umask(0o022)
    if verb == "describe":
        pairs = (argument.split("=", 1) for argument in arguments)
        print_descriptions({name: Path(top) for name, top in pairs})
        return
    top, day = Path(arguments[0]), arguments[1]
    number = ["monday", "tuesday", "wednesday"].index(day)
    {0: make_monday, 1: make_tuesday, 2: make_wednesday}[number](top)
    new_ns = MONDAY_NS + number * 86_400 * 10**9
    set_times(top, new_ns, MONDAY_NS + 10 * 86_400 * 10**9)


if __name__ == "__main__":
    main(*sys.argv[1:])
