"""Where the mount process says what happens: standard error, a file, or syslog."""

from __future__ import annotations

import logging
import logging.handlers
import os
import re
import sys
from pathlib import Path

from s3backfs.config import MountConfig, make_private_dir
from s3backfs.errors import ConfigurationError

_LOG_BYTES = 10 << 20
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_BARE_FORMAT = "s3backfs: %(levelname)s %(name)s: %(message)s"


_SELDOM_S = 60.0


class _Seldom(logging.Filter):
    """Let what is repeated ten times a second through once a minute, without its traceback."""

    def __init__(self) -> None:
        super().__init__()
        self._last_s = -_SELDOM_S

    def filter(self, record: logging.LogRecord) -> bool:
        if record.created - self._last_s < _SELDOM_S:
            return False
        self._last_s, record.exc_info = record.created, None
        return True


def log_path(config: MountConfig) -> Path:
    """Name the log file of a mount: made of its mount point unless one was given."""
    if config.log_file is not None:
        return config.log_file
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", str(config.mountpoint)).strip("-") or "root"
    return config.state_dir / "log" / f"{name[:200]}.log"


def start_logging(config: MountConfig) -> None:
    """Send this process's log where the configuration says.

    Raises:
        ConfigurationError: the log cannot be opened.
    """
    try:
        handler, text = _handler(config)
    except OSError as error:
        raise ConfigurationError(f"cannot write the log: {error}") from error
    handler.setFormatter(logging.Formatter(text))
    logging.basicConfig(level=config.log_level.upper(), handlers=[handler], force=True)
    logging.getLogger("trio.serve_listeners").addFilter(_Seldom())
    # Libraries below us say at INFO what is of no use to the reader of this log.
    for library in ("boto3", "botocore", "urllib3", "s3transfer"):
        logging.getLogger(library).setLevel(logging.WARNING)


def _handler(config: MountConfig) -> tuple[logging.Handler, str]:
    if config.log_to_syslog:
        return logging.handlers.SysLogHandler("/dev/log"), _BARE_FORMAT
    if config.foreground and config.log_file is None:
        # The journal adds the time itself.
        return logging.StreamHandler(sys.stderr), (
            _BARE_FORMAT if "JOURNAL_STREAM" in os.environ else _FORMAT
        )
    path = log_path(config)
    if config.log_file is None:
        make_private_dir(make_private_dir(config.state_dir) / "log")
    return logging.handlers.RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=2), _FORMAT
