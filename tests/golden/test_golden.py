"""The present program reads every golden repository exactly, and refuses what it must."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

import s3backfs.errors
from s3backfs.errors import S3backfsError, WrongKeyError
from tests.golden.golden import (
    FORMATS,
    HERE,
    OPENERS,
    PASSPHRASE,
    REPOSITORIES,
    copied,
    expected,
    name_of,
    refused_cases,
)
from tests.golden.reading import content, describe, entries, opened
from tests.golden.source import describe as describe_tree
from tests.mounts import Machine

every_repository = pytest.mark.parametrize("repository", REPOSITORIES, ids=name_of)
CASES = refused_cases()


@pytest.mark.anyio
@every_repository
async def test_every_file_is_as_it_was(repository: Path, tmp_path: Path) -> None:
    """Content, attributes, links and names of every backup are those of the source trees."""
    async with opened(copied(repository, tmp_path / "copy"), tmp_path) as catalogue:
        told = {name.decode(): backup for name, backup in catalogue.backups.items()}
        assert catalogue.damaged == {}
        assert set(told) == set(expected(repository))
        for name, files in expected(repository).items():
            assert told[name].is_sealed == (name != "wednesday")
            assert await describe(told[name]) == files


@pytest.mark.mount
@every_repository
def test_a_mount_shows_every_file(repository: Path, tmp_path: Path) -> None:
    """A real mount shows exactly what the source trees were."""
    home = tmp_path / "home"
    home.mkdir()
    url = copied(repository, tmp_path / "copy").as_uri()
    machine = Machine(home, url, passphrase=secret(repository))
    with machine.mounted("--read-only") as mount:
        for name, files in expected(repository).items():
            assert describe_tree(mount.path / name) == files


def secret(repository: Path) -> str | None:
    return PASSPHRASE.decode() if (repository / "keys").exists() else None


@pytest.mark.anyio
@pytest.mark.parametrize("name", CASES)
async def test_what_must_fail_fails(name: str, tmp_path: Path) -> None:
    """Bytes that are damaged or newer give the error they must, and never other content."""
    directory, case = CASES[name]
    good = directory.parent.parent / case["instead_of"]
    copy = copied(good, tmp_path / "copy")
    shutil.copytree(directory, copy, dirs_exist_ok=True)
    found = {(stage, type(error)) for stage, error in await failures(copy, tmp_path, good)}
    assert found == {(case["at"], getattr(s3backfs.errors, case["error"]))}


async def failures(copy: Path, scratch: Path, good: Path) -> list[tuple[str, Exception]]:
    """All errors of reading a repository through; what can be read must be right."""
    found: list[tuple[str, Exception]] = []
    try:
        async with opened(copy, scratch) as catalogue:
            found += [("root", error) for error in catalogue.damaged.values()]
            for name, backup in catalogue.backups.items():
                files = expected(good)[name.decode()]
                try:
                    rows = await entries(backup)
                except S3backfsError as error:
                    found.append(("names", error))
                    continue
                for path, _, entry in rows:
                    try:
                        digest = hashlib.sha256(await content(backup, entry)).hexdigest()
                    except S3backfsError as error:
                        found.append(("content", error))
                        continue
                    assert digest == files[path].get("sha256", digest)
    except S3backfsError as error:
        found.append(("open", error))
    return found


@pytest.mark.anyio
@pytest.mark.parametrize("repository", OPENERS, ids=name_of)
@pytest.mark.parametrize("kind", ["argon2id", "raw", "recovery", "x25519"])
async def test_every_kind_of_slot_opens(repository: Path, kind: str, tmp_path: Path) -> None:
    """Each kind of slot opens the repository; files of both epochs are as they were."""
    given = OPENERS[repository][kind].encode()
    async with opened(copied(repository, tmp_path / "copy"), tmp_path, given) as catalogue:
        for name in ("monday", "tuesday"):
            files = expected(repository)[name]
            for path, _, entry in await entries(catalogue.backups[name.encode()]):
                if path == "chunks":
                    data = await content(catalogue.backups[name.encode()], entry)
                    assert hashlib.sha256(data).hexdigest() == files[path]["sha256"]


@pytest.mark.anyio
@pytest.mark.parametrize("repository", OPENERS, ids=name_of)
async def test_a_revoked_slot_opens_nothing(repository: Path, tmp_path: Path) -> None:
    """What was removed by the rotation opens nothing."""
    with pytest.raises(WrongKeyError):
        async with opened(copied(repository, tmp_path / "copy"), tmp_path, b"revoked passphrase"):
            pass


@pytest.mark.anyio
async def test_a_wrong_passphrase_is_refused(tmp_path: Path) -> None:
    """Another passphrase opens nothing."""
    copy = copied(HERE / "format-1" / "encrypted", tmp_path / "copy")
    with pytest.raises(WrongKeyError):
        async with opened(copy, tmp_path, b"another"):
            pass


def test_golden_files_are_unchanged() -> None:
    """What lies below format-* is what SHA256SUMS says: no byte, file or directory else."""
    listed = {}
    for line in (HERE / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ", 1)
        listed[name] = digest
    files = [path for top in FORMATS for path in top.rglob("*") if path.is_file()]
    assert {name_of(path): sha256(path) for path in files} == listed


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_no_golden_directory_is_left_out() -> None:
    """Every directory beside this file is a format, and all in it is read or refused above."""
    directories = {path for path in HERE.iterdir() if path.is_dir()} - {HERE / "__pycache__"}
    assert directories == set(FORMATS)
    for top in FORMATS:
        inside = {path for path in top.iterdir() if path.is_dir()}
        assert inside - {top / "refused"} == {path for path in REPOSITORIES if path.parent == top}
        refused = {path for path in (top / "refused").iterdir() if path.is_dir()}
        assert refused == {path for path, _ in CASES.values() if path.parent.parent == top}
