"""A proxy in front of a real S3 server that does to requests what bad networks and servers do."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from tests.servers import Server

FaultName = Literal[
    "500",
    "503",
    "429",
    "403",
    "no bucket",
    "expired",
    "skewed",
    "quota",
    "reset before",
    "reset during",
    "answer lost",
    "truncated",
    "error in 200",
    "unsaid",
    "late",
    "jitter",
    "slow",
    "drops",
    "stalled",
]

_ERRORS: dict[str, tuple[int, str]] = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "429": (429, "TooManyRequests"),
    "403": (403, "AccessDenied"),
    "no bucket": (404, "NoSuchBucket"),
    "expired": (400, "ExpiredToken"),
    "skewed": (403, "RequestTimeTooSkewed"),
    "quota": (403, "QuotaExceeded"),
    "error in 200": (200, "InternalError"),
}

LATE_S = 0.15
SLOW_S = 0.02
"""A pause before each of many pieces of a slow answer."""

JITTER_S = (0.03, 0.3)
DROP_S = 0.2
"""A pause before each byte of an answer that comes by drops, for the first of them."""

STALLED_S = 600.0
_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request as a script sees it."""

    method: str
    path: str
    authorization: str = ""
    is_copy: bool = False
    may_only_create: bool = False
    """It has the condition that there is no such object."""

    @property
    def is_complete(self) -> bool:
        """Whether it completes a multipart upload."""
        return self.method == "POST" and "uploadId=" in self.path


@dataclass
class Proxy:
    """A running proxy; `script` says what happens to a request, None that nothing does."""

    server: Server
    script: Callable[[Incoming], FaultName | None] = field(default=lambda _: None)
    counts: Counter[str] = field(default_factory=Counter)
    jitter: random.Random = field(default_factory=lambda: random.Random(1))
    released: threading.Event = field(default_factory=threading.Event)
    """Ends what is stalled."""

    def choose(self, incoming: Incoming) -> FaultName | None:
        name = self.script(incoming)
        can_fail_in_200 = incoming.is_complete or incoming.is_copy
        if name in ("error in 200", "unsaid") and not can_fail_in_200:
            return None
        self.counts[name or ""] += 1
        return name


@contextmanager
def proxy_for(server: Server) -> Iterator[Proxy]:
    """Run a proxy before a server; its `server` has the environment that leads to the proxy."""
    target = server.endpoint.removeprefix("http://")

    class Handler(_Handler):
        upstream = target

    with _Listener(("127.0.0.1", 0), Handler) as listener:
        endpoint = f"http://127.0.0.1:{listener.server_address[1]}"
        proxy = Proxy(replace(server, endpoint=endpoint))
        Handler.proxy = proxy
        thread = threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.released.set()
            listener.shutdown()
            thread.join(10)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: connections break here on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy
    upstream: str

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._serve()

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET

    def _serve(self) -> None:
        try:
            self._carry_out(self.proxy.choose(self._incoming()))
        except OSError:
            self.close_connection = True

    def _incoming(self) -> Incoming:
        authorization = self.headers.get("Authorization") or ""
        return Incoming(
            self.command,
            self.path,
            authorization,
            is_copy="x-amz-copy-source" in self.headers,
            may_only_create=self.headers.get("If-None-Match") == "*",
        )

    def _carry_out(self, fault: FaultName | None) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        match fault:
            case "reset before":
                self._reset()
                return
            case "reset during":
                self.rfile.read(length // 2)
                self._reset()
                return
            case "late":
                time.sleep(LATE_S)
            case "jitter":
                time.sleep(self.proxy.jitter.uniform(*JITTER_S))
            case "stalled":
                self.proxy.released.wait(STALLED_S)
        body = self.rfile.read(length)
        if fault in _ERRORS:
            self._refuse(*_ERRORS[fault])
            return
        if fault == "unsaid":
            self._send_xml(200, "<CopyObjectResult></CopyObjectResult>")
            return
        status, headers, data = self._forward(body)
        if fault == "answer lost":
            self._reset()
            return
        self._answer(status, headers, data, fault)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.upstream, timeout=60)
        try:
            # Host stays as it is: it is signed.
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in (*_HOP_BY_HOP, "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(
        self, status: int, headers: list[tuple[str, str]], data: bytes, fault: FaultName | None
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in (*_HOP_BY_HOP, "content-length"):
                self.send_header(name, value)
        claimed = {name.lower(): value for name, value in headers}.get("content-length")
        self.send_header("Content-Length", str(len(data)) if data else claimed or "0")
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "truncated" and data:
            self.wfile.write(data[: len(data) // 2])
            self._reset()
        elif fault == "slow":
            self._trickle(data)
        elif fault == "drops":
            self._drip(data)
        else:
            self.wfile.write(data)

    def _trickle(self, data: bytes) -> None:
        step = max(1, len(data) // 20)
        for start in range(0, len(data), step):
            time.sleep(SLOW_S)
            self.wfile.write(data[start : start + step])

    def _drip(self, data: bytes) -> None:
        first = min(len(data), 10)
        for number in range(first):
            time.sleep(DROP_S)
            self.wfile.write(data[number : number + 1])
        self.wfile.write(data[first:])

    def _refuse(self, status: int, code: str) -> None:
        self._send_xml(status, f"<Error><Code>{code}</Code><Message>scripted</Message></Error>")

    def _send_xml(self, status: int, xml: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(xml)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(xml.encode())

    def _reset(self) -> None:
        """Let the kernel send RST instead of an orderly end."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True
