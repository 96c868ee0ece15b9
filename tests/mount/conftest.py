"""Machines and repositories for tests on real mounts."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounts import Machine
from tests.servers import Server, rclone_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real S3 server, for the whole session."""
    with rclone_server(tmp_path_factory.mktemp("s3") / "data") as running:
        yield running


@pytest.fixture
def url(server: Server) -> str:
    """A bucket of its own with nothing in it, and a prefix."""
    return f"s3://{server.make_bucket(f'mount-{uuid.uuid4().hex}')}/some/prefix"


@pytest.fixture
def machine(tmp_path: Path, server: Server, url: str) -> Machine:
    """The machine that writes, with a new repository."""
    home = tmp_path / "first"
    home.mkdir()
    made = Machine(home, url, server.environment)
    made.run("init", url)
    return made


@pytest.fixture
def other(tmp_path: Path, machine: Machine) -> Machine:
    """A machine that has never seen the repository."""
    home = tmp_path / "other"
    home.mkdir()
    return Machine(home, machine.url, machine.environment)
