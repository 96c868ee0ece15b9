"""A proxy that counts requests and bytes by kind, and delays each request.

Runs as a process of its own: `python -m tests.bench.proxy PORT UPSTREAM_PORT DELAY_MS`.
`GET /.bench` answers with the counts as JSON and starts them anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import Counter
from dataclasses import dataclass, field

COUNTS_PATH = "/.bench"
_PIECE_BYTES = 256 * 1024
_BODILESS = (204, 304)


@dataclass(slots=True)
class Counts:
    """What passed since the last question."""

    requests: Counter[str] = field(default_factory=Counter)
    up_bytes: int = 0
    down_bytes: int = 0

    def take(self) -> bytes:
        """Return the counts as JSON, and begin anew."""
        taken = {
            "requests": dict(self.requests),
            "up_bytes": self.up_bytes,
            "down_bytes": self.down_bytes,
        }
        self.requests, self.up_bytes, self.down_bytes = Counter(), 0, 0
        return json.dumps(taken).encode()


@dataclass(frozen=True, slots=True)
class Head:
    """The first line and the fields of a message; `raw` is what came."""

    line: str
    fields: dict[str, str]
    raw: bytes

    @property
    def body_bytes(self) -> int:
        return int(self.fields.get("content-length", "0"))

    @property
    def is_chunked(self) -> bool:
        return "chunked" in self.fields.get("transfer-encoding", "").lower()


def kind_of(method: str, target: str) -> str:
    """Name a request as a bill does."""
    path, _, query = target.partition("?")
    if method == "PUT" and "partNumber=" in query:
        return "UploadPart"
    if method == "POST":
        if "uploadId=" in query:
            return "Complete"
        return "DeleteMany" if "delete" in query else "Create"
    if method == "GET" and (path.count("/") < 2 or "list-type=" in query or "prefix=" in query):
        return "LIST"
    return method


async def read_head(reader: asyncio.StreamReader) -> Head:
    """Read up to the empty line."""
    raw = await reader.readuntil(b"\r\n\r\n")
    line, *rows = raw.decode("latin-1").split("\r\n")
    pairs = (row.partition(":") for row in rows if row)
    return Head(line, {name.lower(): value.strip() for name, _, value in pairs}, raw)


async def copy_body(
    head: Head, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, until_end: bool
) -> int:
    """Pass a body on, and return its length; `until_end` where no field says how long it is."""
    if head.is_chunked:
        return await _copy_chunks(source, target)
    if until_end and "content-length" not in head.fields:
        return await _copy_to_end(source, target)
    return await _copy_bytes(head.body_bytes, source, target)


async def _copy_bytes(
    length: int, source: asyncio.StreamReader, target: asyncio.StreamWriter
) -> int:
    left = length
    while left:
        piece = await source.read(min(left, _PIECE_BYTES))
        if not piece:
            raise ConnectionError("a body ended early")
        target.write(piece)
        await target.drain()
        left -= len(piece)
    return length


async def _copy_to_end(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> int:
    length = 0
    while piece := await source.read(_PIECE_BYTES):
        length += len(piece)
        target.write(piece)
        await target.drain()
    return length


async def _copy_chunks(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> int:
    length = 0
    while True:
        line = await source.readline()
        target.write(line)
        size = int(line.split(b";")[0], 16)
        await _copy_bytes(size + 2, source, target)
        if not size:
            return length
        length += size


class Proxy:
    """Takes connections, and opens one to the server for each."""

    def __init__(self, upstream_port: int, delay_s: float) -> None:
        self._upstream_port = upstream_port
        self._delay_s = delay_s
        self.counts = Counts()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry out the requests of one connection until somebody closes it."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            up_reader, up_writer = await asyncio.open_connection(
                "127.0.0.1", self._upstream_port, limit=_PIECE_BYTES
            )
            with contextlib.closing(up_writer):
                while await self._exchange(reader, writer, up_reader, up_writer):
                    pass
        writer.close()

    async def _exchange(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> bool:
        request = await read_head(reader)
        method, target, _ = request.line.split(" ", 2)
        if target == COUNTS_PATH:
            self._tell(writer)
            return False
        self.counts.requests[kind_of(method, target)] += 1
        await self._send_request(request, reader, writer, up_writer)
        answer = await read_head(up_reader)
        writer.write(answer.raw)
        status = int(answer.line.split(" ")[1])
        if method != "HEAD" and status not in _BODILESS:
            length = await copy_body(answer, up_reader, writer, until_end=True)
            # Not in one line: `+=` reads the sum before it awaits, and loses what others add.
            self.counts.down_bytes += length
        await writer.drain()
        return "close" not in answer.fields.get("connection", "")

    async def _send_request(
        self,
        request: Head,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        raw = request.raw
        if "expect" in request.fields:
            # Answered here, else the body and the server's first answer would cross.
            rows = raw.split(b"\r\n")
            raw = b"\r\n".join(row for row in rows if not row.lower().startswith(b"expect:"))
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        up_writer.write(raw)
        length = await copy_body(request, reader, up_writer, until_end=False)
        self.counts.up_bytes += length
        await up_writer.drain()

    def _tell(self, writer: asyncio.StreamWriter) -> None:
        data = self.counts.take()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(data), data))


async def main(port: int, upstream_port: int, delay_ms: float) -> None:
    """Serve until killed."""
    proxy = Proxy(upstream_port, delay_ms / 1000)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", port, limit=_PIECE_BYTES)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
