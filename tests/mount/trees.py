"""Trees with some of everything, and what differs between two of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOOL_TIMEOUT_S = 110


def run(*command: str | Path, cwd: Path | None = None, stdin: bytes = b"") -> bytes:
    """Run a tool to its end and return what it printed; a failure shows what it complained of."""
    done = subprocess.run(
        list(map(os.fspath, command)),
        cwd=cwd,
        input=stdin,
        capture_output=True,
        timeout=TOOL_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        text = done.stderr.decode(errors="replace")[-2000:]
        raise AssertionError(f"{command}: exit {done.returncode}\n{text}")
    return done.stdout


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip a test, and say why, where a program is not installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def rsync(*arguments: str | Path) -> str:
    return run("rsync", *arguments).decode(errors="surrogateescape")


def differences(left: Path, right: Path) -> str:
    """What rsync would change to make `right` like `left`: every byte and attribute counts."""
    return rsync(
        "-naHAX",
        "--numeric-ids",
        "--checksum",
        "--delete",
        "--itemize-changes",
        f"{left}/",
        f"{right}/",
    )


def make_tree(top: Path) -> None:
    """Some of everything that a file system can hold."""
    top.mkdir()
    (top / "empty").touch()
    (top / "tiny").write_bytes(b"tiny\n")
    (top / "small").write_bytes(os.urandom(5_000))
    (top / "large").write_bytes(os.urandom(3 << 20) + bytes(9 << 20) + os.urandom(1 << 20))
    (top / "dir" / "deep" / "deeper").mkdir(parents=True)
    (top / "dir" / "linked").write_bytes(b"linked" * 400)
    os.link(top / "dir" / "linked", top / "dir" / "deep" / "second name")
    os.symlink("../somewhere/else", top / "dir" / "link")
    os.symlink("x" * 3000, top / "dir" / "long link")
    os.mkfifo(top / "dir" / "fifo")
    os.mknod(top / "dir" / "device", 0o600 | 0o020000, os.makedev(1, 3))
    (top / os.fsdecode(b"not \xff utf8")).write_bytes(b"name")
    (top / ("n" * 255)).write_bytes(b"long name")
    os.setxattr(top / "tiny", "user.small", b"value")
    os.setxattr(top / "small", "user.large", os.urandom(3000))
    os.chmod(top / "small", 0o4711)
    os.chown(top / "tiny", 1234, 2345)
    run("setfacl", "-m", "u:1:rwx,g:2:r", top / "small")
    run("setfacl", "-d", "-m", "u:1:rwx", top / "dir")
    os.utime(top / "tiny", ns=(1, 1_234_567_890_123_456_789))
    os.utime(top / "dir", ns=(1, 987_654_321_000_000_007))


def make_plain_tree(top: Path) -> None:
    """What every archive format can hold: files, directories and links, without sparse ranges."""
    (top / "dir" / "deep").mkdir(parents=True)
    (top / "empty").touch()
    (top / "data").write_bytes(os.urandom(300_000))
    (top / "dir" / "linked").write_bytes(b"linked" * 400)
    os.link(top / "dir" / "linked", top / "dir" / "deep" / "second name")
    os.symlink("../somewhere/else", top / "dir" / "link")
    os.chmod(top / "data", 0o640)
    os.chown(top / "data", 1234, 2345)
    for place in (top / "data", top / "dir" / "linked"):
        os.utime(place, (1_234_567_890, 1_234_567_890))


def change_tree(top: Path) -> None:
    """What a day does to the tree: files grow, change inside, come, go and get other modes."""
    with (top / "small").open("ab") as small:
        small.write(b"grown")
    with (top / "large").open("r+b") as large:
        large.seek(1 << 20)
        large.write(b"changed in the middle")
    # rsync compares whole seconds.
    os.utime(top / "large", ns=(1, 1_300_000_000_123_456_789))
    (top / "new").write_bytes(os.urandom(70_000))
    (top / "empty").unlink()
    (top / "dir" / "deep" / "deeper").rmdir()
    os.chmod(top / "tiny", 0o600)
    os.rename(top / "dir" / "link", top / "dir" / "renamed link")
