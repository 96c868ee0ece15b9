"""The channel between the command line and the mount process: one unix socket for each mount.

A conversation is one request and its answers, JSON, one object a line:

    -> {"verb": "umount", "args": {...}}
    <- {"progress": "text"}                                  any number of times
    <- {"ok": true, "result": {...}}
     | {"ok": false, "error": "text", "exit_code": N}        and the socket is closed

Names of backups are bytes; they travel as UTF-8 with surrogate escapes (`wire_name`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import select
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from s3backfs.config import make_private_dir, runtime_dirs_of
from s3backfs.errors import ConfigurationError, MountpointError, NotMountedError, S3backfsError

if TYPE_CHECKING:
    import trio

logger = logging.getLogger(__name__)

JsonObject: TypeAlias = dict[str, Any]
Progress: TypeAlias = Callable[[str], Awaitable[None]]
Handler: TypeAlias = Callable[[str, JsonObject, Progress], Awaitable[JsonObject]]
"""`async (verb, args, progress) -> result`; an S3backfsError becomes the client's error."""

MAX_LINE_BYTES = 1 << 20
SOCKET_PATH_MAX_BYTES = 107  # struct sockaddr_un
_GRACE_S = 5.0
"""How long a request that is under way may go on after the server was cancelled."""
_UNEXPECTED_EXIT_CODE = 70
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class RemoteError(S3backfsError):
    """The mount process answered with an error; text and exit code are its own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# -- names and places ------------------------------------------------------------------------


def wire_name(name: bytes) -> str:
    """Write a name of any bytes as JSON text."""
    return name.decode("utf-8", "surrogateescape")


def name_of_wire(text: str) -> bytes:
    """Read what `wire_name` wrote."""
    return text.encode("utf-8", "surrogateescape")


def canonical_mountpoint(mountpoint: Path) -> Path:
    """Resolve symbolic links without asking the file system that is mounted there.

    A dead or hanging mount must not keep `umount` and `mount` from naming it.
    """
    absolute = Path(os.path.abspath(mountpoint))
    with contextlib.suppress(OSError):
        target = os.readlink(absolute)
        absolute = Path(os.path.abspath(absolute.parent / target))
    return Path(os.path.realpath(absolute.parent)) / absolute.name


def socket_path(mountpoint: Path, runtime_dir: Path) -> Path:
    """Say which socket belongs to a mount point.

    Raises:
        ConfigurationError: the directory's path is too long for a socket.
    """
    canonical = os.fsencode(canonical_mountpoint(mountpoint))
    path = runtime_dir / f"{hashlib.sha256(canonical).hexdigest()[:24]}.sock"
    if len(os.fsencode(path)) > SOCKET_PATH_MAX_BYTES:
        raise ConfigurationError(
            f"{runtime_dir} is too long a path for a socket; set XDG_RUNTIME_DIR to a shorter one"
        )
    return path


# -- the mount process's side ----------------------------------------------------------------


async def serve_control(
    path: Path,
    handler: Handler,
    task_status: trio.TaskStatus[None] | None = None,
) -> None:
    """Answer requests until cancelled, each in a task of its own.

    Requests under way when this is cancelled may go on for some seconds, so that a handler may
    end the program and still answer. A client that goes away does not stop its request.

    Raises:
        MountpointError: another process serves this socket already.
    """
    import trio  # the command line must start without it

    listening = _listen(path)
    identity = _identity(path)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))

    async def converse(stream: trio.SocketStream) -> None:
        await _converse(stream, handler)

    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, converse, [listener])
            if task_status is not None:
                task_status.started()
    finally:
        # The next process for this mount point may have put its own socket here already.
        if _identity(path) == identity:
            os.unlink(path)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


def _listen(path: Path) -> socket.socket:
    make_private_dir(path.parent)
    if _answers(path):
        raise MountpointError(f"{path}: another s3backfs process serves this mount point")
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(os.fsencode(path))
        path.chmod(0o600)
        listening.listen(16)
    except OSError as error:
        listening.close()
        raise MountpointError(f"cannot listen on {path}: {error}") from error
    return listening


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as attempt:
        try:
            attempt.connect(os.fsencode(path))
        except OSError:
            return False
    return True


async def _converse(stream: trio.SocketStream, handler: Handler) -> None:
    import trio

    async with stream:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            raw = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            if _CREDENTIALS.unpack(raw)[1] not in (0, os.geteuid()):
                await stream.send_all(_line(_refusal("not your mount", 1)))
                return
            request = await _receive_line(stream)
            if request is not None:
                await _answer(stream, handler, request)


async def _receive_line(stream: trio.SocketStream) -> bytes | None:
    received = bytearray()
    while not received.endswith(b"\n"):
        more = await stream.receive_some(65536)
        if not more or len(received) > MAX_LINE_BYTES:
            return None
        received += more
    return bytes(received)


async def _answer(stream: trio.SocketStream, handler: Handler, request: bytes) -> None:
    import trio

    async def progress(text: str) -> None:
        # The work goes on when nobody listens any more.
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.send_all(_line({"progress": text}))

    async with trio.open_nursery() as nursery:
        grace = trio.CancelScope(shield=True)
        nursery.start_soon(_begin_grace_when_cancelled, grace)
        with grace:
            reply = await _reply_to(handler, request, progress)
            # A caller that is gone wants no answer.
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await stream.send_all(_line(reply))
        nursery.cancel_scope.cancel()


async def _begin_grace_when_cancelled(grace: trio.CancelScope) -> None:
    import trio

    try:
        await trio.sleep_forever()
    finally:
        grace.deadline = trio.current_time() + _GRACE_S


async def _reply_to(handler: Handler, request: bytes, progress: Progress) -> JsonObject:
    try:
        verb, args = _decode_request(request)
        return {"ok": True, "result": await handler(verb, args, progress)}
    except S3backfsError as error:
        return _refusal(str(error), error.exit_code)
    except Exception as error:  # this is a door: the mount must outlive a bug of one verb
        logger.exception("control request failed")
        return _refusal(f"internal error: {error!r}", _UNEXPECTED_EXIT_CODE)


def _decode_request(line: bytes) -> tuple[str, JsonObject]:
    try:
        request = json.loads(line)
        verb, args = request["verb"], request.get("args", {})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RemoteError("not a control request", 2) from error
    if not isinstance(verb, str) or not isinstance(args, dict):
        raise RemoteError("not a control request", 2)
    return verb, args


def _refusal(text: str, exit_code: int) -> JsonObject:
    return {"ok": False, "error": text, "exit_code": exit_code}


def _line(message: JsonObject) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"


# -- the command line's side -----------------------------------------------------------------


def call_mount(
    mountpoint: Path,
    verb: str,
    args: JsonObject | None = None,
    on_progress: Callable[[str], None] = lambda text: None,
    *,
    owner_uid: int | None = None,
    wait_for_exit: bool = False,
) -> JsonObject:
    """Ask the process that serves `mountpoint` and wait for its answer.

    The process id is added to the answer as `pid`. `owner_uid` is the user who mounted;
    `wait_for_exit` waits until the process is gone, too.

    Raises:
        NotMountedError: nobody answers for this mount point.
        RemoteError: the process answered with an error.
    """
    owner = os.geteuid() if owner_uid is None else owner_uid
    with _connect(mountpoint, owner) as connection:
        pid = _peer_pid(connection, mountpoint, owner)
        with _process_handle(pid) as process:
            with contextlib.suppress(BrokenPipeError):
                connection.sendall(_line({"verb": verb, "args": args or {}}))
            result = _await_result(connection, mountpoint, on_progress)
            if wait_for_exit and process is not None:
                select.select([process], [], [])
    return {"pid": pid, **result}


def _connect(mountpoint: Path, owner_uid: int) -> socket.socket:
    last: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    for runtime_dir in runtime_dirs_of(owner_uid):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(os.fsencode(socket_path(mountpoint, runtime_dir)))
            return connection
        except OSError as error:
            connection.close()
            last = error if error.errno != errno.ENOENT else last
    if last.errno in (errno.EACCES, errno.EPERM):
        raise NotMountedError(f"{mountpoint} was mounted by another user; ask as that user or root")
    raise NotMountedError(
        f"no s3backfs process answers for {mountpoint}; see `findmnt -t fuse.s3backfs`"
    ) from last


def _peer_pid(connection: socket.socket, mountpoint: Path, owner_uid: int) -> int:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    # A socket in /tmp could be a stranger's.
    if uid not in (0, owner_uid, os.geteuid()):
        raise NotMountedError(f"the process that answers for {mountpoint} belongs to uid {uid}")
    return int(pid)


@contextlib.contextmanager
def _process_handle(pid: int) -> Iterator[int | None]:
    """Hold the process itself, not its number; None where the kernel or a container hides it."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def _await_result(
    connection: socket.socket, mountpoint: Path, on_progress: Callable[[str], None]
) -> JsonObject:
    with connection.makefile("rb") as lines, contextlib.suppress(ConnectionError):
        for line in lines:
            message = json.loads(line)
            if "progress" in message:
                on_progress(message["progress"])
            elif message.get("ok"):
                return dict(message["result"])
            else:
                raise RemoteError(message["error"], message["exit_code"])
    raise NotMountedError(f"the process that serves {mountpoint} went away; see its log")
