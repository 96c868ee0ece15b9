"""The control channel over a real unix socket."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from s3backfs.control import (
    Handler,
    Progress,
    RemoteError,
    call_mount,
    canonical_mountpoint,
    name_of_wire,
    serve_control,
    socket_path,
    wire_name,
)
from s3backfs.errors import MountpointError, NotMountedError, RepositoryBusyError


@pytest.fixture
def runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "s3backfs"


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    path = tmp_path / "mnt"
    path.mkdir()
    return path


async def echo(verb: str, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
    if verb == "refuse":
        raise RepositoryBusyError("it is busy; wait")
    if verb == "break":
        raise ZeroDivisionError("a bug")
    await progress("half way")
    return {"verb": verb, "args": args}


@asynccontextmanager
async def served(path: Path, handler: Handler = echo) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, path, handler)
        yield
        nursery.cancel_scope.cancel()


async def call(mountpoint: Path, verb: str, args: dict[str, Any] | None = None) -> dict[str, Any]:
    return await trio.to_thread.run_sync(call_mount, mountpoint, verb, args)


@pytest.mark.anyio
async def test_answer_and_progress(runtime_dir: Path, mountpoint: Path) -> None:
    """A verb's result and its progress lines reach the caller, names of any bytes included."""
    lines: list[str] = []
    name = wire_name(b"caf\xe9 \xff")
    async with served(socket_path(mountpoint, runtime_dir)):
        result = await trio.to_thread.run_sync(
            call_mount, mountpoint, "seal", {"name": name}, lines.append
        )
    assert lines == ["half way"]
    assert name_of_wire(result["args"]["name"]) == b"caf\xe9 \xff"


@pytest.mark.anyio
async def test_errors_keep_their_exit_code(runtime_dir: Path, mountpoint: Path) -> None:
    """An S3backfsError of the handler arrives with its text and exit code; a bug is code 70."""
    async with served(socket_path(mountpoint, runtime_dir)):
        with pytest.raises(RemoteError, match="it is busy; wait") as refused:
            await call(mountpoint, "refuse")
        with pytest.raises(RemoteError, match="internal error") as broken:
            await call(mountpoint, "break")
        assert (await call(mountpoint, "status"))["verb"] == "status"
    assert refused.value.exit_code == RepositoryBusyError.exit_code
    assert broken.value.exit_code == 70


@pytest.mark.anyio
async def test_socket_is_private_and_removed(runtime_dir: Path, mountpoint: Path) -> None:
    """The socket is 0600 in a directory that is 0700, and gone after the server ends."""
    path = socket_path(mountpoint, runtime_dir)
    async with served(path):
        assert [stat.S_IMODE(os.stat(p).st_mode) for p in (path, runtime_dir)] == [0o600, 0o700]
    assert not path.exists()


@pytest.mark.anyio
async def test_second_server_is_refused(runtime_dir: Path, mountpoint: Path) -> None:
    """Two processes cannot serve one mount point, and the first keeps its socket."""
    path = socket_path(mountpoint, runtime_dir)
    async with served(path):
        with pytest.raises(MountpointError):
            await serve_control(path, echo)
        assert (await call(mountpoint, "status"))["verb"] == "status"


@pytest.mark.anyio
async def test_dead_socket_is_replaced(runtime_dir: Path, mountpoint: Path) -> None:
    """A socket that a killed process left is no obstacle, neither for calling nor for serving."""
    path = socket_path(mountpoint, runtime_dir)
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with pytest.raises(NotMountedError):
        await call(mountpoint, "status")
    async with served(path):
        assert (await call(mountpoint, "status"))["verb"] == "status"


def test_no_mount(runtime_dir: Path, mountpoint: Path) -> None:
    """Where nothing is mounted the error names the mount point and says where to look."""
    with pytest.raises(NotMountedError, match=r"mnt.*findmnt"):
        call_mount(mountpoint, "status")


@pytest.mark.anyio
async def test_answer_survives_shutdown(runtime_dir: Path, mountpoint: Path) -> None:
    """A handler that ends the server may still do something, and gets its answer through."""
    stop = trio.CancelScope()

    async def last_words(verb: str, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        stop.cancel()
        await trio.lowlevel.checkpoint()
        await progress("the end")
        return {"bye": True}

    results: list[dict[str, Any]] = []
    async with trio.open_nursery() as nursery:
        with stop:
            async with trio.open_nursery() as inner:
                await inner.start(serve_control, socket_path(mountpoint, runtime_dir), last_words)

                async def ask() -> None:
                    results.append(await call(mountpoint, "umount"))

                nursery.start_soon(ask)
                await trio.sleep_forever()
    assert results == [{"pid": os.getpid(), "bye": True}]


@pytest.mark.anyio
@pytest.mark.parametrize("line", [b"nonsense\n", b"[]\n", b'{"verb": 1}\n', b'{"args": {}}\n'])
async def test_nonsense_is_refused(runtime_dir: Path, mountpoint: Path, line: bytes) -> None:
    """A line that is no request gets an error, and the server lives on."""
    path = socket_path(mountpoint, runtime_dir)
    async with served(path):
        stream = await trio.open_unix_socket(str(path))
        async with stream:
            await stream.send_all(line)
            reply = json.loads(bytes(await stream.receive_some()))
        assert (reply["ok"], reply["exit_code"]) == (False, 2)
        assert (await call(mountpoint, "status"))["verb"] == "status"


@pytest.mark.anyio
async def test_caller_that_leaves(runtime_dir: Path, mountpoint: Path) -> None:
    """A request runs to its end although its caller has closed the connection."""
    left, done = trio.Event(), trio.Event()

    async def slow(verb: str, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        await left.wait()
        for _ in range(3):
            await progress("still here")
        done.set()
        return {}

    path = socket_path(mountpoint, runtime_dir)
    async with served(path, slow):
        stream = await trio.open_unix_socket(str(path))
        async with stream:
            await stream.send_all(b'{"verb": "umount"}\n')
        left.set()
        with trio.fail_after(10):
            await done.wait()


def test_wait_for_exit(runtime_dir: Path, mountpoint: Path) -> None:
    """With `wait_for_exit` the call returns only when the mount process is gone."""
    program = textwrap.dedent(
        """
        import sys, trio
        from pathlib import Path
        from s3backfs.control import serve_control

        async def main():
            async with trio.open_nursery() as nursery:
                async def stop(verb, args, progress):
                    nursery.cancel_scope.cancel()
                    return {}
                await nursery.start(serve_control, Path(sys.argv[1]), stop)
                print("ready", flush=True)
        trio.run(main)
        """
    )
    path = socket_path(mountpoint, runtime_dir)
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        call_mount(mountpoint, "umount", wait_for_exit=True)
        # Exited, perhaps not yet reaped.
        assert os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def test_one_socket_for_all_spellings(tmp_path: Path) -> None:
    """Symbolic links, dots and trailing slashes lead to the same socket."""
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to("real")
    spellings = [real, tmp_path / "link", tmp_path / "x/../real/.", Path(f"{real}//")]
    assert {canonical_mountpoint(spelling) for spelling in spellings} == {real}
