"""What `check` says by its exit code where it could not check; 130 is in `test_interrupting.py`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounts import Machine
from tests.proxy import FaultName, Incoming, Proxy
from tests.servers import free_port

pytestmark = pytest.mark.mount

FORMAT_AT = 4
"""Where a single object says its format, in clear."""


@pytest.fixture
def machine(proxy: Proxy, tmp_path: Path) -> Machine:
    """A machine behind the proxy, with a new repository."""
    url = f"s3://{proxy.server.make_bucket(f'codes-{uuid.uuid4().hex}')}/prefix"
    machine = Machine(tmp_path, url, proxy.server.environment)
    machine.run("init", url)
    return machine


def _check(machine: Machine) -> tuple[int, str]:
    done = machine.run("check", machine.url, check=False)
    assert "sound" not in done.stdout
    return done.returncode, done.stderr + done.stdout


def test_a_store_that_is_away(machine: Machine) -> None:
    """Nobody answers: 36, and the line says so."""
    nobody = f"http://127.0.0.1:{free_port()}"
    away = Machine(machine.home, machine.url, {**machine.environment, "AWS_ENDPOINT_URL": nobody})
    code, text = _check(away)
    assert (code, len(text.strip().splitlines())) == (36, 1), text


@pytest.mark.parametrize("prefix", ["data/", "backups/", "leases/"])
def test_a_listing_that_is_refused(prefix: str, machine: Machine, proxy: Proxy) -> None:
    """A listing that is denied anywhere is neither soundness nor damage: 34."""

    def deny(incoming: Incoming) -> FaultName | None:
        path = incoming.path.replace("%2F", "/")
        return "403" if "list-type=2" in path and f"/{prefix}" in path else None

    proxy.script = deny
    assert _check(machine)[0] == 34


def test_a_wrong_passphrase(machine: Machine) -> None:
    """Without the key nothing is known: 13."""
    other = Machine(machine.home, machine.url, machine.environment, "another one")
    assert _check(other)[0] == 13


def _store_newer(proxy: Proxy, url: str, part: str, change: Callable[[bytearray], None]) -> str:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    client = proxy.server.client()
    listed = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/{part}")["Contents"]
    key = str(listed[0]["Key"])
    data = bytearray(client.get_object(Bucket=bucket, Key=key)["Body"].read())
    change(data)
    client.put_object(Bucket=bucket, Key=key, Body=bytes(data))
    return key.removeprefix(f"{prefix}/")


def _raise_format(data: bytearray) -> None:
    data[FORMAT_AT] = 9


def _flip_last(data: bytearray) -> None:
    data[-1] ^= 1


def test_an_object_of_a_newer_format(machine: Machine, proxy: Proxy) -> None:
    """A root of a newer program: 14, and nobody is told just to delete it; with damage it is 20."""
    with machine.mounted() as mount:
        for name in ("one", "two"):
            (mount.path / name).mkdir()
            (mount.path / name / "file").write_bytes(b"content" * 1000)
    key = _store_newer(proxy, machine.url, "backups/", _raise_format)
    code, text = _check(machine)
    assert (code, f"unknown root: {key}" in text) == (14, True), text
    assert "remedy: check with a newer s3backfs" in text
    assert "of a newer format, not checked: 1" in text
    _store_newer(proxy, machine.url, "index/", _flip_last)
    done = machine.run("check", "--json", machine.url, check=False)
    assert done.returncode == 20
    found = {each["what"]: each["is_newer"] for each in json.loads(done.stdout)["damages"]}
    assert (found["root"], found["index"]) == (True, False)
