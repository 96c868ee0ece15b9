"""Forgetting, bringing back and tags through the command line, while mounts look on."""

from __future__ import annotations

import errno
import json
import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.mounts import Machine
from tests.servers import Server

pytestmark = pytest.mark.mount

NAMES = [f"web-2026-01-0{day}" for day in range(1, 5)]


@pytest.fixture(scope="module")
def kept(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A repository with four sealed backups of one series; every test leaves it like this."""
    url = f"s3://{server.make_bucket(f'keeping-{uuid.uuid4().hex}')}/prefix"
    machine = Machine(tmp_path_factory.mktemp("kept"), url, server.environment, None)
    machine.run("init", "--encryption", "none", url)
    with machine.mounted() as mount:
        for name in NAMES:
            (mount.path / name).mkdir()
            (mount.path / name / "file").write_bytes(name.encode() * 1000)
    return machine


@pytest.fixture
def other(kept: Machine, tmp_path: Path) -> Machine:
    """A machine that has never seen the repository."""
    return Machine(tmp_path, kept.url, kept.environment, None)


def names_of(machine: Machine) -> list[str]:
    return sorted(each["name"] for each in json.loads(machine.run("list", "--json").stdout))


def forget(machine: Machine, *options: str) -> Any:
    return json.loads(machine.run("forget", *options, "--json").stdout)


def test_a_policy_beside_a_mount(kept: Machine, other: Machine) -> None:
    """What no rule keeps goes while another machine has it mounted, and comes back whole."""
    with other.mounted("-o", "ro") as mount:
        assert sorted(path.name for path in mount.path.iterdir()) == NAMES
        planned = forget(kept, "--keep-last", "3", "--dry-run")
        assert names_of(kept) == NAMES
        done = forget(kept, "web-*", "--keep-last", "3")
        assert planned["backups"] == done["backups"]
        assert [each["name"] for each in done["backups"] if each["goes"]] == NAMES[:1]
        assert names_of(kept) == NAMES[1:]
        trash = json.loads(kept.run("unforget", "--list", "--json").stdout)
        assert NAMES[0] in [each["name"] for each in trash]
        kept.run("unforget", kept.url, NAMES[0])
        trash = json.loads(kept.run("unforget", "--list", "--json").stdout)
        assert NAMES[0] not in [each["name"] for each in trash]
    with other.mounted("-o", "ro") as mount:
        assert (mount.path / NAMES[0] / "file").read_bytes() == NAMES[0].encode() * 1000


def test_too_much_at_once_needs_force(kept: Machine) -> None:
    """Without --force no more than half goes, with an exit code and one line; with it, it does."""
    done = kept.run("forget", "--keep-last", "1", check=False)
    assert done.returncode == 2
    assert "nothing was forgotten: 3 of 4 backups would go at once; --force" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = kept.run("forget", "--keep-last", "1", "--dry-run", check=False)
    assert (done.returncode, "backups would be forgotten" in done.stdout) == (2, False)
    assert "nothing would be forgotten: 3 of 4 backups would go at once" in done.stderr
    assert names_of(kept) == NAMES
    assert "3 of 4 backups forgotten" in kept.run("forget", "--keep-last", "1", "--force").stdout
    assert names_of(kept) == NAMES[3:]
    assert kept.run("unforget", *NAMES[:3]).stdout.count("is back") == 3
    assert names_of(kept) == NAMES


def test_unknown_names_change_nothing(kept: Machine) -> None:
    """Names that are not there are refused in one line, and all stays."""
    for arguments, text in [
        (["delete", NAMES[0], "nonesuch"], "no backup 'nonesuch'"),
        (["unforget", "nonesuch"], "not in the trash"),
        (["tag", "nonesuch", "x"], "no backup 'nonesuch'"),
        (["forget", "--keep-tag", "nonesuch"], "no backup has the tag nonesuch"),
        (["diff", NAMES[0], NAMES[1], "nonesuch"], "neither backup has 'nonesuch'"),
        (["check", kept.url, "nonesuch"], "no backup 'nonesuch'"),
        (["check", kept.url, NAMES[0], "nonesuch", "--read-data"], "no backup 'nonesuch'"),
        (["stats", "web-*", "nonesuch"], "no backup fits 'nonesuch'"),
        (["find", "*", "--in", "nonesuch"], "no backup fits 'nonesuch'"),
        (["versions", "file", "--in", "web-*", "--in", "none*"], "no backup fits 'none*'"),
        (["forget", "none*", "web-*", "--keep-last", "3"], "no backup fits 'none*'"),
        (["prune", "--except", NAMES[0], "--except", "nonesuch"], "no backup 'nonesuch'"),
        (["repair", "pack", f"data/{'0' * 32}", kept.url], "there is no such pack"),
        (["repair", "backup", "nonesuch", kept.url], "no backup 'nonesuch'"),
    ]:
        done = kept.run(*arguments, check=False)
        assert done.returncode == 2, arguments
        assert text in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not done.stdout
    assert names_of(kept) == NAMES


def test_delete_and_locks(kept: Machine) -> None:
    """A locked backup is neither deleted nor forgotten, nor are others named beside it."""
    kept.run("tag", NAMES[0], "locked")
    done = kept.run("delete", NAMES[1], NAMES[0], check=False)
    assert done.returncode == 18
    assert names_of(kept) == NAMES
    assert not any(each["goes"] for each in forget(kept, "--keep-last", "3")["backups"])
    with kept.mounted("-o", "allow-forget") as mount:
        (mount.path / NAMES[0] / "file").unlink()
        with pytest.raises(PermissionError):
            (mount.path / NAMES[0]).rmdir()
    kept.run("tag", NAMES[0], "--remove", "locked")
    kept.run("delete", NAMES[0])
    assert names_of(kept) == NAMES[1:]
    kept.run("unforget", NAMES[0])


def test_tags_are_attributes_of_the_top_directory(kept: Machine, other: Machine) -> None:
    """Tags are read, set and removed in mounts that write, on sealed backups too; not listed."""
    kept.run("tag", NAMES[0], "release=2.4", "--note", "before the upgrade")
    tag = "user.s3backfs.tag."
    with kept.mounted() as mount:
        top = mount.path / NAMES[0]
        assert os.getxattr(top, tag + "release") == b"2.4"
        assert os.getxattr(top, tag + "note") == b"before the upgrade"
        assert os.getxattr(top, "user.s3backfs.tags") == b"note\nrelease\n"
        assert os.listxattr(top) == []
        os.removexattr(top, tag + "note")
        for name in ("note", "nonesuch", "x" * 141):
            assert _errno(os.getxattr, top, tag + name) == errno.ENODATA
        assert _errno(os.removexattr, top, tag + "note") == errno.ENODATA
        assert _errno(os.setxattr, top, tag + "a=b", b"") == errno.EINVAL
        assert _errno(os.setxattr, top, tag + "binary", b"\xff") == errno.EINVAL
        assert _errno(os.setxattr, top, "user.s3backfs.tags", b"x") == errno.EPERM
        fresh = mount.path / "fresh"
        fresh.mkdir()
        os.setxattr(fresh, tag + "mine", b"1")
        os.setxattr(fresh, tag + "mine", b"2")
        fresh.rename(mount.path / "renamed")
    with other.mounted("-o", "ro") as mount:
        assert os.getxattr(mount.path / "renamed", tag + "mine") == b"2"
        assert _errno(os.setxattr, mount.path / "renamed", tag + "mine", b"3") == errno.EROFS
    tags = json.loads(other.run("tag", "--json").stdout)
    assert tags == {NAMES[0]: {"release": "2.4"}, "renamed": {"mine": "2"}}
    kept.run("tag", NAMES[0], "--remove", "release")
    kept.run("delete", "renamed")


def test_lists_show_tags_and_notes(kept: Machine) -> None:
    """`list` has columns for tags and notes where there are any, and always both in JSON."""
    assert "tags" not in kept.run("list").stdout.splitlines()[0]
    kept.run("tag", NAMES[1], "locked", "release=2.4", "--note", "before the [bold]upgrade")
    header, _, tagged, *_ = kept.run("list").stdout.splitlines()
    assert header.split()[-2:] == ["tags", "note"]
    assert tagged.split("locked, release=2.4")[1].strip() == "before the [bold]upgrade"
    told = {each["name"]: each["tags"] for each in json.loads(kept.run("list", "--json").stdout)}
    tags = {"locked": "", "note": "before the [bold]upgrade", "release": "2.4"}
    assert told == {**{name: {} for name in NAMES}, NAMES[1]: tags}
    kept.run("tag", NAMES[1], *(f"--remove={name}" for name in tags))


def _errno(call: Any, path: Path, *arguments: Any) -> int:
    with pytest.raises(OSError) as caught:  # noqa: PT011
        call(path, *arguments)
    return caught.value.errno or 0


def test_of_several_with_one_name_an_id_chooses(kept: Machine) -> None:
    """`unforget` brings the last back, tells of others, and says what is in the way of a second."""
    kept.run("delete", NAMES[0])
    with kept.mounted() as mount:
        (mount.path / NAMES[0]).mkdir()
    kept.run("delete", NAMES[0])
    listed = json.loads(kept.run("unforget", "--list", "--json").stdout)
    named = [each for each in listed if each["name"] == NAMES[0]]
    first = min(named, key=lambda each: each["sealed_ns"])["id"]
    assert first in kept.run("unforget", "--list").stdout
    done = kept.run("unforget", "--id", first)
    assert done.stdout.splitlines()[0] == f"{NAMES[0]} is back"
    assert done.stdout.splitlines()[1].startswith(f"1 more that bore the name {NAMES[0]}")
    taken = kept.run("unforget", NAMES[0], check=False)
    assert taken.returncode
    assert "rename it in a mount (mv), or delete it" in taken.stderr
    assert len(taken.stderr.splitlines()) == 1
    with kept.mounted("-o", "ro") as mount:
        assert (mount.path / NAMES[0] / "file").read_bytes() == NAMES[0].encode() * 1000
