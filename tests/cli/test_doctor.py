"""`s3backfs doctor` on real servers."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import boto3.session
import pytest

from s3backfs.errors import DeniedError
from s3backfs.maintenance.examining import Examination
from s3backfs.store.around import Request, WrappedStore
from s3backfs.store.memory import MemoryStore
from tests.ceph import KMS_KEY, Ceph
from tests.servers import (
    Server,
    checking_moto_server,
    moto_server,
    rclone_server,
    start_checking,
)

from .conftest import Runner

T = TypeVar("T")


@pytest.fixture(scope="module")
def moto() -> Iterator[Server]:
    with moto_server() as server:
        yield server


def versions_of(server: Server, bucket: str) -> list[str]:
    """Keys of all versions and marks of deletion."""
    client = server.client()
    answer = client.list_object_versions(Bucket=bucket)
    client.close()
    found = [*answer.get("Versions", []), *answer.get("DeleteMarkers", [])]
    return [str(version["Key"]) for version in found]


def verdicts(diagnosis: dict[str, Any]) -> dict[str, str]:
    return {row["name"]: row["verdict"] for row in diagnosis["capabilities"]}


def works(diagnosis: dict[str, Any]) -> dict[str, bool]:
    return {function["name"]: function["works"] for function in diagnosis["functions"]}


def test_all_is_well(moto: Server, run_cli: Runner) -> None:
    """On a full server every function works, speeds are measured, and nothing stays."""
    bucket = moto.make_bucket("well")
    done = run_cli("doctor", f"s3://{bucket}/p", "--json", **moto.environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["is_well"]
    assert all(works(found).values())
    assert found["is_repository"] is False
    assert abs(found["clock_skew_s"]) < 60
    assert [speed["connections"] for speed in found["speeds"]] == [1, 4, 16]
    assert found["suggestion"]["part_bytes"] >= 8 << 20
    assert verdicts(found)["conditional put"] == "yes"
    # What moto says about encryption by a customer's key it does not do.
    assert verdicts(found)["sse-c"] == "no"
    assert versions_of(moto, bucket) == []


def test_versions_go_too(moto: Server, run_cli: Runner) -> None:
    """In a bucket with versions neither old versions nor marks of deletion stay."""
    bucket = moto.make_bucket("versions")
    client = moto.client()
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    client.close()
    done = run_cli("doctor", f"s3://{bucket}/p", "--no-speed", "--json", **moto.environment)
    assert done.returncode == 0, done.stdout
    assert verdicts(json.loads(done.stdout))["versioning"] == "yes"
    assert versions_of(moto, bucket) == []


def test_a_repository_stays_as_it_is(moto: Server, run_cli: Runner) -> None:
    """On a repository the doctor changes nothing, and says that there is one."""
    bucket = moto.make_bucket("repository")
    url = f"s3://{bucket}/p"
    assert run_cli("init", url, "--encryption", "none", **moto.environment).returncode == 0
    before = versions_of(moto, bucket)
    done = run_cli("doctor", url, "--no-speed", **moto.environment)
    assert done.returncode == 0, done.stderr
    assert "a repository is here" in done.stdout
    assert versions_of(moto, bucket) == before


def test_a_poor_server(tmp_path: Path, run_cli: Runner) -> None:
    """A server without conditions and versions is usable, and the doctor says with what care."""
    with rclone_server(tmp_path / "data") as server:
        bucket = server.make_bucket("poor")
        done = run_cli("doctor", f"s3://{bucket}/p", "--no-speed", "--json", **server.environment)
        client = server.client()
        left = client.list_objects_v2(Bucket=bucket).get("Contents", [])
        client.close()
    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout)
    assert verdicts(found)["conditional put"] == "no"
    assert any("one writer per name" in advice for advice in found["advice"])
    assert left == []


def test_on_ceph(ceph: Ceph, run_cli: Runner) -> None:
    """On Ceph all works, and the doctor tells what it does from what it only says."""
    server = ceph.server
    bucket, url = server.make_bucket("doctor"), "s3://doctor/p"
    kms = ("--sse", f"aws:kms:{KMS_KEY}")
    done = run_cli("doctor", url, "--no-speed", "--json", *kms, **server.environment)
    assert done.returncode == 0, done.stderr
    found = verdicts(json.loads(done.stdout))
    assert [found[name] for name in ("conditional put", "sse-c", "sse-kms")] == ["yes"] * 3
    assert [found[name] for name in ("sse-s3", "verified checksums")] == ["no"] * 2
    assert versions_of(server, bucket) == []
    client = server.client()
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    client.close()
    done = run_cli("doctor", url, "--no-speed", "--json", **server.environment)
    assert done.returncode == 0, done.stdout
    assert verdicts(json.loads(done.stdout))["conditional put"] == "no"
    assert versions_of(server, bucket) == []


def test_on_localstack(localstack: Server, run_cli: Runner) -> None:
    """On the strictest server everything works, checksums are verified, and nothing stays."""
    bucket = localstack.make_bucket("doctor")
    done = run_cli("doctor", f"s3://{bucket}/p", "--no-speed", "--json", **localstack.environment)
    assert done.returncode == 0, done.stderr
    found = verdicts(json.loads(done.stdout))
    wanted = ("conditional put", "sse-c", "verified checksums", "list uploads")
    assert [found[name] for name in wanted] == ["yes"] * 4
    assert versions_of(localstack, bucket) == []


def test_a_local_directory(tmp_path: Path, run_cli: Runner) -> None:
    """A directory is examined too, but for what only S3 has; an empty one stays empty."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = run_cli("doctor", disk.as_uri(), "--no-speed", "--json")
    found = json.loads(done.stdout)
    assert found["is_well"]
    assert "versioning" not in verdicts(found)
    assert list(disk.iterdir()) == []
    run_cli("init", disk.as_uri(), S3BACKFS_PASSPHRASE="secret")
    before = {path for path in disk.rglob("*") if path.is_file()}
    run_cli("doctor", disk.as_uri(), "--no-speed")
    assert {path for path in disk.rglob("*") if path.is_file()} == before


def test_nothing_can_be_tried(moto: Server, run_cli: Runner) -> None:
    """A missing bucket and refused credentials are one line each, with codes of their own."""
    done = run_cli("doctor", "s3://nobody-made-it/p", **moto.environment)
    assert (done.returncode, done.stderr.count("\n")) == (33, 1), done.stderr
    with checking_moto_server() as server:
        server.make_bucket("bucket")
        start_checking(server)
        done = run_cli("doctor", "s3://bucket/p", **server.environment)
    assert (done.returncode, done.stderr.count("\n")) == (34, 1), done.stderr
    assert "check the access key" in done.stderr


@pytest.mark.anyio
async def test_what_stays_is_told() -> None:
    """Where nothing may be deleted the text says where test objects stay, and who removes them."""

    async def deny(request: Request, act: Callable[[], Awaitable[T]]) -> T:
        if request.verb == "delete":
            raise DeniedError("refused")
        return await act()

    store = WrappedStore(MemoryStore(), deny)
    found = await Examination(store, "leases/0/doctor/", None).run(is_measured=False)
    assert "below leases/0/doctor/ until `s3backfs prune`" in found.left_behind


def test_narrow_credentials(run_cli: Runner) -> None:
    """Who may only read can restore but not write, and is told what to allow."""
    policy = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": ["s3:GetObject", "s3:List*"], "Resource": "*"}],
    }
    with checking_moto_server() as server:
        bucket = server.make_bucket("bucket")
        done = run_cli("init", "s3://bucket/p", "--encryption", "none", **server.environment)
        assert done.returncode == 0, done.stderr
        session = boto3.session.Session(server.access_key, server.secret_key)
        iam = session.client("iam", endpoint_url=server.endpoint, region_name="us-east-1")
        iam.create_user(UserName="reader")
        iam.put_user_policy(UserName="reader", PolicyName="p", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName="reader")["AccessKey"]
        iam.close()
        start_checking(server)
        environment = server.environment | {
            "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        }
        done = run_cli("doctor", f"s3://{bucket}/p", "--json", **environment)
    assert done.returncode == 40, done.stderr
    found = json.loads(done.stdout)
    assert works(found) == {
        "restore a named backup": True,
        "list and mount all backups": True,
        "write and seal backups": False,
        "init": False,
        "forget and prune": False,
    }
    remedies = {function["name"]: function["remedy"] for function in found["functions"]}
    assert "allow s3:PutObject" in remedies["write and seal backups"]
    assert found["left_behind"] == ""
