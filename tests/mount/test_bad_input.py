"""What cannot be mounted is refused in one line, soon, and changes nothing in the bucket."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.mounts import Machine
from tests.servers import Server, free_port

pytestmark = pytest.mark.mount


def objects(server: Server, url: str) -> dict[str, str]:
    """Every object of a bucket with its hash."""
    client = server.client()
    bucket = url.removeprefix("s3://").partition("/")[0]
    listed = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    client.close()
    return {row["Key"]: row["ETag"] for row in listed}


def refusal(machine: Machine, verb: str, *options: str) -> tuple[int, str]:
    """Run a verb that must fail in one line; the exit code and the line."""
    mountpoint = machine.home / "mnt"
    mountpoint.mkdir(exist_ok=True)
    places = [machine.url, str(mountpoint)] if verb == "mount" else [machine.url]
    done = machine.run(verb, *options, *places, check=False)
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert str(mountpoint) not in Path("/proc/self/mountinfo").read_text()
    return done.returncode, done.stderr


@pytest.mark.parametrize("verb", ["mount", "list", "init"])
@pytest.mark.parametrize(
    ("variables", "exit_code", "text"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, 34, "check the access key"),
        ({"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}, 36, "cannot connect"),
        ({"AWS_PROFILE": "nobody"}, 2, "nobody"),
    ],
    ids=["credentials", "down", "profile"],
)
def test_unusable_servers(
    verb: str,
    variables: Mapping[str, str],
    exit_code: int,
    text: str,
    machine: Machine,
    server: Server,
) -> None:
    """Refused credentials, a server that is down, an unknown profile: each has its exit code."""
    before = objects(server, machine.url)
    machine.environment = {**machine.environment, **variables}
    code, line = refusal(machine, verb)
    assert code == exit_code
    assert text in line
    assert objects(server, machine.url) == before


@pytest.mark.parametrize("verb", ["mount", "list"])
def test_unusable_places(verb: str, machine: Machine, server: Server) -> None:
    """A missing bucket and a prefix with foreign objects are told apart."""
    missing = dataclasses.replace(machine, url="s3://nobodys-bucket/prefix")
    code, line = refusal(missing, verb)
    assert code == 33
    assert "nobodys-bucket" in line
    bucket = machine.url.removeprefix("s3://").partition("/")[0]
    client = server.client()
    client.put_object(Bucket=bucket, Key="foreign/photo.jpg", Body=b"jpg")
    client.close()
    before = objects(server, machine.url)
    foreign = dataclasses.replace(machine, url=f"s3://{bucket}/foreign")
    code, line = refusal(foreign, verb)
    assert code == 11
    assert "init" in line
    code, line = refusal(foreign, "init")
    assert code == 12
    assert "photo.jpg" in line
    assert objects(server, machine.url) == before


def test_a_wrong_passphrase(machine: Machine, server: Server) -> None:
    """A wrong passphrase has an exit code of its own, for each verb."""
    before = objects(server, machine.url)
    wrong = dataclasses.replace(machine, passphrase="wrong")
    for verb in ("mount", "list"):
        code, line = refusal(wrong, verb)
        assert code == 13
        assert "passphrase is wrong" in line
    assert objects(server, machine.url) == before


def test_a_server_that_does_not_answer(machine: Machine, server: Server) -> None:
    """A server that takes connections and stays silent is given up before the read timeout."""
    with server.paused():
        code, line = refusal(machine, "mount")
    assert code == 36
    assert f"{machine.url}: no answer for 15 s" in line


def test_foreign_objects_within(machine: Machine, server: Server) -> None:
    """Objects that are none of a repository's are left alone and named once in the log."""
    bucket, _, prefix = machine.url.removeprefix("s3://").partition("/")
    keys = [f"{prefix}/{key}" for key in ("open/x", "backups/x", "data/x", "index/x", "keys/x")]
    client = server.client()
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=b"foreign")
    client.close()
    with machine.mounted() as mount:
        for name in ("monday", "tuesday"):
            (mount.path / name).mkdir()
    assert machine.log().count("open/x is not a root") == 1
    after = objects(server, machine.url)
    assert all(key in after for key in keys)
