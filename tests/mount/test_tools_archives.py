"""Archivers, into the mount and out of it; compared here and on another machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import Shared
from tests.mount.trees import change_tree, differences, make_plain_tree, make_tree, needs, run

pytestmark = pytest.mark.mount

GNU_TAR = ("tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls")
BSDTAR = ("bsdtar", "--numeric-owner", "--xattrs", "--acls")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    make_tree(made)
    return made


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    made = tmp_path / "plain"
    make_plain_tree(made)
    return made


@needs("tar")
def test_tar_extracts_into_a_backup(shared: Shared, backup: Path, source: Path) -> None:
    """GNU tar writes an archive into a backup and extracts it there, attributes and all."""
    archive, target = backup / "archive.tar", backup / "tree"
    target.mkdir()
    run(*GNU_TAR, "--sparse", "-cf", archive, "-C", source, ".")
    run(*GNU_TAR, "-xpf", archive, "-C", target)
    assert shared.differences(source, target) == ""


@needs("tar")
def test_tar_reads_what_was_just_written(backup: Path, source: Path, tmp_path: Path) -> None:
    """tar --sparse, which takes a file of no blocks for a hole, sees data that is not stored."""
    run("cp", "-a", source, backup / "tree")
    (tmp_path / "out").mkdir()
    packed = run(*GNU_TAR, "--sparse", "-cf", "-", "-C", backup / "tree", ".")
    run(*GNU_TAR, "-xpf", "-", "-C", tmp_path / "out", stdin=packed)
    assert differences(source, tmp_path / "out") == ""


@needs("tar")
def test_tar_incremental_finds_what_changed(backup: Path, source: Path, tmp_path: Path) -> None:
    """tar --listed-incremental of a backup dumps only changes, and both parts restore it."""
    tree, snapshot = backup / "tree", tmp_path / "snapshot"
    run("cp", "-a", source, tree)
    options = (*GNU_TAR, f"--listed-incremental={snapshot}", "--no-check-device")
    run(*options, "-cf", backup / "full.tar", "-C", tree, ".")
    change_tree(tree)
    run(*options, "-cf", backup / "changes.tar", "-C", tree, ".")
    listed = run("tar", "-tf", backup / "changes.tar").decode()
    assert "./new" in listed
    assert "./large" in listed
    assert "n" * 255 not in listed
    restored = tmp_path / "restored"
    restored.mkdir()
    for archive in ("full.tar", "changes.tar"):
        run(*GNU_TAR, "--listed-incremental=/dev/null", "-xpf", backup / archive, "-C", restored)
    assert differences(tree, restored) == ""


@needs("tar", "rsync")
def test_tar_dumps_nothing_of_an_unchanged_backup_after_a_remount(
    shared: Shared, tmp_path: Path, source: Path
) -> None:
    """Inode numbers and ctimes outlive a remount, so tar's second incremental dump is empty."""
    machine = shared.other
    snapshot = tmp_path / "snapshot"
    backup = shared.new_backup()
    run("cp", "-a", source, backup / "tree")
    shared.mount.machine.run("sync", str(shared.mount.path))
    options = (*GNU_TAR, f"--listed-incremental={snapshot}", "--no-check-device")
    sizes = []
    for _ in range(2):
        with machine.mounted("--read-only") as mount:
            tree = mount.path / backup.name / "tree"
            sizes.append(len(run(*options, "-cf", "-", "-C", tree, ".")))
    assert sizes[0] > 4 << 20
    assert sizes[1] <= 20 * 1024


@needs("bsdtar")
def test_bsdtar_in_and_out(shared: Shared, backup: Path, source: Path, tmp_path: Path) -> None:
    """bsdtar brings a tree in and out again, attributes and all."""
    target, restored = backup / "tree", tmp_path / "restored"
    target.mkdir()
    restored.mkdir()
    run(*BSDTAR, "--format=pax", "-cf", backup / "archive", "-C", source, ".")
    run(*BSDTAR, "-xpf", backup / "archive", "-C", target)
    # bsdtar leaves the time of a directory that was there before.
    run("touch", "-r", source, target)
    assert shared.differences(source, target) == ""
    packed = run(*BSDTAR, "--format=pax", "-cf", "-", "-C", target, ".")
    run(*BSDTAR, "-xpf", "-", "-C", restored, stdin=packed)
    run("touch", "-r", source, restored)
    assert differences(source, restored) == ""


@needs("cpio")
def test_cpio_passes_and_unpacks(shared: Shared, backup: Path, plain: Path, tmp_path: Path) -> None:
    """cpio copies a tree in one step and through an archive."""
    names = run("find", ".", "-depth", "-print0", cwd=plain)
    (backup / "passed").mkdir()
    run("cpio", "-0", "-pdm", backup / "passed", cwd=plain, stdin=names)
    archive = run("cpio", "-0", "-o", "-H", "newc", cwd=plain, stdin=names)
    (backup / "archive").write_bytes(archive)
    (backup / "unpacked").mkdir()
    (tmp_path / "control").mkdir()
    for target in (backup / "unpacked", tmp_path / "control"):
        run("cpio", "-idm", "-F", backup / "archive", cwd=target)
    passed = backup / "passed"
    assert differences(tmp_path / "control", backup / "unpacked") == ""
    assert (passed / "data").read_bytes() == (plain / "data").read_bytes()
    assert os.stat(passed / "dir" / "linked").st_nlink == 2
    assert os.stat(passed / "data").st_uid == 1234
    shared.compared.append((tmp_path / "control", backup / "unpacked"))


@needs("zip", "unzip")
def test_zip_adds_to_an_archive(backup: Path, plain: Path, tmp_path: Path) -> None:
    """zip makes, tests, extends and extracts an archive in a backup."""
    archive = backup / "archive.zip"
    run("zip", "-qry", archive, ".", cwd=plain)
    (plain / "more").write_bytes(os.urandom(100_000))
    run("zip", "-q", archive, "more", cwd=plain)
    run("unzip", "-qt", archive)
    run("unzip", "-q", archive, "-d", backup / "out")
    for name in ("data", "more", "dir/linked"):
        assert (backup / "out" / name).read_bytes() == (plain / name).read_bytes()


@contextlib.contextmanager
def ext4_device(tree: Path, image: Path) -> Iterator[str]:
    """A block device with an ext4 file system that holds a copy of a tree."""
    run("mke2fs", "-q", "-t", "ext4", "-d", tree, image, "64M")
    done = subprocess.run(
        ["losetup", "-f", "--show", str(image)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no loop devices here: {done.stderr.strip()}")
    device = done.stdout.strip()
    try:
        yield device
    finally:
        run("losetup", "-d", device)


def tree_of_files(top: Path) -> None:
    make_plain_tree(top)
    os.mkfifo(top / "fifo")
    os.setxattr(top / "data", "user.name", b"value")


@needs("dump", "restore", "mke2fs")
def test_dump_and_restore(shared: Shared, backup: Path, tmp_path: Path) -> None:
    """dump writes an ext4 file system into a backup, and restore brings it back from there."""
    source = tmp_path / "tree"
    tree_of_files(source)
    with ext4_device(source, tmp_path / "ext4.img") as device:
        run("dump", "-0", "-f", backup / "level0.dump", device)
    outside, inside = tmp_path / "restored", backup / "restored"
    for target in (outside, inside):
        target.mkdir()
        run("restore", "-rf", backup / "level0.dump", cwd=target)
        (target / "restoresymtable").unlink()
        (target / "lost+found").rmdir()
        run("touch", "-r", source, target)
    assert differences(source, outside) == ""
    assert shared.differences(outside, inside) == ""


@needs("dump", "restore", "mke2fs")
def test_restore_picks_files_out_of_a_dump(backup: Path, tmp_path: Path) -> None:
    """restore -i and restore -x find one file in a dump."""
    source = tmp_path / "tree"
    tree_of_files(source)
    with ext4_device(source, tmp_path / "ext4.img") as device:
        run("dump", "-0", "-f", backup / "level0.dump", device)
    extract, chosen = b"1\nn\n", b"ls\nadd data\nextract\n"
    for name, arguments, typed in [
        ("picked", ["-xf", backup / "level0.dump", "./data"], extract),
        ("chosen", ["-if", backup / "level0.dump"], chosen + extract + b"quit\n"),
    ]:
        target = tmp_path / name
        target.mkdir()
        run("restore", *arguments, cwd=target, stdin=typed)
        assert os.listdir(target) == ["data"]
        assert (target / "data").read_bytes() == (source / "data").read_bytes()


def test_another_machine_reads_the_same(shared: Shared) -> None:
    """All that the tools above brought in is whole on a machine that was not there."""
    if not shared.compared:
        pytest.skip("no other test of this session has written anything")
    assert shared.differences_elsewhere() == ""
