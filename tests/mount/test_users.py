"""Other users: who may enter a mount, and that they fare in it as on a local file system."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mount.trees import make_plain_tree, needs
from tests.mounts import Machine

pytestmark = [pytest.mark.mount, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

NOBODY, OTHER = 65534, 1234
TIMEOUT_S = 90


@dataclass(frozen=True)
class User:
    """Who runs a line of shell, where, and what more they may."""

    uid: int
    groups: tuple[int, ...] = ()
    room: tuple[str, ...] = ()
    capability: str = ""

    def run(self, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a line of shell; the first group is the one that new files get."""
        gid, *others = self.groups or (self.uid,)
        also = [f"--groups={','.join(map(str, others))}"] if others else ["--clear-groups"]
        caps = [f"--inh-caps=+{self.capability}", f"--ambient-caps=+{self.capability}"]
        ids = [f"--reuid={self.uid}", f"--regid={gid}", *also, *(caps if self.capability else [])]
        return subprocess.run(
            [*self.room, "setpriv", *ids, "sh", "-c", f"umask 022; {script}"],
            env={"PATH": os.environ["PATH"], **variables},
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def say(self, script: str) -> str:
        return self.run(script).stdout.strip()


@pytest.fixture
def worlds(backup: Path, open_home: Path) -> tuple[Path, Path]:
    """The same directory on the mount and on a local file system; every user may write to it."""
    tops = backup / "top", open_home / "top"
    for top in tops:
        top.mkdir()
        top.chmod(0o777)
    return tops


def listing(top: Path) -> list[str]:
    """Names, modes and owners below a directory."""
    found = []
    for folder, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = Path(folder, name)
            status = os.lstat(path)
            shown = f"{status.st_mode:o} {status.st_uid} {status.st_gid} {status.st_nlink}"
            found.append(f"{path.relative_to(top)} {shown}")
    return sorted(found)


# -- root's mount ------------------------------------------------------------------------------


def test_without_allow_other_other_users_get_nothing(open_home: Path) -> None:
    """Nobody but its owner looks into a mount without allow_other, however open its modes."""
    (open_home / "repository").mkdir()
    machine = Machine(open_home, f"file://{open_home}/repository")
    machine.run("init", machine.url)
    with machine.mounted() as mount:
        (mount.path / "backup").mkdir(mode=0o777)
        for script in (f"ls {mount.path}", f"stat {mount.path}/backup", f"cd {mount.path}"):
            done = User(OTHER).run(script)
            assert done.returncode
            assert "denied" in done.stdout or "can't cd" in done.stdout


SHARED_WORK = """
cd {top}/shared || exit 1
for number in 1 2 3 4 5 6 7 8; do
    echo {uid} > {uid}.$number
    mkdir d{uid}.$number && echo x > d{uid}.$number/file
    echo {uid} >> log
    ln {uid}.$number l{uid}.$number
    mv {uid}.$number m{uid}.$number
    rm -f m{theirs}.$number 2>/dev/null
    echo bad 2>/dev/null > d{theirs}.$number/file
    chmod 2775 l{uid}.$number
done
true
"""


def test_two_users_at_once_fare_as_on_a_local_file_system(worlds: tuple[Path, Path]) -> None:
    """In a sticky setgid directory with a default list two users work at the same time."""
    for top in worlds:
        (top / "shared").mkdir()
        os.chown(top / "shared", 0, 777)
        (top / "shared").chmod(0o3777)
        (top / "shared" / "log").touch()
        (top / "shared" / "log").chmod(0o666)
        subprocess.run(["setfacl", "-d", "-m", "u:1236:rx,g::rx,o::r", top / "shared"], check=True)
    users = ((OTHER, 1235, User(OTHER, (2345,))), (1235, OTHER, User(1235, (2346, 777))))
    work = [
        (user, SHARED_WORK.format(top=shlex.quote(str(top)), uid=uid, theirs=theirs))
        for top in worlds
        for uid, theirs, user in users
    ]
    with ThreadPoolExecutor(len(work)) as pool:
        assert set(pool.map(lambda pair: pair[0].run(pair[1]).returncode, work)) == {0}
    assert listing(worlds[0]) == listing(worlds[1])
    lines = (worlds[0] / "shared" / "log").read_text().split()
    assert sorted(lines) == ["1234"] * 8 + ["1235"] * 8


def test_further_groups_count(worlds: tuple[Path, Path]) -> None:
    """What a user's further groups may, by mode or by list, is granted; what not, is refused."""
    scripts = ("cat team", "echo x >> team", "cat listed", "echo x >> listed", "chgrp 777 mine")
    users = [
        User(OTHER, groups) for groups in ((2345,), (2345, 777), (2345, 778), (2345, 777, 778))
    ]
    said: list[list[str]] = []
    for top in worlds:
        for name in ("team", "listed", "mine"):
            (top / name).write_text(name)
        os.chown(top / "team", 0, 777)
        (top / "team").chmod(0o060)
        (top / "listed").chmod(0)
        subprocess.run(["setfacl", "-m", "g:778:r", top / "listed"], check=True)
        os.chown(top / "mine", OTHER, 2345)
        said.append([user.say(f"cd {top}; {script}") for user in users for script in scripts])
    assert said[0] == said[1]
    assert len(set(said[0])) > 3


# -- what takes privileges away ----------------------------------------------------------------


def test_truncation_at_open_clears_setuid(worlds: tuple[Path, Path]) -> None:
    """O_TRUNC of somebody who is not root takes setuid and setgid away, root's does not."""
    for top in worlds:
        for name in ("theirs", "root's"):
            (top / name).touch()
            (top / name).chmod(0o6777)
        assert User(OTHER).say(f": > {top}/theirs") == ""
        os.close(os.open(top / "root's", os.O_WRONLY | os.O_TRUNC))
        assert stat.S_IMODE(os.stat(top / "theirs").st_mode) == 0o777
        assert stat.S_IMODE(os.stat(top / "root's").st_mode) == 0o6777


def test_a_handle_from_before_setuid_clears_it(worlds: tuple[Path, Path]) -> None:
    """Who had a file open before it became setuid cannot fill it with a program of his own."""
    for top in worlds:
        path = top / "program"
        path.touch()
        path.chmod(0o666)
        user = subprocess.Popen(
            ["sh", "-c", f"exec 3>> {path}; echo; read line; echo own >&3"],
            user=OTHER,
            group=OTHER,
            extra_groups=[],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert user.stdout is not None
        assert user.stdout.readline() == b"\n"
        path.chmod(0o6777)
        user.communicate(b"go\n", timeout=TIMEOUT_S)
        assert path.read_text() == "own\n"
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o777


def test_a_list_clears_setgid_of_foreign_groups(worlds: tuple[Path, Path]) -> None:
    """An owner who is not in the file's group loses setgid by setfacl, as by chmod."""
    modes = []
    for top in worlds:
        path = top / "program"
        for groups in ((OTHER,), (OTHER, 777), (777,)):
            path.touch()
            os.chown(path, OTHER, 777)
            path.chmod(0o2755)
            assert User(OTHER, groups).say(f"setfacl -m u:1235:r {path}") == ""
            modes.append(stat.S_IMODE(os.stat(path).st_mode))
            path.unlink()
    assert modes == [0o755, 0o2755, 0o2755] * 2


# -- extended attributes -----------------------------------------------------------------------


def test_only_root_sees_trusted_attributes(worlds: tuple[Path, Path]) -> None:
    """A listing leaves out what its reader may not read, which rsync would take for an error."""
    script = f"{shlex.quote(sys.executable)} -c 'import os, sys; print(os.listxattr(sys.argv[1]))'"
    for top in worlds:
        (top / "file").touch()
        os.setxattr(top / "file", "trusted.name", b"value")
        os.setxattr(top / "file", "user.name", b"value")
        reader = User(OTHER, capability="dac_read_search")
        assert reader.say(f"{script} {top}/file") == "['user.name']"
        assert sorted(os.listxattr(top / "file")) == ["trusted.name", "user.name"]


def test_errors_of_attributes_that_are_not_there(worlds: tuple[Path, Path]) -> None:
    """Foreign namespaces are refused whatever is asked of them; no list is taken away in peace."""
    for top in worlds:
        for call in (os.getxattr, os.removexattr):
            with pytest.raises(OSError, match="not supported"):
                call(top, "foreign.name")
        os.removexattr(top, "system.posix_acl_access")
        os.removexattr(top, "system.posix_acl_default")


def test_changes_that_change_nothing(backup: Path) -> None:
    """ctime stays: at a chown that names nobody, an attribute as it is, the use of a fifo."""
    path = backup / "fifo"
    os.mkfifo(path)
    os.setxattr(path, "trusted.name", b"value")
    before = os.stat(path)
    os.chown(path, -1, -1)
    os.setxattr(path, "trusted.name", b"value")
    descriptor = os.open(path, os.O_RDWR)
    os.write(descriptor, b"text")
    os.close(descriptor)
    after = os.stat(path)
    assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)


# -- a user's mount ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Room:
    """A mount namespace in which every user may use FUSE, as most systems let them."""

    home: Path
    entered: tuple[str, ...]

    def user(self, uid: int) -> User:
        return User(uid, room=self.entered)

    def s3backfs(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command as a user; where its interpreter is root's, it may read all the same."""
        user = User(NOBODY, room=self.entered, capability="dac_read_search")
        machine = Machine(self.home, f"file://{self.home}/repository")
        command = shlex.join([sys.executable, "-m", "s3backfs.cli", *arguments])
        return user.run(command, **machine.variables())

    def allow_other(self) -> None:
        """Let users mount for others."""
        (self.home / "fuse.conf").write_text("user_allow_other\n")

    def mount(self, *options: str) -> Path:
        path = self.home / "mnt"
        done = self.s3backfs("mount", *options, f"file://{self.home}/repository", str(path))
        assert done.returncode == 0, done.stdout
        return path


ROOM = "mount --bind fuse /dev/fuse; mount --bind fuse.conf /etc/fuse.conf; echo; exec cat"


@pytest.fixture
def room(open_home: Path) -> Iterator[Room]:
    """A room, and in it a repository of nobody's."""
    for name in ("mnt", "repository"):
        (open_home / name).mkdir()
        os.chown(open_home / name, NOBODY, NOBODY)
    os.chown(open_home, NOBODY, NOBODY)
    (open_home / "fuse.conf").touch()
    os.mknod(open_home / "fuse", stat.S_IFCHR | 0o666, os.stat("/dev/fuse").st_rdev)
    (open_home / "fuse").chmod(0o666)
    keeper = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", ROOM],
        cwd=open_home,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert keeper.stdout is not None
    assert keeper.stdout.readline() == b"\n"
    made = Room(open_home, ("nsenter", f"--mount=/proc/{keeper.pid}/ns/mnt"))
    try:
        done = made.s3backfs("init", f"file://{open_home}/repository")
        assert done.returncode == 0, done.stdout
        yield made
        made.s3backfs("umount", str(open_home / "mnt"))
    finally:
        # Without its mount the process behind it ends.
        subprocess.run(
            [*made.entered, "umount", "-l", open_home / "mnt"], check=False, capture_output=True
        )
        keeper.communicate()


needs_rooms = needs("unshare", "nsenter", "setpriv", "fusermount3")


@needs_rooms
def test_a_users_mount_answers_its_owner_only(room: Room) -> None:
    """Not even root looks into a user's mount."""
    mount = room.mount()
    assert room.user(NOBODY).say(f"mkdir -m 777 {mount}/backup && ls {mount}") == "backup"
    for uid in (0, OTHER):
        assert "Permission denied" in room.user(uid).say(f"ls {mount}")
        assert "Permission denied" in room.user(uid).say(f"cat {mount}/backup/file")
    owners = room.user(NOBODY).say(f"stat -c %u {mount} {mount}/.s3backfs {mount}/.s3backfs/*")
    assert set(owners.split()) == {str(NOBODY)}


@needs_rooms
def test_a_user_lets_others_in_where_that_is_allowed(room: Room) -> None:
    """allow_other needs user_allow_other in /etc/fuse.conf; then the modes decide."""
    refused = room.s3backfs("mount", "-o", "allow_other", str(room.home / "mnt"))
    assert refused.returncode == 4
    assert "user_allow_other" in refused.stdout
    room.allow_other()
    mount = room.mount("-o", "allow_other")
    room.user(NOBODY).say(f"mkdir {mount}/backup; echo text > {mount}/backup/file")
    assert room.user(OTHER).say(f"cat {mount}/backup/file") == "text"
    assert "denied" in room.user(OTHER).say(f"mkdir {mount}/theirs")
    assert "denied" in room.user(OTHER).say(f"touch {mount}/backup/theirs")
    assert room.user(0).say(f"chown {OTHER} {mount}/backup/file") == ""


@needs_rooms
def test_a_user_copies_what_a_user_can(room: Room) -> None:
    """cp -a of a user who is not root leaves the same owners and modes as on a local disk."""
    make_plain_tree(room.home / "tree")
    os.mkfifo(room.home / "tree" / "fifo")
    (room.home / "tree" / "data").chmod(0o4755)
    mount, plain = room.mount(), room.home / "plain"
    user = room.user(NOBODY)
    said = [
        user.say(
            f"mkdir {top} && cp -a {room.home}/tree {top}/; chown 0 {top}/tree/data; "
            f"chgrp 777 {top}/tree/data; mknod {top}/device c 1 3; cd {top} && "
            "setfattr -n trusted.a -v 1 tree/data; find . -printf '%P %m %U %G %n %y %TY\\n' | sort"
        ).replace(str(top), "")
        for top in (mount / "backup", plain)
    ]
    assert said[0] == said[1]
    assert "dir/linked" in said[0]
    assert room.s3backfs("umount", str(mount)).returncode == 0
