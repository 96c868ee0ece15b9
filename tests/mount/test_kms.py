"""A repository that a key management service alone opens: every verb works, with no passphrase."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.mounts import Machine
from tests.servers import Server, moto_server

pytestmark = pytest.mark.mount

FORGOTTEN = "web-2026-01-01"
KEPT = "web-2026-01-02"


@pytest.fixture(scope="module")
def moto() -> Iterator[Server]:
    """A server of objects that is a key management service too."""
    with moto_server() as server:
        yield server


@pytest.fixture
def machine(moto: Server, tmp_path: Path) -> Machine:
    """A machine that trusts a key of the service, with a repository that this key opens."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {**moto.environment, "S3BACKFS_KMS_KEY": new_kms_key(moto)}
    url = f"s3://{moto.make_bucket(f'kms-{tmp_path.name}'.lower().replace('_', '-'))}/prefix"
    made = Machine(home, url, environment, passphrase=None)
    made.run("init", "--kms-key", environment["S3BACKFS_KMS_KEY"], url)
    return made


def new_kms_key(moto: Server) -> str:
    with closing(
        boto3.client("kms", endpoint_url=moto.endpoint, region_name="us-east-1",
                     aws_access_key_id="a", aws_secret_access_key="b")
    ) as client:  # fmt: skip
        return str(client.create_key()["KeyMetadata"]["Arn"])


def told(machine: Machine, *arguments: str) -> Any:
    return json.loads(machine.run(*arguments, "--json").stdout)


def test_every_verb(machine: Machine, tmp_path: Path) -> None:
    """Mounting, keeping, checking, pruning, repairing and rotating need the service only."""
    content = b"content " * 100_000
    with machine.mounted() as mount:
        for name in (FORGOTTEN, KEPT):
            (mount.path / name).mkdir()
            (mount.path / name / "file").write_bytes(content)
        (mount.path / FORGOTTEN / "old").write_bytes(b"old" * 200_000)
    assert {row["name"] for row in told(machine, "list")} == {FORGOTTEN, KEPT}
    use_what_reads(machine)
    use_what_keeps(machine)
    use_what_repairs(machine)
    use_what_changes_keys(machine, tmp_path)
    with machine.mounted("--read-only") as mount:
        assert (mount.path / KEPT / "file").read_bytes() == content


def test_a_service_that_refuses(machine: Machine, moto: Server) -> None:
    """A refusal is told with the key's name, also where others could open, and mounts nothing."""
    machine.run("key", "add", "--recovery")
    right, key = machine.environment["S3BACKFS_KMS_KEY"], new_kms_key(moto)
    machine.environment = {**machine.environment, "S3BACKFS_KMS_KEY": key}
    (machine.home / "mnt").mkdir()
    for verb in (["list"], ["prune"], ["check"], ["mount", machine.url, str(machine.home / "mnt")]):
        done = machine.run(*verb, check=False)
        assert done.returncode not in (0, 1)
        assert (key in done.stderr, done.stderr.count("\n")) == (True, 1), done.stderr
        assert f"the key slots here are of {right}" in done.stderr


def use_what_reads(machine: Machine) -> None:
    assert told(machine, "diff", FORGOTTEN, KEPT)
    assert told(machine, "stats")["epochs"][0]["packs"] > 0
    assert told(machine, "check", "--read-data")


def use_what_keeps(machine: Machine) -> None:
    machine.run("tag", machine.url, KEPT, "locked")
    machine.run("forget", machine.url, "--keep-last", "1", "--dry-run")
    machine.run("delete", machine.url, FORGOTTEN)
    assert told(machine, "prune", "--grace", "0s")["deleted_packs"] > 0


def use_what_repairs(machine: Machine) -> None:
    machine.run("repair", "index")


def use_what_changes_keys(machine: Machine, tmp_path: Path) -> None:
    assert [slot["kind"] for slot in told(machine, "key", "list")] == ["kms"]
    machine.run("key", "add", "--recovery", "--label", "safe")
    machine.run("key", "rotate", "--remove", "safe")
    assert told(machine, "prune", "--rewrap", "--grace", "0s")["rewrapped_packs"] > 0
    machine.run("key", "export", "--output", str(tmp_path / "keys"))
    machine.run("key", "import", "--input", str(tmp_path / "keys"))
