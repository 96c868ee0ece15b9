"""Tools that copy and move trees: what they leave is compared here and on another machine."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.mount.conftest import Shared
from tests.mount.trees import change_tree, differences, make_tree, needs, rsync, run
from tests.mounts import Machine

pytestmark = pytest.mark.mount

ALL = ("-aHAX", "--numeric-ids")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    make_tree(made)
    return made


@pytest.mark.parametrize("sparse", ["auto", "always", "never"])
def test_cp_keeps_everything(shared: Shared, backup: Path, source: Path, sparse: str) -> None:
    """cp -a copies content, links, devices and all attributes, with holes or without."""
    run("cp", "-a", f"--sparse={sparse}", source, backup / "copy")
    assert shared.differences(source, backup / "copy") == ""


def test_cp_out_keeps_everything(backup: Path, source: Path, tmp_path: Path) -> None:
    """cp -a out of the mount is a complete restore."""
    run("cp", "-a", source, backup / "copy")
    run("cp", "-a", "--sparse=always", backup / "copy", tmp_path / "restored")
    assert differences(source, tmp_path / "restored") == ""


def test_cp_links_within_a_backup(backup: Path, source: Path) -> None:
    """cp -al within a backup makes names of the same inodes, and counts them."""
    run("cp", "-a", source, backup / "copy")
    run("cp", "-al", backup / "copy", backup / "linked")
    assert differences(source, backup / "linked") == ""
    first, second = (os.stat(backup / tree / "small") for tree in ("copy", "linked"))
    assert first.st_ino == second.st_ino
    assert second.st_nlink == 2
    assert os.stat(backup / "linked" / "dir" / "linked").st_nlink == 4


def test_cp_links_across_backups(shared: Shared, backup: Path, source: Path) -> None:
    """cp -al into another backup gives it inodes of its own, linked among themselves as before."""
    run("cp", "-a", source, backup / "copy")
    shared.seal(backup)
    target = shared.new_backup()
    run("cp", "-al", backup / "copy", target / "copy")
    assert shared.differences(source, target / "copy") == ""
    assert os.stat(target / "copy" / "small").st_nlink == 1
    assert os.stat(target / "copy" / "dir" / "linked").st_nlink == 2
    (target / "own").write_bytes((target / "copy" / "small").read_bytes())
    assert shared.differences(source, backup / "copy") == ""


RSYNC_OPTIONS = [
    ("--inplace",),
    ("--inplace", "--no-whole-file"),
    ("--no-whole-file",),
    ("--partial",),
    ("--partial-dir=.partial", "--delay-updates"),
    ("--sparse",),
    ("--checksum",),
    ("--fsync",),
    ("--preallocate",),
    ("--link-dest=../first",),
    ("--copy-dest=../first",),
]


@needs("rsync")
@pytest.mark.parametrize("options", RSYNC_OPTIONS, ids=lambda options: " ".join(options))
def test_rsync_twice(shared: Shared, backup: Path, source: Path, options: tuple[str, ...]) -> None:
    """rsync brings a tree in, and a day later its changes, with each option."""
    target = backup / "copy"
    if "dest=" in options[0]:
        rsync(*ALL, f"{source}/", f"{backup}/first/")
    rsync(*ALL, *options, f"{source}/", f"{target}/")
    assert differences(source, target) == ""
    change_tree(source)
    rsync(*ALL, "--delete", *options, f"{source}/", f"{target}/")
    assert shared.differences(source, target) == ""


@needs("rsync")
@pytest.mark.parametrize("option", ["--append", "--append-verify"])
def test_rsync_appends(shared: Shared, backup: Path, tmp_path: Path, option: str) -> None:
    """rsync --append writes on where a transfer was cut off."""
    source = tmp_path / "source"
    source.mkdir()
    content = os.urandom(3 << 20)
    (source / "log").write_bytes(content)
    target = backup / "copy"
    target.mkdir()
    (target / "log").write_bytes(content[: 1 << 20])
    told = rsync(*ALL, option, "--stats", f"{source}/", f"{target}/")
    assert "Literal data: 2,097,152 bytes" in told
    assert shared.differences(source, target) == ""


@needs("rsync")
def test_rsync_compare_dest_copies_only_changes(backup: Path, source: Path) -> None:
    """rsync --compare-dest finds what did not change in the other tree, and copies the rest."""
    rsync(*ALL, f"{source}/", f"{backup}/first/")
    change_tree(source)
    rsync(*ALL, "--compare-dest=../first", f"{source}/", f"{backup}/second/")
    files = {path.name for path in (backup / "second").rglob("*") if path.is_file()}
    assert files == {"small", "large", "new", "tiny"}


@needs("rsync")
def test_rsync_fake_super_comes_back(backup: Path, source: Path, tmp_path: Path) -> None:
    """What rsync --fake-super keeps in extended attributes is whole when it is read back."""
    rsync(*ALL, "-M--fake-super", f"{source}/", f"{backup}/fake/")
    assert stat.S_ISREG(os.lstat(backup / "fake" / "dir" / "device").st_mode)
    run("rsync", *ALL, f"{source}/", f"{tmp_path}/control/", "-M--fake-super")
    for tree in (backup / "fake", tmp_path / "control"):
        rsync(*ALL, "--fake-super", "-M--super", f"{tree}/", f"{tmp_path}/{tree.name}-back/")
    assert differences(tmp_path / "control-back", tmp_path / "fake-back") == ""


@needs("rsync")
def test_rsync_link_dest_of_a_sealed_backup_moves_no_data(shared: Shared, source: Path) -> None:
    """rsync --link-dest against a sealed backup clones what is the same."""
    first, second = shared.new_backup(), shared.new_backup()
    rsync(*ALL, f"{source}/", f"{first}/")
    shared.seal(first)
    change_tree(source)
    told = rsync(*ALL, "--stats", f"--link-dest={first}", f"{source}/", f"{second}/")
    assert "Number of regular files transferred: 3" in told
    assert shared.differences(source, second) == ""


def test_mv_moves_trees(shared: Shared, backup: Path, source: Path) -> None:
    """mv renames a tree within a backup, and copies it whole into another one."""
    run("cp", "-a", source, backup / "copy")
    number = os.stat(backup / "copy" / "small").st_ino
    run("mv", backup / "copy", backup / "moved")
    assert os.stat(backup / "moved" / "small").st_ino == number
    assert differences(source, backup / "moved") == ""
    target = shared.new_backup()
    run("mv", backup / "moved", target / "moved")
    assert shared.differences(source, target / "moved") == ""
    assert os.listdir(backup) == []


def test_mv_renames_an_open_backup(shared: Shared, backup: Path, source: Path) -> None:
    """mv renames an open backup at the root of the mount, and it can be written on."""
    run("cp", "-a", source, backup / "copy")
    renamed = backup.with_name(backup.name + "-renamed")
    run("mv", backup, renamed)
    (renamed / "more").write_bytes(b"more")
    assert not backup.exists()
    assert shared.differences(source, renamed / "copy") == ""


def test_du_and_find_agree_with_the_source(backup: Path, source: Path) -> None:
    """du counts what the source has, hard links once, and find -inum finds every name of one."""
    run("cp", "-a", source, backup / "copy")
    sizes = [run("du", "-sb", "--total", tree).split()[0] for tree in (source, backup / "copy")]
    assert 13 << 20 < int(sizes[1]) <= int(sizes[0])
    number = os.stat(backup / "copy" / "dir" / "linked").st_ino
    found = run("find", backup, "-inum", str(number)).decode().splitlines()
    assert len(found) == 2


def test_rm_removes_a_tree(backup: Path, source: Path) -> None:
    """rm -rf leaves an empty directory, with the link count of one."""
    run("cp", "-a", source, backup / "copy")
    run("rm", "-rf", backup / "copy")
    assert os.listdir(backup) == []
    assert os.stat(backup).st_nlink == 2


@needs("rsnapshot", "rsync")
def test_rsnapshot_rotates(shared: Shared, backup: Path, source: Path, tmp_path: Path) -> None:
    """rsnapshot keeps its rotation inside a backup: mv, cp -al, and rm of the oldest."""
    root = backup / "snapshots"
    configuration = tmp_path / "rsnapshot.conf"
    lines = [
        "config_version\t1.2",
        f"snapshot_root\t{root}/",
        "cmd_cp\t/bin/cp",
        "cmd_rm\t/bin/rm",
        "cmd_rsync\t/usr/bin/rsync",
        "retain\tdaily\t2",
        "rsync_long_args\t--delete --numeric-ids --relative -HAX",
        f"lockfile\t{tmp_path}/lock",
        f"backup\t{source}/\there/",
    ]
    configuration.write_text("\n".join(lines) + "\n")
    for _ in range(3):
        run("rsnapshot", "-c", configuration, "daily")
    where = Path("here") / source.relative_to("/")
    assert sorted(os.listdir(root)) == ["daily.0", "daily.1"]
    assert shared.differences(source, root / "daily.0" / where) == ""
    numbers = {os.stat(root / day / where / "large").st_ino for day in ("daily.0", "daily.1")}
    assert len(numbers) == 1


def test_another_machine_reads_the_same(shared: Shared) -> None:
    """All that the tools above brought in is whole on a machine that was not there."""
    if not shared.compared:
        pytest.skip("no other test of this session has written anything")
    assert shared.differences_elsewhere() == ""


@needs("rsync")
def test_rotation_at_the_root(machine: Machine, source: Path, tmp_path: Path) -> None:
    """rm -rf of the oldest, mv of each day, cp -al and rsync work with backups at the root."""
    old = tmp_path / "old"
    run("cp", "-a", source, old)
    for day in range(4):
        with machine.mounted("--allow-forget") as mount:
            root = mount.path
            if day == 3:
                run("rm", "-rf", root / "daily.2")
            for number in (1, 0):
                if (root / f"daily.{number}").exists():
                    run("mv", root / f"daily.{number}", root / f"daily.{number + 1}")
            if day:
                run("cp", "-al", root / "daily.1", root / "daily.0")
            if day == 3:
                change_tree(source)
            rsync(*ALL, "--delete", f"{source}/", f"{root}/daily.0/")
            assert differences(source, root / "daily.0") == ""
    with machine.mounted("--read-only") as mount:
        assert sorted(os.listdir(mount.path)) == ["daily.0", "daily.1", "daily.2"]
        assert differences(source, mount.path / "daily.0") == ""
        assert differences(old, mount.path / "daily.1") == ""
        assert differences(old, mount.path / "daily.2") == ""
