"""Mounts with the policies that `s3backfs policy` prints, on a server that enforces them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3.session
import pytest
from botocore.exceptions import ClientError

from tests.mounts import Machine
from tests.proxy import FaultName, Incoming, proxy_for
from tests.servers import Server, checking_moto_server, moto_server, start_checking

pytestmark = pytest.mark.mount

URL = "s3://bucket/prefix"
CREATE_ONLY = ("/backups/", "/data/", "/meta/", "/index/")


@dataclass
class World:
    """A server that checks, with a repository in it, and one machine for each role."""

    server: Server
    machines: dict[str, Machine]

    def objects(self) -> set[str]:
        """Everything in the bucket, seen by the owner of the account."""
        owner = self.machines["owner"].environment
        session = boto3.session.Session(owner["AWS_ACCESS_KEY_ID"], owner["AWS_SECRET_ACCESS_KEY"])
        client = session.client("s3", endpoint_url=self.server.endpoint, region_name="us-east-1")
        found = client.list_objects_v2(Bucket="bucket").get("Contents", [])
        client.close()
        return {entry["Key"].removeprefix("prefix/") for entry in found}


def policy_of(owner: Machine, role: str) -> dict[str, Any]:
    """What the command prints, without the condition that this server takes for always true."""
    policy: dict[str, Any] = json.loads(owner.run("policy", "--role", role, URL).stdout)
    kept = [found for found in policy["Statement"] if found["Effect"] == "Allow"]
    return policy | {"Statement": kept}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with checking_moto_server() as server:
        server.make_bucket("bucket")
        session = boto3.session.Session(server.access_key, server.secret_key)
        iam = session.client("iam", endpoint_url=server.endpoint, region_name="us-east-1")
        machines: dict[str, Machine] = {}
        first = Machine(tmp_path_factory.mktemp("first"), URL, server.environment)
        first.run("init")
        everything = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        for role in ("owner", "restore-only", "reader", "writer", "maintainer"):
            policy = {"Version": "2012-10-17", "Statement": [everything]}
            if role != "owner":
                policy = policy_of(first, role)
            iam.create_user(UserName=role)
            iam.put_user_policy(UserName=role, PolicyName=role, PolicyDocument=json.dumps(policy))
            key = iam.create_access_key(UserName=role)["AccessKey"]
            environment = server.environment | {
                "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
                "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
            }
            machines[role] = Machine(tmp_path_factory.mktemp(role), URL, environment)
        iam.close()
        start_checking(server)
        yield World(server, machines)


def back_up(machine: Machine, source: Path, name: str) -> None:
    with machine.mounted() as mount:
        backup = mount.path / name
        backup.mkdir()
        subprocess.run(["rsync", "-aH", f"{source}/", f"{backup}/"], check=True, timeout=60)
        machine.run("seal", str(backup))


def assert_denied(world: World, role: str) -> None:
    """What a thief would do to the past is refused."""
    mine = world.machines[role].environment
    session = boto3.session.Session(mine["AWS_ACCESS_KEY_ID"], mine["AWS_SECRET_ACCESS_KEY"])
    client = session.client("s3", endpoint_url=world.server.endpoint, region_name="us-east-1")
    keys = world.objects()
    assert {"backups", "data", "index", "keys"} <= {key.partition("/")[0] for key in keys}
    for key in keys:
        with pytest.raises(ClientError, match="AccessDenied"):
            client.delete_object(Bucket="bucket", Key=f"prefix/{key}")
    for key in ("repository.json", "keys/0.json", "prune/0", "trash/0/monday"):
        with pytest.raises(ClientError, match="AccessDenied"):
            client.put_object(Bucket="bucket", Key=f"prefix/{key}", Body=b"")
    client.close()


def test_roles(world: World, tmp_path: Path) -> None:
    """A writer backs up and seals without an error; readers restore; nobody may do more."""
    source = tmp_path / "source"
    source.mkdir()
    large = os.urandom(20 << 20)
    (source / "large").write_bytes(large)
    (source / "small").write_bytes(b"small")
    writer = world.machines["writer"]
    back_up(writer, source, "monday")
    assert "AccessDenied" not in writer.log()
    assert [key for key in world.objects() if key.startswith(("open/", "leases/"))] == []

    with world.machines["reader"].mounted("-o", "ro") as mount:
        assert (mount.path / "monday" / "large").read_bytes() == large
        assert (mount.path / "monday" / "small").read_bytes() == b"small"

    assert_denied(world, "writer")
    (slot,) = json.loads(writer.run("key", "list", "--json").stdout)
    options = ("-o", "ro", "--backup", "monday", "--key-slot", slot["slot"])
    with world.machines["restore-only"].mounted(*options) as mount:
        assert (mount.path / "monday" / "large").read_bytes() == large
    refused = world.machines["restore-only"].run("list", check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (34, 1), refused.stderr
    assert_denied(world, "restore-only")
    reader = world.machines["reader"]
    (reader.home / "mnt").mkdir(exist_ok=True)
    refused = reader.run("mount", URL, str(reader.home / "mnt"), check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (34, 1), refused.stderr
    assert "mount with -o ro" in refused.stderr

    world.machines["maintainer"].run("prune")
    assert (world.machines["maintainer"].run("list").stdout).count("monday") == 1


def test_a_writer_replaces_nothing(tmp_path: Path) -> None:
    """What a writer stores below the four areas is asked for as new, packs in parts included."""
    refused: list[str] = []

    def like_amazon(incoming: Incoming) -> FaultName | None:
        path, _, query = incoming.path.partition("?")
        is_part = "partNumber" in query or "uploads" in query
        is_write = (incoming.method == "PUT" and not is_part) or incoming.is_complete
        is_guarded = any(area in path for area in CREATE_ONLY)
        if is_write and is_guarded and not incoming.may_only_create:
            refused.append(incoming.path)
            return "403"
        if incoming.method == "DELETE" and is_guarded:
            refused.append(incoming.path)
            return "403"
        return None

    source = tmp_path / "source"
    source.mkdir()
    (source / "large").write_bytes(os.urandom(20 << 20))
    (source / "small").write_bytes(b"small")
    home = tmp_path / "m"
    home.mkdir()
    with moto_server() as server, proxy_for(server) as proxy:
        server.make_bucket("bucket")
        machine = Machine(home, URL, proxy.server.environment)
        machine.run("init")
        proxy.script = like_amazon
        back_up(machine, source, "monday")
        back_up(machine, source, "tuesday")
        with machine.mounted("-o", "ro") as mount:
            assert (mount.path / "tuesday" / "small").read_bytes() == b"small"
    assert refused == []
