"""A reader made from docs/format.md alone gets everything out of the golden repositories."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.msgpack import decode

from tests import independent_reader
from tests.golden.golden import HERE, OPENERS, PASSPHRASE, REPOSITORIES, expected, name_of
from tests.independent_reader import (
    REMOVAL,
    VERIFIED,
    Found,
    Repository,
    holder_secret,
)

READER = Path(independent_reader.__file__)
VECTORS = json.loads((READER.parent / "format" / "holder_vectors.json").read_text())
every_repository = pytest.mark.parametrize("repository", REPOSITORIES, ids=name_of)


@every_repository
def test_every_file_comes_back(repository: Path) -> None:
    """Content, targets and extended attributes of all files are those of the source trees."""
    reader = Repository(repository, PASSPHRASE)
    roots = reader.backups()
    assert {name.decode() for name in roots} == set(expected(repository))
    for name, files in expected(repository).items():
        leaves = dict(reader.walk(roots[name.encode()]))
        for path, file in files.items():
            found = leaves[key_of(path)]
            found = leaves.get(b"\0\0" + (found[0][9] or {}).get("l", b""), found)
            assert seen(reader, found) == told(file), path


@pytest.mark.parametrize("repository", OPENERS, ids=name_of)
@pytest.mark.parametrize("kind", ["argon2id", "raw", "recovery", "x25519"])
def test_every_kind_of_slot_opens(repository: Path, kind: str) -> None:
    """Each kind of slot gives the master keys of all epochs; what was revoked gives none."""
    reader = Repository(repository, OPENERS[repository][kind].encode())
    assert set(reader.masters) == {0, 1}
    assert reader.masters == Repository(repository, PASSPHRASE).masters
    with pytest.raises(SystemExit, match="no key slot"):
        Repository(repository, b"revoked passphrase")


@pytest.mark.parametrize("kind", sorted(VECTORS))
def test_slots_of_the_vectors_open(kind: str) -> None:
    """Every kind of slot opens by the document; one of a KMS by what that gives back."""
    vector = VECTORS[kind]
    slot = json.loads(vector["slot"])
    given = vector["given"].encode()
    secret = bytes.fromhex(vector["secret"]) if kind == "kms" else holder_secret(slot, given)
    assert Repository.open_holder(slot, secret).hex() == vector["master"]


@every_repository
def test_epochs_and_tables(repository: Path) -> None:
    """Rotated repositories have packs of two epochs; rewrapped ones have tables and one epoch."""
    footers = [
        path.read_bytes()[-20:]
        for kind in ("data", "meta")
        for path in (repository / kind).iterdir()
    ]
    epochs = {int.from_bytes(footer[8:12], "little") for footer in footers}
    assert epochs == {"rotated": {0, 1}, "rewrapped": {1}}.get(repository.name, {0})
    assert (repository / "moved").exists() == (repository.name == "rewrapped")


def key_of(path: str) -> bytes:
    *above, name = os.fsencode(path).split(b"/")
    return b"".join(part + b"\0" for part in above) + b"\0" + name


def seen(reader: Repository, found: Found) -> dict[str, Any]:
    _, mode, uid, gid, mtime_ns, *_ = found[0]
    return {
        "mode": f"{mode & 0o7777:04o}",
        "owner": [uid, gid],
        "mtime_ns": mtime_ns,
        "content": hashlib.sha256(b"".join(reader.content(found))).hexdigest(),
        "xattrs": {os.fsdecode(name): value.hex() for name, value in reader.xattrs(found).items()},
    }


def told(file: dict[str, Any]) -> dict[str, Any]:
    target = hashlib.sha256(os.fsencode(file.get("target", ""))).hexdigest()
    return {
        "mode": file["mode"],
        "owner": file.get("owner", [0, 0]),
        "mtime_ns": file["mtime_ns"],
        "content": file.get("sha256", target),
        "xattrs": file.get("xattrs", {}),
    }


@every_repository
def test_it_lists_and_restores_as_a_command(repository: Path) -> None:
    """The command lists the backups, and writes a file whole from a way down the tree."""
    listed = run(str(repository)).decode().splitlines()
    assert listed == ["monday sealed", "tuesday sealed", "wednesday open"]
    for path in ("inline", "bundled-0", "chunks", "sparse", "pieces", "dir/deep/second name"):
        restored = run(str(repository), "tuesday", path)
        assert (
            hashlib.sha256(restored).hexdigest() == expected(repository)["tuesday"][path]["sha256"]
        )


def run(*arguments: str) -> bytes:
    environment = {**os.environ, "S3BACKFS_PASSPHRASE": PASSPHRASE.decode()}
    command = [sys.executable, str(READER), *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, timeout=90, env=environment
    ).stdout


@every_repository
def test_golden_repositories_hold_every_construct(repository: Path) -> None:
    """What the format knows is there to be read: nothing above passes because it is absent."""
    reader = Repository(repository, PASSPHRASE)
    used: set[str] = set()
    for root in reader.backups().values():
        used.add(root["state"])
        used.add("inner nodes" if root["top"]["height"] else "a leaf alone")
        used |= {"patch" for row in decode(root["top"]["inline"])[3] if row[7] >= 0}
        for _, (entry, sources) in reader.walk(root):
            used |= {*(entry[9] or {}), *(["inline"] if entry[7] else [])}
            used |= {"slice" for _, _, row, _ in entry[8] if sources[row][5]}
            used |= {"chunks"} if len(entry[8]) > 1 else set()
    used |= {path.name for path in repository.iterdir() if path.is_dir()}
    assert used >= {"open", "sealed", "inner nodes", "a leaf alone", "inline", "slice", "chunks"}
    assert used >= {"d", "x", "y", "l", "n", "e", "patch", "data", "meta", "index"}


def test_what_maintenance_keeps() -> None:
    """Tags, what was proven, and the note on a removal are read, with every field."""
    top = HERE / "format-1" / "kept"
    reader = Repository(top, PASSPHRASE)
    roots = reader.backups()
    assert reader.tags(roots[b"monday"]) == {"kept": "forever", "where": "on the shelf"}
    assert reader.tags(roots[b"tuesday"]) == {"locked": ""}
    (state,) = [path.name for path in (top / "verified").iterdir()]
    verified = reader.load_object(f"verified/{state}", VERIFIED)
    packs = {path.name for area in ("data", "meta") for path in (top / area).iterdir()}
    assert {pack_id.hex() for pack_id in verified["packs"]} == packs
    (nonce,) = [path.name for path in (top / "removed").iterdir()]
    removal = reader.load_object(f"removed/{nonce}", REMOVAL)
    assert (removal["name"], removal["nonce"].hex()) == (b"thursday", nonce)
    assert removal["newest_sealed_ns"] > max(root["sealed_ns"] for root in roots.values())
    assert verified["repository_id"] == removal["repository_id"] == reader.id


def test_it_shares_nothing_with_the_package() -> None:
    """The reader imports no module of s3backfs, and is short enough to be read."""
    text = READER.read_text()
    imported = [
        name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [*(alias.name for alias in node.names), getattr(node, "module", "") or ""]
    ]
    assert not [name for name in imported if name.startswith("s3backfs")]
    assert text.count("\n") < 300
