"""Credentials that end, change or are refused while a mount writes, and clocks that are wrong."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3.session
import pytest

from tests.mounts import Machine, Mount
from tests.proxy import FaultName, Incoming, Proxy, proxy_for
from tests.servers import Server, checking_moto_server, moto_server, start_checking

pytestmark = pytest.mark.mount

POLICY = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
    }
)


@pytest.fixture
def moto() -> Iterator[Server]:
    with moto_server() as running:
        yield running


@pytest.fixture
def proxy(moto: Server) -> Iterator[Proxy]:
    with proxy_for(moto) as running:
        yield running


def machine_at(home: Path, server: Server, source: str, bucket: str = "bucket") -> Machine:
    """A machine whose credentials come from a file, or from a program that reads that file."""
    home.mkdir()
    environment = {
        name: value for name, value in server.environment.items() if "ACCESS_KEY" not in name
    }
    if source == "properties":
        environment["S3BACKFS_CREDENTIALS_FILE"] = str(home / "credentials")
    elif source == "file":
        environment["AWS_SHARED_CREDENTIALS_FILE"] = str(home / "credentials")
    else:
        config = home / "config"
        config.write_text(f"[default]\ncredential_process = /bin/cat {home / 'credentials'}\n")
        environment["AWS_CONFIG_FILE"] = str(config)
    return Machine(home, f"s3://{bucket}/prefix", environment)


def give(machine: Machine, access_key: str, secret_key: str = "secret") -> None:
    """Replace the credentials of a machine, as who renews them does."""
    if "S3BACKFS_CREDENTIALS_FILE" in machine.environment:
        text = f"# keys\naccess_key = {access_key}\nsecret_key = {secret_key}\n"
    elif "AWS_CONFIG_FILE" in machine.environment and "/dev/null" not in str(
        machine.environment["AWS_CONFIG_FILE"]
    ):
        keys = {"Version": 1, "AccessKeyId": access_key, "SecretAccessKey": secret_key}
        text = json.dumps(keys)
    else:
        text = (
            f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n"
        )
    new = machine.home / "new"
    new.write_text(text)
    new.replace(machine.home / "credentials")


def await_status(mount: Mount, holds: Callable[[dict[str, object]], bool]) -> dict[str, object]:
    """Ask a mount for its status until something holds."""
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        status = json.loads((mount.path / ".s3backfs" / "status.json").read_text())
        if holds(status):
            found: dict[str, object] = status
            return found
        time.sleep(0.1)
    raise AssertionError(status)


def is_waiting(status: dict[str, object]) -> bool:
    return bool(status["waiting_since_ns"])


@pytest.mark.parametrize("source", ["file", "process", "properties"])
def test_a_session_that_expires(source: str, moto: Server, proxy: Proxy, tmp_path: Path) -> None:
    """Writers wait while credentials are expired, and go on with those that replace them."""
    moto.make_bucket("bucket")
    machine = machine_at(tmp_path / "m", proxy.server, source)
    give(machine, "AKIAOLD")
    machine.run("init")
    data = os.urandom(12 << 20)
    with machine.mounted() as mount:
        backup = mount.path / "monday"
        backup.mkdir()
        machine.run("sync", str(mount.path))
        proxy.script = lambda incoming: "expired" if "AKIAOLD" in incoming.authorization else None
        (backup / "file").write_bytes(data)
        sync = subprocess.Popen(["sync", str(backup / "file")])
        await_status(mount, is_waiting)
        assert sync.poll() is None
        give(machine, "AKIANEW")
        assert sync.wait(60) == 0
        await_status(mount, lambda status: not is_waiting(status))
    assert "those that are there now are tried" in machine.log()
    assert "secret" not in machine.log()
    with machine.mounted("-o", "ro") as mount:
        assert (mount.path / "monday" / "file").read_bytes() == data


def test_a_key_that_is_replaced(tmp_path: Path) -> None:
    """A key that was deleted after another one was put in its place is noticed by nobody."""
    with checking_moto_server() as server:
        server.make_bucket("bucket")
        session = boto3.session.Session(server.access_key, server.secret_key)
        iam = session.client("iam", endpoint_url=server.endpoint, region_name="us-east-1")
        iam.create_user(UserName="writer")
        iam.put_user_policy(UserName="writer", PolicyName="all", PolicyDocument=POLICY)
        old, new = (iam.create_access_key(UserName="writer")["AccessKey"] for _ in range(2))
        machine = machine_at(tmp_path / "m", server, "file")
        give(machine, old["AccessKeyId"], old["SecretAccessKey"])
        machine.run("init")
        with machine.mounted() as mount:
            (mount.path / "monday").mkdir()
            (mount.path / "monday" / "before").write_bytes(b"before")
            machine.run("sync", str(mount.path))
            give(machine, new["AccessKeyId"], new["SecretAccessKey"])
            iam.delete_access_key(UserName="writer", AccessKeyId=old["AccessKeyId"])
            iam.close()
            start_checking(server)
            (mount.path / "monday" / "after").write_bytes(b"after")
            machine.run("sync", str(mount.path))
        assert "those that are there now are tried" in machine.log()
        with machine.mounted("-o", "ro") as mount:
            assert (mount.path / "monday" / "after").read_bytes() == b"after"


def test_a_clock_that_is_wrong(moto: Server, proxy: Proxy, tmp_path: Path) -> None:
    """A wrong clock is one line from a command; a mount that was served waits until it is right."""
    moto.make_bucket("bucket")
    machine = machine_at(tmp_path / "m", proxy.server, "file")
    give(machine, "AKIAOLD")
    machine.run("init")
    proxy.script = lambda _: "skewed"
    done = machine.run("list", check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (34, "", 1)
    assert "set this machine's clock right" in done.stderr
    proxy.script = lambda _: None
    with machine.mounted() as mount:
        (mount.path / "monday").mkdir()
        machine.run("sync", str(mount.path))
        proxy.script = lambda _: "skewed"
        (mount.path / "monday" / "file").write_bytes(b"data")
        sync = subprocess.Popen(["sync", str(mount.path / "monday")])
        await_status(mount, is_waiting)
        status = machine.run("status", str(mount.path))
        assert "set this machine's clock right" in status.stdout
        proxy.script = lambda _: None
        assert sync.wait(60) == 0


REFUSALS: list[tuple[FaultName, int]] = [
    ("403", errno.EACCES),
    ("no bucket", errno.EIO),
    ("quota", errno.ENOSPC),
]


@pytest.mark.parametrize(("fault", "code"), REFUSALS, ids=[name for name, _ in REFUSALS])
def test_a_refusal_in_mid_run(
    fault: FaultName, code: int, moto: Server, proxy: Proxy, tmp_path: Path
) -> None:
    """What refuses while a tree is written is told once to each handle, by status, and by umount.

    All names stay, what is in memory reads, and when the cause is gone nothing else was lost.
    """
    moto.make_bucket("bucket")
    machine = machine_at(tmp_path / "m", proxy.server, "file")
    give(machine, "AKIAOLD")
    machine.run("init")
    refused: list[Incoming] = []

    def script(incoming: Incoming) -> FaultName | None:
        # What stands in a full bucket can still be read.
        if fault == "quota" and incoming.method in ("GET", "HEAD"):
            return None
        refused.append(incoming)
        return fault

    # Otherwise a checkpoint of its own could fail once more in between.
    with machine.mounted("--idle-checkpoint", "300") as mount:
        backup = mount.path / "monday"
        (backup / "directory").mkdir(parents=True)
        (backup / "directory" / "before").write_bytes(b"before")
        machine.run("sync", str(mount.path))
        proxy.script = script
        one, two = (os.open(backup / name, os.O_WRONLY | os.O_CREAT) for name in ("one", "two"))
        os.write(two, b"two")
        os.write(one, b"one")
        with pytest.raises(OSError, match=os.strerror(code)):
            os.fsync(one)
        with pytest.raises(OSError, match=os.strerror(code)):
            os.write(two, b"refused")
        for descriptor in (one, two):
            # This handle was told, and what it writes is kept in memory.
            os.write(descriptor, b" and more")
            os.close(descriptor)
        assert refused
        assert sorted(os.listdir(backup)) == ["directory", "one", "two"]
        assert (backup / "one").read_bytes() == b"one and more"
        assert (backup / "directory" / "before").read_bytes() == b"before"
        assert await_status(mount, lambda status: bool(status["last_error"]))
        assert mount.umount(check=False).returncode != 0
        assert sorted(os.listdir(backup)) == ["directory", "one", "two"]
        proxy.script = lambda _: None
        (backup / "three").write_bytes(b"three")
        # One write was refused, so the backup stays open.
        assert mount.umount(check=False).returncode == 1
    with machine.mounted("-o", "ro") as mount:
        assert sorted(os.listdir(mount.path / "monday")) == ["directory", "one", "three", "two"]
        assert (mount.path / "monday" / "one").read_bytes() == b"one and more"


def test_a_large_write_that_was_refused(moto: Server, proxy: Proxy, tmp_path: Path) -> None:
    """A full bucket ends a copy with ENOSPC; with room again the mount recovers by itself."""
    moto.make_bucket("bucket")
    machine = machine_at(tmp_path / "m", proxy.server, "file")
    give(machine, "AKIAOLD")
    machine.run("init")
    data = os.urandom(70 << 20)
    with machine.mounted("--memory", "64MiB", "--idle-checkpoint", "1") as mount:
        backup = mount.path / "monday"
        backup.mkdir()
        machine.run("sync", str(mount.path))
        proxy.script = lambda incoming: "quota" if incoming.method in ("PUT", "POST") else None
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            (backup / "large").write_bytes(data)
        await_status(mount, lambda status: "is full" in str(status["last_error"]))
        proxy.script = lambda _: None
        await_status(mount, lambda status: not status["last_error"])
        (backup / "large").write_bytes(data)
        machine.run("seal", "--force", str(backup))
    with machine.mounted("-o", "ro") as mount:
        assert (mount.path / "monday" / "large").read_bytes() == data
