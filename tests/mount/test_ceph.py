"""Real mounts on Ceph, which enforces what other servers of these tests only state."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from s3backfs.errors import RefusedError
from s3backfs.store.s3 import S3Settings, S3Store
from tests.ceph import KMS_KEY, Ceph
from tests.mount.test_prune import PRUNE, make_tree, rsync
from tests.mount.trees import differences
from tests.mounts import Machine
from tests.servers import Server

pytestmark = pytest.mark.mount


def machine_at(home: Path, server: Server, bucket: str) -> Machine:
    home.mkdir()
    (home / "mnt").mkdir()
    return Machine(home, f"s3://{bucket}/prefix", server.environment)


def new_bucket(server: Server) -> str:
    return server.make_bucket(f"ceph-{uuid.uuid4().hex}")


@pytest.mark.parametrize("is_versioned", [False, True])
def test_a_round_trip(ceph: Ceph, tmp_path: Path, is_versioned: bool) -> None:
    """Two nights and a prune, also where versions make the server ignore conditions."""
    bucket = new_bucket(ceph.server)
    if is_versioned:
        client = ceph.server.client()
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        client.close()
    machine = machine_at(tmp_path / "m", ceph.server, bucket)
    machine.run("init")
    source = tmp_path / "source"
    make_tree(source, 1)
    with machine.mounted() as mount:
        rsync(source, mount.path / "sunday")
    (source / "d0" / "new").write_bytes(os.urandom(12 << 20))
    with machine.mounted("-o", "allow-forget") as mount:
        rsync(source, mount.path / "monday", "--link-dest=../sunday")
    remembered = json.loads(next((machine.home / "state").rglob("conditions")).read_bytes())
    assert remembered["conditions"]["are_enforced"] is not is_versioned
    machine.run("delete", "sunday")
    machine.run(*PRUNE)
    other = machine_at(tmp_path / "other", ceph.server, bucket)
    with other.mounted("-o", "ro") as mount:
        assert not differences(source, mount.path / "monday")


def test_versions_that_are_switched_on_are_noticed(ceph: Ceph, tmp_path: Path) -> None:
    """A machine that remembers conditions finds out that they have come to be ignored."""
    bucket = new_bucket(ceph.server)
    machine = machine_at(tmp_path / "m", ceph.server, bucket)
    machine.run("init")
    found = []
    for status in ("", "Enabled"):
        if status:
            client = ceph.server.client()
            client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})
            client.close()
        with machine.mounted() as mount:
            (mount.path / f"backup{status}").mkdir()
        memory = next((machine.home / "state").rglob("conditions"))
        found.append(json.loads(memory.read_bytes())["conditions"]["are_enforced"])
    assert found == [True, False]


def test_the_role_restore_only(ceph: Ceph, tmp_path: Path) -> None:
    """The printed policy lets a limited user restore one backup by its name, and nothing else."""
    bucket = new_bucket(ceph.server)
    owner = machine_at(tmp_path / "owner", ceph.server, bucket)
    owner.run("init")
    source = tmp_path / "source"
    make_tree(source, 2)
    with owner.mounted() as mount:
        rsync(source, mount.path / "monday")
    (slot,) = json.loads(owner.run("key", "list", "--json").stdout)
    limited = ceph.add_user(f"restorer{uuid.uuid4().hex[:8]}")
    policy = json.loads(owner.run("policy", "--role", "restore-only", owner.url).stdout)
    for statement in policy["Statement"]:
        statement["Principal"] = {"AWS": ["*"]}
    client = ceph.server.client()
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    client.close()
    machine = machine_at(tmp_path / "restorer", limited, bucket)
    options = ("-o", "ro", "--backup", "monday", "--key-slot", slot["slot"])
    with machine.mounted(*options) as mount:
        assert not differences(source, mount.path / "monday")
    for verb in ("list", "prune", "check"):
        done = machine.run(verb, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (34, 1), done.stderr
    done = machine.run("doctor", "--json", "--no-speed", machine.url, check=False)
    works = {found["name"]: found["works"] for found in json.loads(done.stdout)["functions"]}
    assert [name for name, does in works.items() if does] == ["restore a named backup"]


def grant(ceph: Ceph, bucket: str, owner: Machine, users: dict[str, str]) -> None:
    """Let users do what the printed policies of their roles allow."""
    statements = []
    for role, user in users.items():
        policy = json.loads(owner.run("policy", "--role", role, owner.url).stdout)
        principal = {"AWS": [f"arn:aws:iam:::user/{user}"]}
        for statement in policy["Statement"]:
            statement["Sid"] += role.replace("-", "")
            statements.append(statement | {"Principal": principal})
    client = ceph.server.client()
    document = {"Version": "2012-10-17", "Statement": statements}
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(document))
    client.close()


def test_printed_policies(ceph: Ceph, tmp_path: Path) -> None:
    """By them a writer backs up and leaves nothing behind, a reader restores, prune deletes."""
    bucket = new_bucket(ceph.server)
    owner = machine_at(tmp_path / "owner", ceph.server, bucket)
    owner.run("init")
    users = {role: f"{role}{uuid.uuid4().hex[:8]}" for role in ("writer", "reader", "maintainer")}
    grant(ceph, bucket, owner, users)
    machines = {
        role: machine_at(tmp_path / role, ceph.add_user(user), bucket)
        for role, user in users.items()
    }
    source = tmp_path / "source"
    make_tree(source, 1)
    with machines["writer"].mounted() as mount:
        for name in ("sunday", "monday"):
            rsync(source, mount.path / name)
    done = machines["writer"].run("doctor", "--json", "--no-speed", owner.url, check=False)
    works = {found["name"]: found["works"] for found in json.loads(done.stdout)["functions"]}
    assert works["write and seal backups"], done.stdout
    client = ceph.server.client()
    for area in ("open", "leases"):
        found = client.list_objects_v2(Bucket=bucket, Prefix=f"prefix/{area}/")
        assert found["KeyCount"] == 0, found["Contents"]
    client.close()
    with machines["reader"].mounted("-o", "ro") as mount:
        assert not differences(source, mount.path / "monday")
    machines["maintainer"].run("delete", "sunday")
    machines["maintainer"].run(*PRUNE)
    assert "sunday" not in machines["reader"].run("list").stdout


def test_a_rotation_revokes_a_key(ceph: Ceph, tmp_path: Path) -> None:
    """Conditions that hold are understood, so that a rotation ends and a slot opens no more."""
    owner = machine_at(tmp_path / "owner", ceph.server, new_bucket(ceph.server))
    owner.run("init")
    eve = Machine(tmp_path / "eve", owner.url, owner.environment, passphrase="what eve knows")
    eve.home.mkdir()
    owner.environment = {**owner.environment, "S3BACKFS_NEW_PASSPHRASE": "what eve knows"}
    owner.run("key", "add", "--label", "eve")
    assert eve.run("list").returncode == 0
    assert "key epoch 1" in owner.run("key", "rotate", "--remove", "eve").stdout
    assert eve.run("list", check=False).returncode == 13


def test_encryption_by_the_server(ceph: Ceph, tmp_path: Path) -> None:
    """SSE-C and SSE-KMS round trip; a wrong key, none, and one that is not there say so."""
    bucket = new_bucket(ceph.server)
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_bytes(os.urandom(32))
    wrong.write_bytes(os.urandom(32))
    customer = ("--sse-c-key-file", str(right))
    managed = ("--sse", f"aws:kms:{KMS_KEY}")
    for name, options in (("c", customer), ("k", managed)):
        machine = machine_at(tmp_path / name, ceph.server, bucket)
        machine.url += name
        machine.run("init", *options)
        data = os.urandom(12 << 20)
        with machine.mounted(*options) as mount:
            (mount.path / "monday").mkdir()
            (mount.path / "monday" / "file").write_bytes(data)
        with machine.mounted("-o", "ro", *options) as mount:
            assert (mount.path / "monday" / "file").read_bytes() == data
        machine.run("delete", "monday", *options)
        machine.run("unforget", "monday", *options)
        assert "monday" in machine.run("list", *options).stdout
    machine.url = f"s3://{bucket}/prefixc"
    for options in ((), ("--sse-c-key-file", str(wrong))):
        done = machine.run("doctor", "--no-speed", machine.url, *options, check=False)
        assert done.returncode == 40, done.stderr
        assert "a repository is here" in done.stdout
        assert "by --sse-c-key-file" in done.stdout
        assert "read failed: see above" in done.stdout
    mixed = machine_at(tmp_path / "mixed", ceph.server, bucket)
    mixed.url += "mixed"
    mixed.run("init")
    for name, given in (("sunday", ()), ("monday", customer)):
        with mixed.mounted(*given) as mount:
            (mount.path / name).mkdir()
    done = mixed.run("list", check=False)
    assert (done.returncode, "sunday" in done.stdout) == (20, True), done.stderr
    assert "by --sse-c-key-file" in done.stderr
    with mixed.mounted("-o", "ro") as mount:
        assert list((mount.path / "sunday").iterdir()) == []
    refusals = [
        (("list", "--sse-c-key-file", str(wrong)), "by --sse-c-key-file"),
        (("list",), "by --sse-c-key-file"),
        (("init", "--sse", "aws:kms:nobody", f"s3://{bucket}/new"), "--sse aws:kms:KEY"),
    ]
    for arguments, remedy in refusals:
        done = machine.run(*arguments, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (34, 1), done.stderr
        assert remedy in done.stderr


@pytest.mark.anyio
async def test_a_clock_that_is_an_hour_off(ceph: Ceph, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server refuses what was signed an hour ago, and the text says what to set right."""
    for name, value in ceph.server.environment.items():
        monkeypatch.setenv(name, value)
    store = S3Store(S3Settings(new_bucket(ceph.server)))
    past = datetime.now(UTC) - timedelta(hours=1)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: past.replace(tzinfo=None))
    with pytest.raises(RefusedError, match="set this machine's clock right"):
        await store.get("one")
    await store.aclose()


def test_wrong_credentials(ceph: Ceph, tmp_path: Path) -> None:
    """A wrong secret and a user nobody knows are one line each, with what to check."""
    bucket = new_bucket(ceph.server)
    for number, server in enumerate(
        (replace(ceph.server, secret_key="wrong"), replace(ceph.server, access_key="NOBODY"))
    ):
        done = machine_at(tmp_path / str(number), server, bucket).run("list", check=False)
        assert (done.returncode, done.stderr.count("\n")) == (34, 1), done.stderr
        assert "check the access key" in done.stderr
