"""What those who share the machine, or who own the bucket, learn and can do."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from s3backfs.format.canonical import encode_json
from s3backfs.format.slots import slot_digest
from tests.mounts import PASSPHRASE, Machine
from tests.servers import SECRET_KEY

pytestmark = pytest.mark.mount


def local_machine(tmp_path: Path, *options: str) -> tuple[Machine, Path]:
    """A machine with a new repository in a directory, which stands for a bucket."""
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    home = tmp_path / "h"
    home.mkdir()
    machine = Machine(home, bucket.as_uri(), passphrase=None if options else PASSPHRASE)
    machine.run("init", *options)
    return machine, bucket


def test_the_machine_shows_no_secret(machine: Machine) -> None:
    """Arguments, environment, logs, status and files of a mount hold neither passphrase nor key."""
    with machine.mounted() as mount:
        (mount.path / "monday").mkdir()
        (mount.path / "monday" / "file").write_bytes(b"data")
        machine.run("sync", str(mount.path))
        process = Path("/proc") / str(mount.pid())
        shown = [(process / name).read_bytes() for name in ("cmdline", "comm", "limits")]
        environment = (process / "environ").read_bytes()
        assert b"S3BACKFS_REPOSITORY=" in environment
        status = machine.run("status", "--json", str(mount.path)).stdout
        shown += [environment, status.encode(), machine.log().encode()]
        for top in ("cache", "state"):
            kept = (path for path in (machine.home / top).rglob("*") if path.is_file())
            shown += [path.read_bytes() for path in kept]
        for text in shown:
            assert PASSPHRASE.encode() not in text
        for text in (shown[0], *shown[4:]):
            assert SECRET_KEY.encode() not in text
        assert b"Max core file size        0 " in shown[2]


def test_what_is_kept_is_private(machine: Machine) -> None:
    """Cache, state and sockets can be entered and read by their owner only."""
    with machine.mounted() as mount:
        (mount.path / "monday").mkdir()
        machine.run("sync", str(mount.path))
        tops = [machine.home / name / "s3backfs" for name in ("cache", "state")]
        sockets = [path for path in machine.home.rglob("*.sock") if mount.path not in path.parents]
        assert sockets
        for path in [*tops, *(path.parent for path in sockets), *sockets]:
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_no_core_dump_and_no_look_into_memory() -> None:
    """After the first line of the program a process cannot be dumped or traced by its own user."""
    code = (
        "import ctypes, resource\n"
        "from s3backfs.privacy import hide_memory\n"
        "hide_memory()\n"
        "print(ctypes.CDLL(None).prctl(3), resource.getrlimit(resource.RLIMIT_CORE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0 0\n"


SURPRISES: list[tuple[str, object]] = [("kind", []), ("label", "\ud800"), ("argon2id", "\ud800")]


@pytest.mark.parametrize(("field", "value"), SURPRISES, ids=[name for name, _ in SURPRISES])
def test_a_planted_slot(field: str, value: object, tmp_path: Path) -> None:
    """A slot that no program writes, under a digest that fits, keeps nobody out."""
    machine, bucket = local_machine(tmp_path)
    (own,) = (bucket / "keys").iterdir()
    slot_id = "0" * 32
    fields = json.loads(own.read_bytes()) | {"id": slot_id, field: value}
    del fields["digest"]
    planted = encode_json(fields | {"digest": slot_digest(fields)})
    (bucket / "keys" / f"{slot_id}.json").write_bytes(planted)
    assert machine.run("list").stderr == ""
    assert machine.run("key", "list", check=False).returncode in (0, 20)


def test_planted_names(tmp_path: Path) -> None:
    """Objects that stand where roots do, under names that none can have, hide no backup."""
    machine, bucket = local_machine(tmp_path, "--encryption", "none")
    with machine.mounted() as mount:
        (mount.path / "monday").mkdir()
        (mount.path / "monday" / "file").write_bytes(b"data")
    for name in ("." + "8" * 254, "%2F", "%00", "a b", "...", "%6donday"):
        (bucket / "backups" / name).write_bytes(b"planted")
    with machine.mounted() as mount:
        assert os.listdir(mount.path) == ["monday"]
        assert (mount.path / "monday" / "file").read_bytes() == b"data"
