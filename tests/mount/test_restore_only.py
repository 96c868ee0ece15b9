"""Restoring one named backup with the right to read objects and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.mount.test_prune import PRUNE, make_tree, rsync
from tests.mount.trees import differences
from tests.mounts import Machine
from tests.proxy import FaultName, Incoming, Proxy, proxy_for
from tests.servers import Server, moto_server

pytestmark = pytest.mark.mount

URL = "s3://bucket/prefix"


def get_object_alone(server: Server, refused: list[str]) -> Callable[[Incoming], FaultName | None]:
    """Do as Amazon does: to who may not list, an object that is not there is denied."""

    def script(incoming: Incoming) -> FaultName | None:
        path, _, _ = incoming.path.partition("?")
        key = unquote(path).removeprefix("/bucket").lstrip("/")
        client = server.client()
        found = client.list_objects_v2(Bucket="bucket", Prefix=key).get("Contents", [])
        client.close()
        is_there = key != "" and key in [entry["Key"] for entry in found]
        if incoming.method in ("GET", "HEAD") and is_there:
            return None
        refused.append(f"{incoming.method} {incoming.path}")
        return "403"

    return script


def slot_of(machine: Machine) -> str:
    """The id of the only key slot."""
    (slot,) = json.loads(machine.run("key", "list", "--json").stdout)
    return str(slot["slot"])


def restorer(home: Path, proxy: Proxy) -> Machine:
    home.mkdir()
    (home / "mnt").mkdir()
    return Machine(home, URL, proxy.server.environment)


def test_a_named_backup_is_restored(tmp_path: Path) -> None:
    """Without a listing a sealed and an open backup restore, packs that prune moved included."""
    source = tmp_path / "source"
    make_tree(source, 1)
    (tmp_path / "m").mkdir()
    refused: list[str] = []
    with moto_server() as server, proxy_for(server) as proxy:
        server.make_bucket("bucket")
        writer = Machine(tmp_path / "m", URL, server.environment)
        writer.run("init")
        with writer.mounted() as mount:
            rsync(source, mount.path / "old")
        shutil.rmtree(source / "d0")
        shutil.rmtree(source / "d1")
        with writer.mounted("-o", "allow-forget") as mount:
            rsync(source, mount.path / "new", "--link-dest=../old")
            writer.run("seal", str(mount.path / "new"))
            shutil.rmtree(mount.path / "old")
            rsync(source, mount.path / "open")
            mount.umount("--keep-open")
        # The packs that the roots name are gone, and `moved/` says where their content went.
        assert json.loads(writer.run(*PRUNE).stdout)["deleted_packs"] > 0
        slot = slot_of(writer)
        proxy.script = get_object_alone(server, refused)
        machine = restorer(tmp_path / "r", proxy)
        for name in ("new", "open"):
            options = ("-o", "ro", "--backup", name, "--key-slot", slot)
            with machine.mounted(*options) as mount:
                assert [path.name for path in mount.path.iterdir()] == [name]
                assert not differences(source, mount.path / name)
    assert any(request.startswith("GET") and "/data/" in request for request in refused)
    assert not [request for request in refused if not request.startswith(("GET", "HEAD"))]


def test_what_is_missing_is_one_line(tmp_path: Path) -> None:
    """Without a slot, with a wrong one, and with a wrong name, one line says what to do."""
    (tmp_path / "m").mkdir()
    with moto_server() as server, proxy_for(server) as proxy:
        server.make_bucket("bucket")
        writer = Machine(tmp_path / "m", URL, server.environment)
        writer.run("init")
        with writer.mounted() as mount:
            (mount.path / "monday").mkdir()
        slot = slot_of(writer)
        proxy.script = get_object_alone(server, [])
        machine = restorer(tmp_path / "r", proxy)
        cases = [
            (("--backup", "monday"), 34, "--key-slot ID"),
            (("--backup", "monday", "--key-slot", "0" * 32), 34, "key list"),
            (("--backup", "monday", "--key-slot", slot[:8]), 2, "whole id of 32 digits"),
            (("--backup", "tuesday", "--key-slot", slot), 34, "there is no backup tuesday"),
            (("--key-slot", slot), 34, "--backup NAME"),
        ]
        for options, code, text in cases:
            done = machine.run(
                "mount", "-o", "ro", *options, URL, str(machine.home / "mnt"), check=False
            )
            assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
            assert text in done.stderr


def test_a_slot_of_an_old_key(tmp_path: Path) -> None:
    """After a rotation the slot has another id, and the old one says so in one line."""
    (tmp_path / "m").mkdir()
    with moto_server() as server:
        server.make_bucket("bucket")
        machine = Machine(tmp_path / "m", URL, server.environment)
        machine.run("init")
        slot = slot_of(machine)
        machine.run("key", "rotate")
        (machine.home / "mnt").mkdir()
        done = machine.run(
            "mount", "-o", f"ro,key-slot={slot}", URL, str(machine.home / "mnt"), check=False
        )
        assert (done.returncode, done.stderr.count("\n")) == (13, 1), done.stderr
        assert "no key slot" in done.stderr
        with machine.mounted("-o", f"ro,key-slot={slot_of(machine)}"):
            pass
