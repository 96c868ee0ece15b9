"""Fixtures that every test may use."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.ceph import Ceph, missing_programs, running_ceph
from tests.servers import Server, localstack_server

# A shell ignores Ctrl-C for what it starts in the background, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on trio, the loop the product runs on."""
    return "trio"


@pytest.fixture(scope="session")
def localstack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """LocalStack, by the Python of its own environment."""
    if "TEST_LOCALSTACK" not in os.environ:
        pytest.skip("LocalStack is for `make test-localstack`")
    home = tmp_path_factory.mktemp("localstack") / "data"
    with localstack_server(os.environ["TEST_LOCALSTACK"], home) as running:
        yield running


@pytest.fixture(scope="session")
def ceph() -> Iterator[Ceph]:
    """A Ceph for the whole session; its start is too long for every run of the tests."""
    if "TEST_CEPH" not in os.environ:
        pytest.skip("Ceph is for `make test-ceph`")
    missing = missing_programs()
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    with running_ceph() as running:
        yield running
