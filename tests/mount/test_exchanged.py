"""Another repository in the place of one that this machine knows."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from tests.mounts import Machine

pytestmark = pytest.mark.mount


@pytest.fixture
def known(tmp_path: Path) -> Machine:
    """A machine that knows a repository in a directory."""
    return made(tmp_path / "k", tmp_path / "repository")


def made(home: Path, directory: Path) -> Machine:
    """Make a repository; both are made with one passphrase."""
    home.mkdir()
    directory.mkdir(exist_ok=True)
    machine = Machine(home, f"file://{directory}")
    machine.run("init")
    return machine


def exchange(machine: Machine, tmp_path: Path) -> None:
    """Put a valid repository of the same passphrase where that of `machine` is."""
    made(tmp_path / "o", tmp_path / "another")
    shutil.rmtree(tmp_path / "repository")
    (tmp_path / "another").rename(tmp_path / "repository")


def begin_backup(machine: Machine) -> None:
    """Mount, make a backup, unmount."""
    with machine.mounted() as mount:
        (mount.path / "monday").mkdir()


VERBS = [
    ("mount", "mnt"),
    ("list",),
    ("check",),
    ("prune",),
    ("find", "name"),
    ("forget", "--keep-last", "1"),
    ("key", "list"),
    ("key", "rotate"),
]


def test_an_exchanged_repository_is_refused(known: Machine, tmp_path: Path) -> None:
    """Every verb says in one line that it is another one, and how to take it all the same."""
    exchange(known, tmp_path)
    (known.home / "mnt").mkdir()
    before = sorted((tmp_path / "repository").rglob("*"))
    for verb, *arguments in VERBS:
        words = [known.url, str(known.home / "mnt")] if verb == "mount" else arguments
        refused = known.run(verb, *words, check=False)
        assert (refused.returncode, refused.stderr.count("\n")) == (10, 1), (verb, refused.stderr)
        assert "another one" in refused.stderr
    assert sorted((tmp_path / "repository").rglob("*")) == before
    remedy = refused.stderr.strip().rpartition(": rm ")[2]
    Path(remedy).unlink()
    begin_backup(known)


def test_a_machine_that_has_only_mounted_knows_it(known: Machine, tmp_path: Path) -> None:
    """A repository that another machine has made is known from the first mount on."""
    home = tmp_path / "s"
    home.mkdir()
    second = dataclasses.replace(known, home=home)
    begin_backup(second)
    exchange(second, tmp_path)
    assert second.run("list", check=False).returncode == 10


def test_a_machine_that_makes_it_anew_goes_on(known: Machine, tmp_path: Path) -> None:
    """After the place was emptied `init` makes the new repository the known one."""
    begin_backup(known)
    shutil.rmtree(tmp_path / "repository")
    (tmp_path / "repository").mkdir()
    known.run("init")
    begin_backup(known)
    assert "monday" in known.run("list").stdout


def test_a_repository_that_comes_back_is_known(known: Machine, tmp_path: Path) -> None:
    """Rotated keys, and a copy of the bucket put back, are the same repository."""
    begin_backup(known)
    known.run("key", "rotate")
    shutil.copytree(tmp_path / "repository", tmp_path / "copy")
    shutil.rmtree(tmp_path / "repository")
    (tmp_path / "copy").rename(tmp_path / "repository")
    assert "monday" in known.run("list").stdout


def test_slots_of_another_repository_are_called_so(known: Machine, tmp_path: Path) -> None:
    """Where the key slots alone were exchanged, nothing says that there are none."""
    made(tmp_path / "o", tmp_path / "another")
    shutil.rmtree(tmp_path / "repository" / "keys")
    (tmp_path / "another" / "keys").rename(tmp_path / "repository" / "keys")
    refused = known.run("list", check=False)
    assert refused.returncode == 20
    assert "from elsewhere" in refused.stderr
