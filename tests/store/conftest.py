"""Servers that live as long as the test session, and the stores on them."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3backfs.store.base import Store
from s3backfs.store.local import LocalStore
from s3backfs.store.memory import MemoryStore
from s3backfs.store.s3 import S3Settings, S3Store
from tests.ceph import Ceph
from tests.servers import ACCESS_KEY, SECRET_KEY, Server, moto_server, rclone_server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with rclone_server(tmp_path_factory.mktemp("rclone") / "data") as server:
        yield server


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with moto_server(tmp_path_factory.mktemp("moto") / "log") as server:
        yield server


def use(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let boto3 find this server, and nothing of the person who runs the tests."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def external() -> Server:
    """The server that TEST_S3_ENDPOINT names, which runs already and takes the usual keys."""
    # Nobody ends it from here.
    process = subprocess.Popen(["true"])
    process.wait()
    return Server(os.environ["TEST_S3_ENDPOINT"], ACCESS_KEY, SECRET_KEY, process)


_KINDS = ["memory", "local", "rclone", "moto"]
_FURTHER = {"TEST_S3_ENDPOINT": "external", "TEST_CEPH": "gateway", "TEST_LOCALSTACK": "localstack"}


@pytest.fixture(scope="session")
def gateway(ceph: Ceph) -> Server:
    """The gateway of Ceph."""
    return ceph.server


@pytest.fixture(params=[*_KINDS, *(kind for name, kind in _FURTHER.items() if name in os.environ)])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """An empty store of each kind."""
    match request.param:
        case "memory":
            yield MemoryStore()
        case "local":
            yield LocalStore(tmp_path)
        case name:
            server: Server = request.getfixturevalue(name)
            use(server, monkeypatch)
            bucket = server.make_bucket(f"contract-{uuid.uuid4().hex}")
            yield S3Store(S3Settings(bucket, "a/prefix"))
