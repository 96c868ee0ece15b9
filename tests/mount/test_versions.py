"""`.s3backfs/versions/PATH/`: every distinct version of a path, over all backups."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.test_users import User
from tests.mounts import Machine, Mount
from tests.servers import Server

pytestmark = pytest.mark.mount

NOBODY = 65534
DAYS = {f"web-2026-01-0{day}": data for day, data in ((1, b"a"), (2, b"a"), (3, b"bb"), (4, b"a"))}


@pytest.fixture(scope="module")
def mount(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """Four sealed backups of one series, in which one file has two versions, seen by all."""
    url = f"s3://{server.make_bucket(f'versions-{uuid.uuid4().hex}')}/prefix"
    machine = Machine(tmp_path_factory.mktemp("versions"), url, server.environment, None)
    machine.run("init", "--encryption", "none", url)
    with machine.mounted() as mount:
        for name, data in DAYS.items():
            make_backup(mount.path / name, data)
    for path in (machine.home, *machine.home.parents):
        if path != Path("/tmp") and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    with machine.mounted("-o", "allow_other") as mount:
        yield mount


def make_backup(top: Path, data: bytes) -> None:
    """A few files with times that do not tell one day from another."""
    (top / "etc" / "closed").mkdir(parents=True)
    (top / "etc" / "listed").mkdir()
    for path in (top / "etc" / "file", top / "etc" / "closed" / "file", top / "etc/listed/file"):
        path.write_bytes(data)
        os.utime(path, (10**9, 10**9 + len(data)))
    (top / "etc" / "closed").chmod(0o711)
    if top.name == "web-2026-01-01":
        (top / "etc" / "closed").chmod(0o700)
    (top / "etc" / "listed").chmod(0o700)
    subprocess.run(["setfacl", "-m", f"u:{NOBODY}:x", top / "etc" / "listed"], check=True)
    os.link(top / "etc" / "file", top / "etc" / "other name")
    os.symlink("file", top / "etc" / "link")
    os.utime(top / "etc", (10**9, 10**9))


def versions_of(mount: Mount, path: str) -> list[Path]:
    return sorted((mount.path / ".s3backfs" / "versions" / path).iterdir())


def backups_of(paths: list[Path]) -> list[str]:
    return [path.name.partition("@")[2] for path in paths]


def test_distinct_versions_are_listed_and_read(mount: Mount) -> None:
    """A path's directory has one name for each content, that of the first backup with it."""
    found = versions_of(mount, "etc/file")
    assert backups_of(found) == ["web-2026-01-01", "web-2026-01-03"]
    assert [path.read_bytes() for path in found] == [b"a", b"bb"]
    assert [path.lstat().st_mtime_ns for path in found] == [(10**9 + n) * 10**9 for n in (1, 2)]
    assert [path.resolve() for path in found] == [
        mount.path / name / "etc" / "file" for name in backups_of(found)
    ]
    said = json.loads(mount.machine.run("versions", mount.machine.url, "etc/file", "--json").stdout)
    assert [each["backups"][0] for each in said] == backups_of(found)


def test_names_links_and_directories_have_versions(mount: Mount) -> None:
    """Hard links, symbolic links and directories have versions too; directories by their time."""
    assert backups_of(versions_of(mount, "etc/other name")) == ["web-2026-01-01", "web-2026-01-03"]
    assert backups_of(versions_of(mount, "etc/link")) == ["web-2026-01-01"]
    [etc] = versions_of(mount, "etc")
    assert sorted(os.listdir(etc)) == ["closed", "file", "link", "listed", "other name"]
    assert len(versions_of(mount, "")) == len(DAYS)
    assert (versions_of(mount, "")[2] / "etc" / "file").read_bytes() == b"bb"


def test_a_version_of_every_backup_can_be_named(mount: Mount) -> None:
    """Not listed, but found: the name that a backup's version would have."""
    versions = mount.path / ".s3backfs" / "versions"
    name = next(each.name for each in versions_of(mount, "") if each.name.endswith("-04"))
    assert (versions / "etc" / "file" / name).read_bytes() == b"a"
    assert not (versions / "etc" / "file" / name.replace("Z@", "X@")).is_symlink()


def _error(call: Callable[[], object]) -> int:
    try:
        call()
    except OSError as error:
        return error.errno or 0
    return 0


def test_what_is_nowhere_is_not_there(mount: Mount) -> None:
    """A path that no backup has is ENOENT, also below a file."""
    versions = mount.path / ".s3backfs" / "versions"
    for path in ("nonesuch", "etc/file/nonesuch", "etc/nonesuch/file"):
        assert _error((versions / path).stat) == errno.ENOENT


def test_nothing_can_be_changed(mount: Mount) -> None:
    """The view is read-only, as are its links."""
    directory = mount.path / ".s3backfs" / "versions" / "etc" / "file"
    version = next(directory.iterdir())
    refusals = [
        lambda: (directory / "new").write_bytes(b""),
        lambda: (directory / "new").mkdir(),
        lambda: (directory / "new").symlink_to("file"),
        lambda: os.link(version, directory / "new", follow_symlinks=False),
        lambda: os.chmod(directory, 0o777),
        version.unlink,
        lambda: version.rename(directory / "new"),
        directory.rmdir,
    ]
    assert {_error(refused) for refused in refusals} <= {errno.EPERM, errno.EROFS, errno.EACCES}
    assert _error(lambda: version.write_bytes(b"x")) == errno.EROFS


def test_the_view_is_found_but_not_walked_into(mount: Mount) -> None:
    """`.s3backfs` shows it, the root of the mount does not; a walk through it ends."""
    assert ".s3backfs" not in os.listdir(mount.path)
    assert sorted(os.listdir(mount.path / ".s3backfs")) == ["status.json", "versions"]
    walked = [name for _, _, names in os.walk(mount.path / ".s3backfs") for name in names]
    assert walked == ["status.json"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_others_learn_no_more_than_they_could_see(mount: Mount) -> None:
    """Who may not pass a directory above a path does not see versions from that backup."""
    versions = mount.path / ".s3backfs" / "versions" / "etc"
    nobody, other = User(NOBODY), User(NOBODY - 1)
    # Root looks first: what the kernel remembers for one must not be told to another.
    assert backups_of(versions_of(mount, "etc/closed/file")) == ["web-2026-01-01", "web-2026-01-03"]
    shown = other.say(f"cd '{versions}/closed/file' && ls").split()
    assert [name.partition("@")[2] for name in shown] == ["web-2026-01-02", "web-2026-01-03"]
    assert other.say(f"cat '{versions}/closed/file/'*02") == "a"
    assert "No such file" in other.say(f"LC_ALL=C stat '{versions}/listed/file' 2>&1")
    assert nobody.say(f"cat '{versions}/listed/file/'*03") == "bb"


def test_new_and_open_backups_come_in(mount: Mount) -> None:
    """Versions of a backup that is still open are those of its last checkpoint."""
    top = mount.path / "open"
    make_backup(top, b"ccc")
    mount.machine.run("sync", str(mount.path))
    found = versions_of(mount, "etc/file")
    assert [path.read_bytes() for path in found] == [b"a", b"bb", b"ccc"]
    mount.machine.run("seal", str(top))
    assert len(versions_of(mount, "etc/file")) == 3
