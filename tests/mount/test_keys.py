"""Rotated keys on real mounts."""

from __future__ import annotations

import json

import pytest

from tests.mounts import Machine, Mount
from tests.servers import Server

pytestmark = pytest.mark.mount


def test_rotation_between_mounts(machine: Machine, other: Machine) -> None:
    """After a rotation every machine reads what was written before and after it."""
    with machine.mounted() as mount:
        (mount.path / "before").mkdir()
        (mount.path / "before/file").write_bytes(b"old " * 500_000)
    machine.run("key", "rotate")
    with machine.mounted() as mount:
        assert (mount.path / "before/file").read_bytes() == b"old " * 500_000
        (mount.path / "after").mkdir()
        (mount.path / "after/file").write_bytes(b"new " * 500_000)
        (mount.path / "after/same").write_bytes((mount.path / "before/file").read_bytes())
    with other.mounted("--read-only") as mount:
        assert (mount.path / "before/file").read_bytes() == b"old " * 500_000
        assert (mount.path / "after/file").read_bytes() == b"new " * 500_000
        assert (mount.path / "after/same").read_bytes() == b"old " * 500_000
    names = {row["name"] for row in json.loads(other.run("list", "--json").stdout)}
    assert names == {"before", "after"}


def test_rotation_under_a_mount(machine: Machine, other: Machine) -> None:
    """A mount that runs during a rotation goes on with the old key, and loses nothing."""
    with machine.mounted() as mount:
        (mount.path / "during").mkdir()
        (mount.path / "during/first").write_bytes(b"1" * 100_000)
        machine.run("sync", str(mount.path))
        other.run("key", "rotate")
        with other.mounted() as second:
            (second.path / "new").mkdir()
            (second.path / "new/file").write_bytes(b"2" * 100_000)
        (mount.path / "during/second").write_bytes(b"3" * 100_000)
        assert (mount.path / "during/first").read_bytes() == b"1" * 100_000
        assert "during" in [path.name for path in mount.path.iterdir()]
    with other.mounted("--read-only") as mount:
        assert (mount.path / "during/first").read_bytes() == b"1" * 100_000
        assert (mount.path / "during/second").read_bytes() == b"3" * 100_000
        assert (mount.path / "new/file").read_bytes() == b"2" * 100_000
    listed = json.loads(other.run("list", "--json").stdout)
    assert {row["name"]: row["state"] for row in listed} == {"during": "sealed", "new": "sealed"}


def objects_of(server: Server, machine: Machine) -> dict[str, bytes]:
    """All that is in the repository, as whoever may read the bucket gets it."""
    bucket, _, prefix = machine.url.removeprefix("s3://").partition("/")
    client = server.client()
    found = client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    objects = {
        item["Key"]: client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
        for item in found
    }
    client.close()
    return objects


def put_keys(server: Server, machine: Machine, objects: dict[str, bytes]) -> None:
    """Put `repository.json` and key slots in the place of those that are there."""
    bucket = machine.url.removeprefix("s3://").partition("/")[0]
    client = server.client()
    for key in objects_of(server, machine):
        if "/keys/" in key:
            client.delete_object(Bucket=bucket, Key=key)
    for key, data in objects.items():
        if "/keys/" in key or key.endswith("/repository.json"):
            client.put_object(Bucket=bucket, Key=key, Body=data)
    client.close()


def test_old_keys_put_back(machine: Machine, server: Server) -> None:
    """A machine that has seen a rotation does not mount what stood there before it."""
    before = objects_of(server, machine)
    machine.run("key", "rotate")
    put_keys(server, machine, before)
    mountpoint = machine.home / "refused"
    mountpoint.mkdir()
    done = machine.run("mount", machine.url, str(mountpoint), check=False)
    assert (done.returncode, "old keys back" in done.stderr) == (10, True)


def test_forgotten_rotation(machine: Machine, other: Machine, server: Server) -> None:
    """Who was revoked and puts old keys back gets nothing more to read from any machine."""
    with machine.mounted() as mount:
        (mount.path / "before").mkdir()
        (mount.path / "before/file").write_bytes(b"old")
    before = objects_of(server, machine)
    machine.run("key", "rotate")
    with machine.mounted() as mount:
        (mount.path / "after").mkdir()
        (mount.path / "after/file").write_bytes(b"new")
    put_keys(server, machine, before)
    planted = objects_of(server, machine)
    said = "objects of key epoch 1"
    mountpoint = other.home / "refused"
    mountpoint.mkdir()
    for arguments in (
        ("mount", other.url, str(mountpoint)),
        ("key", "rotate"),
        ("key", "remove", "--slot", "none"),
        ("tag", other.url, "before", "locked"),
        ("delete", other.url, "before"),
        ("prune",),
    ):
        done = other.run(*arguments, check=False)
        Mount(other, mountpoint).clean_up()
        assert (done.returncode, said in done.stderr) == (10, True), (arguments, done.stderr)
        assert len(done.stderr.splitlines()) == 1
    left = objects_of(server, machine)
    assert {key: left.get(key) for key in planted} == planted
    assert all("/leases/" in key for key in left.keys() - planted.keys())
    done = other.run("list", check=False)
    assert (done.returncode, said in done.stderr) == (20, True)
    done = other.run("key", "list")
    assert (said in done.stderr, len(done.stderr.splitlines())) == (True, 1)
    export = other.home / "export"
    done = other.run("key", "export", "--output", str(export), check=False)
    assert (done.returncode, said in done.stderr, export.exists()) == (10, True, False)
    done = other.run("check", check=False)
    assert (done.returncode, "names key epoch 1" in done.stdout) == (20, True), done.stdout
    remedies = [line for line in done.stdout.splitlines() if line.startswith("remedy")]
    assert len(remedies) == 1, done.stdout
    assert "old keys back" in remedies[0]
    with other.mounted("--read-only") as mount:
        assert (mount.path / "before/file").read_bytes() == b"old"
        assert said in json.loads(other.run("status", "--json", str(mount.path)).stdout)["warning"]
        assert said in other.run("status", str(mount.path)).stdout.replace("\n", " ")
    assert said in other.log()
