"""Programs that work on files in their own ways: databases, git, dd, fio, locks."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import sqlite3
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.mount.conftest import Shared
from tests.mount.torture import Torture
from tests.mount.trees import needs, run

pytestmark = pytest.mark.mount

fork = multiprocessing.get_context("spawn")


# -- dd ----------------------------------------------------------------------------------------


def test_dd_writes_in_small_blocks(shared: Shared, backup: Path, tmp_path: Path) -> None:
    """dd bs=4k writes a file that reads back the same, here and elsewhere."""
    source = tmp_path / "tree"
    source.mkdir()
    (source / "image").write_bytes(os.urandom(5 << 20))
    (backup / "tree").mkdir()
    run("dd", f"if={source}/image", f"of={backup}/tree/image", "bs=4k", "conv=fsync")
    run("touch", "-r", source / "image", backup / "tree" / "image")
    run("touch", "-r", source, backup / "tree")
    assert shared.differences(source, backup / "tree") == ""


def test_dd_overwrites_in_the_middle(backup: Path, tmp_path: Path) -> None:
    """dd with seek and conv=notrunc changes a range, and without notrunc cuts the file off."""
    patch, content = tmp_path / "patch", bytearray(os.urandom(3_000_000))
    patch.write_bytes(os.urandom(50_000))
    image = backup / "image"
    image.write_bytes(content)
    run("dd", f"if={patch}", f"of={image}", "bs=1000", "seek=1777", "conv=notrunc,fsync")
    content[1_777_000:1_827_000] = patch.read_bytes()
    assert image.read_bytes() == content
    run("dd", f"if={patch}", f"of={image}", "bs=1000", "seek=10")
    assert image.read_bytes() == bytes(content[:10_000]) + patch.read_bytes()


def test_dd_appends(backup: Path, tmp_path: Path) -> None:
    """dd oflag=append writes on at the end."""
    patch = tmp_path / "patch"
    patch.write_bytes(os.urandom(50_000))
    for _ in range(3):
        run("dd", f"if={patch}", f"of={backup}/log", "bs=7000", "oflag=append", "conv=notrunc")
    assert (backup / "log").read_bytes() == patch.read_bytes() * 3


def test_dd_with_direct_io(backup: Path, tmp_path: Path) -> None:
    """O_DIRECT is accepted for reading and writing."""
    source = tmp_path / "image"
    source.write_bytes(os.urandom(1 << 20))
    run("dd", f"if={source}", f"of={backup}/image", "bs=64k", "oflag=direct")
    run("dd", f"if={backup}/image", f"of={tmp_path}/back", "bs=64k", "iflag=direct")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


# -- git and databases -------------------------------------------------------------------------


@needs("git")
def test_git_works_in_a_backup(backup: Path, tmp_path: Path) -> None:
    """git clones into a backup, commits and collects garbage there, and git fsck is content."""
    source, clone = tmp_path / "source", backup / "clone"
    git = ("git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "gc.auto=0")
    run(*git, "init", "-q", source)
    for number in range(5):
        (source / f"file{number}").write_bytes(os.urandom(20_000))
        run(*git, "-C", source, "add", ".")
        run(*git, "-C", source, "commit", "-q", "-m", f"change {number}")
    run(*git, "clone", "-q", "--no-local", source, clone)
    (clone / "more").write_text("more\n")
    run(*git, "-C", clone, "add", ".")
    run(*git, "-C", clone, "commit", "-q", "-m", "more")
    run(*git, "-C", clone, "gc", "-q")
    run(*git, "-C", clone, "fsck", "--full", "--strict")
    assert run(*git, "-C", clone, "status", "--porcelain") == b""
    run(*git, "clone", "-q", "--no-local", clone, tmp_path / "back")
    run(*git, "-C", tmp_path / "back", "fsck", "--full")


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate", "persist"])
def test_sqlite_keeps_a_database(backup: Path, mode: str) -> None:
    """SQLite works with a write-ahead log (which it maps) and with rollback journals."""
    path = backup / "base.db"
    with_database(path, mode, 0)
    with_database(path, mode, 1000)
    database = sqlite3.connect(path)
    database.execute("vacuum")
    assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    assert database.execute("select count(*), sum(n) from t").fetchone() == (2000, 1999 * 1000)
    database.close()


def with_database(path: Path, mode: str, first: int) -> None:
    database = sqlite3.connect(path)
    assert database.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
    database.execute("create table if not exists t (n integer primary key, data blob)")
    with database:
        rows = [(number, os.urandom(300)) for number in range(first, first + 1000)]
        database.executemany("insert into t values (?, ?)", rows)
    database.execute("delete from t")
    database.rollback()
    database.close()


@needs("sqlite3")
def test_sqlite_backs_up_into_a_backup(backup: Path, tmp_path: Path) -> None:
    """`.backup` and `.dump` of sqlite3 into a backup give whole copies."""
    with_database(tmp_path / "base.db", "wal", 0)
    run("sqlite3", tmp_path / "base.db", f".backup {backup}/copy.db")
    (backup / "dump.sql").write_bytes(run("sqlite3", tmp_path / "base.db", ".dump"))
    run("sqlite3", backup / "again.db", f".read {backup}/dump.sql")
    for name in ("copy.db", "again.db"):
        assert run("sqlite3", backup / name, "select count(*) from t") == b"1000\n"


# -- fio and the torture -----------------------------------------------------------------------


@needs("fio")
@pytest.mark.parametrize("engine", ["psync", "mmap"])
def test_fio_verifies_what_it_wrote(backup: Path, engine: str) -> None:
    """fio finds every block of mixed sizes that several jobs wrote at random, with checksums."""
    run(
        *("fio", "--name=verify", f"--directory={backup}", f"--ioengine={engine}"),
        *("--rw=randwrite", "--bsrange=1k-64k", "--blockalign=1k", "--size=4m", "--numjobs=3"),
        *("--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--fallocate=none"),
        *("--randrepeat=1", "--group_reporting", "--overwrite=0"),
        cwd=backup,
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_torture_of_one_file(backup: Path, seed: int) -> None:
    """Any mix of writes, truncations, maps, reopens and syncs leaves what an array would hold."""
    Torture(backup / "file", seed).run(400)


# -- several processes -------------------------------------------------------------------------


def test_appends_of_several_processes_stay_whole(backup: Path) -> None:
    """Every O_APPEND write of several processes is in the file once, in one piece."""
    program = (
        "import os, sys\n"
        "f = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n"
        "for n in range(300): os.write(f, f'{sys.argv[2]} {n:04} '.encode() + b'x' * 90 + b'\\n')\n"
    )
    log = backup / "log"
    children = [
        subprocess.Popen([sys.executable, "-c", program, str(log), str(name)]) for name in range(4)
    ]
    assert [child.wait(60) for child in children] == [0] * 4
    lines = log.read_bytes().split(b"\n")[:-1]
    assert {len(line) for line in lines} == {97}
    assert len(set(lines)) == len(lines) == 1200


def _try_lock(path: Path, pipe: Connection) -> None:
    with path.open("r+b") as file:
        results = []
        for attempt in (
            lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB),
            lambda: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0),
            lambda: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 10),
        ):
            try:
                attempt()
                results.append(True)
            except BlockingIOError:
                results.append(False)
        pipe.send(results)


def _other_process_locks(path: Path) -> list[bool]:
    ours, theirs = fork.Pipe()
    process = fork.Process(target=_try_lock, args=(path, theirs))
    process.start()
    results: list[bool] = ours.recv()
    process.join()
    return results


def test_locks_hold_between_processes(backup: Path) -> None:
    """flock and fcntl locks of one process keep others out, until they are let go."""
    path = backup / "locked"
    path.write_bytes(bytes(100))
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 0)
        assert _other_process_locks(path) == [False, False, True]
        fcntl.lockf(file, fcntl.LOCK_UN, 10, 0)
    assert _other_process_locks(path) == [True, True, True]
