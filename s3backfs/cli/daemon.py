"""Go to the background, while the command waits until the mount answers.

The two processes talk over a socket pair, JSON, one object a line. Background to foreground:
{"pid"}, {"ask": "passphrase"}, {"note"}, {"ready"}, {"error", "exit_code"}; back: {"passphrase"} in
hex, or {"error", "exit_code"}. The foreground keeps the terminal, so only it can ask there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from s3backfs.cli.failures import BUG_EXIT_CODE, explain
from s3backfs.cli.terminal import note
from s3backfs.config import Secret
from s3backfs.control import RemoteError
from s3backfs.errors import S3backfsError

logger = logging.getLogger(__name__)


class Link:
    """The background's end of the socket pair."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        self.is_ready = False

    def tell(self, **message: Any) -> None:
        """Send one message; a foreground that is gone does not matter."""
        with contextlib.suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def ready(self, warnings: Sequence[str] = ()) -> None:
        """Let the command return 0, with warnings; from now on failures go to the log alone."""
        self.is_ready = True
        for text in warnings:
            self.tell(note=text)
        self.tell(ready=True)
        self._lines.close()
        self._connection.close()

    def ask_passphrase(self) -> bytes:
        """Have the foreground ask on its terminal.

        Raises:
            RemoteError: it could not, or is gone.
        """
        self.tell(ask="passphrase")
        with contextlib.suppress(ConnectionError):
            line = self._lines.readline()
            if line:
                answer = json.loads(line)
                if "passphrase" in answer:
                    return bytes.fromhex(answer["passphrase"])
                raise RemoteError(answer["error"], answer["exit_code"])
        raise RemoteError("the command that asked for the mount is gone", 1)


def launch(work: Callable[[Link], int], ask: Callable[[], Secret], log: Path | None) -> int:
    """Run `work` in the background; return 0 as soon as it says that it is ready.

    `work` starts in a session of its own, in `/`, without a terminal. `log` is named in errors.

    Raises:
        RemoteError: `work` failed before it was ready, with its text and exit code.
    """
    ours, theirs = socket.socketpair()
    # A Ctrl-C waits until the process that it has to reach is known.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    first = os.fork()
    if first == 0:
        ours.close()
        _go_to_background(work, theirs, before)
    theirs.close()
    os.waitpid(first, 0)
    with ours:
        return _await_ready(ours, ask, log, before)


def _go_to_background(
    work: Callable[[Link], int], connection: socket.socket, mask: set[int | signal.Signals]
) -> NoReturn:
    code = 1
    try:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.chdir("/")
        os.umask(0o077)
        _detach_stdio()
        code = _work_to_the_end(work, Link(connection))
    finally:
        # Nothing of the foreground's clean-up may run twice.
        logging.shutdown()
        os._exit(code)


def _detach_stdio() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    if nowhere > 2:
        os.close(nowhere)


def _work_to_the_end(work: Callable[[Link], int], link: Link) -> int:
    link.tell(pid=os.getpid())
    try:
        return work(link)
    except BaseException as error:  # the last stop of this process
        failure = explain(error)
        is_bug = failure.exit_code == BUG_EXIT_CODE
        logger.error("%s", failure.text, exc_info=error if is_bug else None)
        if not link.is_ready:
            link.tell(error=failure.text, exit_code=failure.exit_code)
        return failure.exit_code


def _await_ready(
    connection: socket.socket,
    ask: Callable[[], Secret],
    log: Path | None,
    mask: set[int | signal.Signals],
) -> int:
    pid = 0
    with connection.makefile("rb") as lines, contextlib.suppress(ConnectionError):
        try:
            try:
                pid = json.loads(lines.readline() or "{}").get("pid", 0)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for line in lines:
                message = json.loads(line)
                if "note" in message:
                    note(message["note"])
                if "ready" in message:
                    return 0
                if "error" in message:
                    raise RemoteError(message["error"], message["exit_code"])
                if "ask" in message:
                    connection.sendall(_answer_with(ask))
        except KeyboardInterrupt:
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            raise
    where = f"; see {log}" if log is not None else ""
    raise RemoteError(f"the mount process ended before it was ready{where}", 1)


def _answer_with(ask: Callable[[], Secret]) -> bytes:
    try:
        answer: dict[str, Any] = {"passphrase": ask().reveal().hex()}
    except S3backfsError as error:
        answer = {"error": str(error), "exit_code": error.exit_code}
    return json.dumps(answer).encode() + b"\n"
