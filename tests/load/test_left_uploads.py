"""Multipart uploads that a killed mount has left are aborted by the next mount of that machine."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.load.long import only_long
from tests.mounts import TIMEOUT_S, Machine
from tests.servers import Server, moto_server, rclone_server

pytestmark = pytest.mark.mount


@pytest.fixture(params=["rclone", pytest.param("moto", marks=only_long)])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server of its own, of each kind."""
    make = moto_server() if request.param == "moto" else rclone_server(tmp_path / "data")
    with make as running:
        yield running


@pytest.fixture
def bucket(server: Server) -> str:
    return server.make_bucket(f"left-{uuid.uuid4().hex}")


@pytest.fixture
def machine(tmp_path: Path, server: Server, bucket: str) -> Machine:
    home = tmp_path / "m"
    home.mkdir()
    made = Machine(home, f"s3://{bucket}/prefix", server.environment)
    made.run("init")
    return made


def uploads(server: Server, bucket: str) -> set[str]:
    """The keys of all multipart uploads under way."""
    client = server.client()
    listed = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    client.close()
    return {upload["Key"] for upload in listed}


def until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_uploads_left_by_a_kill_are_aborted(machine: Machine, server: Server, bucket: str) -> None:
    """The next mount aborts what the killed one has left, and no upload of anybody else."""
    foreign = f"prefix/data/{uuid.uuid4().hex}"
    client = server.client()
    client.create_multipart_upload(Bucket=bucket, Key=foreign)
    client.close()
    with machine.mounted("--idle-checkpoint", "1h", "--max-checkpoint", "1h") as mount:
        (mount.path / "monday").mkdir()
        descriptor = os.open(mount.path / "monday" / "file", os.O_CREAT | os.O_WRONLY)
        os.write(descriptor, os.urandom(24 << 20))
        until(lambda: len(uploads(server, bucket)) == 2)
        mount.kill()
        with suppress(OSError):
            os.close(descriptor)
    (left,) = uploads(server, bucket) - {foreign}
    assert left.startswith("prefix/data/")
    with machine.mounted():
        until(lambda: uploads(server, bucket) == {foreign})
    with machine.mounted():
        until(lambda: len(list((machine.home / "state").rglob("uploads/*"))) == 1)
