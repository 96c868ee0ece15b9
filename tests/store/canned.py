"""A tiny HTTP server that answers with prepared bytes, right or broken."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO


def answer(status: str, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    """Write an HTTP answer; `length` is what it claims, if that is not the truth."""
    claimed = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {claimed}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def error_answer(status: str, code: str, message: str = "told so") -> bytes:
    """Write an error as S3 does."""
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return answer(status, text.encode(), "Content-Type: application/xml")


@dataclass
class Canned:
    """The server's address and the first lines of the requests that it took."""

    endpoint: str
    requests: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)


@contextmanager
def canned_server(*answers: bytes) -> Iterator[Canned]:
    """Give one answer to each connection, in order, then close it; refuse those after the last."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        canned = Canned(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=_serve, args=(listener, answers, canned), daemon=True)
        thread.start()
        try:
            yield canned
        finally:
            # Wakes the thread if it still waits for a connection.
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def _serve(listener: socket.socket, answers: tuple[bytes, ...], canned: Canned) -> None:
    for prepared in answers:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, connection.makefile("rb") as incoming:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = incoming.readline()
                if not line:
                    break
                head += line
            text = head.decode("latin-1")
            canned.heads.append(text)
            canned.requests.append(text.split(" HTTP/")[0])
            _skip_body(connection, incoming, text)
            connection.sendall(prepared)


def _skip_body(connection: socket.socket, incoming: IO[bytes], head: str) -> None:
    fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    if fields.get("expect") == "100-continue":
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = int(fields.get("content-length", "0"))
    if length:
        incoming.read(length)
