"""What the mount process tells the service manager and the log."""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3backfs.cli.logs import log_path, start_logging
from s3backfs.config import MountConfig
from s3backfs.errors import ConfigurationError
from s3backfs.service import notify_service


@pytest.fixture
def config(tmp_path: Path) -> MountConfig:
    state_dir = tmp_path / "state"
    return MountConfig("file:///r", Path("/mnt/my backups"), tmp_path, state_dir, tmp_path)


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """Give the root logger, and leave it afterwards as it was."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    logger.handlers.clear()
    yield logger
    for handler in logger.handlers:
        handler.close()
    logger.handlers[:] = handlers
    logger.setLevel(level)


def test_ready_reaches_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state goes as one datagram to the socket that NOTIFY_SOCKET names."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify_service("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_no_service_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of systemd nothing happens."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify_service("READY=1")


def test_log_file(config: MountConfig, root_logger: logging.Logger) -> None:
    """The log lies in the private state directory and is named after the mount point."""
    start_logging(config)
    logging.getLogger("s3backfs.test").info("hello")
    path = log_path(config)
    assert path == config.state_dir / "log" / "mnt-my-backups.log"
    assert path.read_text().endswith("INFO s3backfs.test: hello\n")
    assert stat.S_IMODE(os.stat(config.state_dir).st_mode) == 0o700


def test_log_that_cannot_be_written(tmp_path: Path, root_logger: logging.Logger) -> None:
    """A log file that cannot be opened is a configuration error, not a traceback."""
    missing = tmp_path / "missing" / "log"
    config = MountConfig("file:///r", tmp_path, tmp_path, tmp_path, tmp_path, log_file=missing)
    with pytest.raises(ConfigurationError, match="cannot write the log"):
        start_logging(config)
