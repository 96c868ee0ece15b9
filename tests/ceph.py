"""A throw-away Ceph with its gateway for S3, for tests: one monitor, one store in memory, no login.

It enforces what most servers only state: policies, versions, encryption keys, clocks.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio

from tests.servers import ACCESS_KEY, SECRET_KEY, Server, free_port, stop

PROGRAMS = ("radosgw", "radosgw-admin", "ceph", "ceph-mon", "ceph-osd", "monmaptool")
KMS_KEY = "testkey-1"

_START_S = 60.0
_POOLS = ("index", "data", "non-ec")
_CONFIG = """[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_port}/0
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 1
mon data avail warn = 2
run dir = {top}/run
pid file = {top}/run/$name.pid
admin socket = {top}/run/$name.asok
log file = {top}/log/$name.log
crash dir = {top}/crash
err to stderr = false
ms bind ipv6 = false
ms bind msgr1 = false
ms cluster mode = crc
ms service mode = crc
ms client mode = crc
ms mon cluster mode = crc
ms mon service mode = crc
ms mon client mode = crc
[mon]
mon data = {top}/mon
auth allow insecure global id reclaim = true
[osd]
osd data = {top}/osd
osd objectstore = memstore
memstore device bytes = 2147483648
osd crush update on start = true
osd class load list = *
osd class default list = *
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw thread pool size = 32
rgw enable usage log = false
rgw dns name = localhost
rgw crypt require ssl = false
rgw crypt s3 kms backend = testing
rgw crypt s3 kms encryption keys = {kms_key}=YmluCmJvb3N0CmJvb3N0LWJ1aWxkCmNlcGguY29uZgo=
"""


def missing_programs() -> list[str]:
    """The programs that are not installed (Debian: radosgw ceph-mon ceph-osd ceph-common)."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@dataclass(frozen=True)
class Ceph:
    """A running Ceph; `server` is its gateway, with the keys of the user `main`."""

    server: Server
    config: Path

    def add_user(self, name: str) -> Server:
        """Make a user who may do nothing with the buckets of others, and reach the server so."""
        made: dict[str, Any] = json.loads(
            self._admin("user", "create", f"--uid={name}", f"--display-name={name}")
        )
        (key,) = made["keys"]
        return replace(self.server, access_key=key["access_key"], secret_key=key["secret_key"])

    def _admin(self, *arguments: str) -> str:
        return _run(self.config, "radosgw-admin", "--no-mon-config", *arguments)


@contextmanager
def running_ceph() -> Iterator[Ceph]:
    """Start it, which takes a quarter of a minute, and remove all of it afterwards."""
    with ExitStack() as stack:
        # Its sockets need a short path.
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ceph-", dir="/tmp")))
        for name in ("mon", "osd", "run", "log", "crash"):
            (top / name).mkdir()
        fsid, port, mon_port = str(uuid.uuid4()), free_port(), free_port()
        config = top / "ceph.conf"
        config.write_text(
            _CONFIG.format(fsid=fsid, port=port, mon_port=mon_port, top=top, kms_key=KMS_KEY)
        )
        monmap = str(top / "monmap")
        address = f"[v2:127.0.0.1:{mon_port}]"
        _run(config, "monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap)
        _run(config, "ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        stack.enter_context(_daemon(config, "ceph-mon", "-i", "a"))
        osd = str(uuid.uuid4())
        _run(config, "ceph", "osd", "new", osd)
        _run(config, "ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        stack.enter_context(_daemon(config, "ceph-osd", "-i", "0"))
        for pool in _POOLS:
            name = f"default.rgw.buckets.{pool}"
            _run(config, "ceph", "osd", "pool", "create", name, "8")
            _run(config, "ceph", "osd", "pool", "application", "enable", name, "rgw")
        gateway = stack.enter_context(_daemon(config, "radosgw", "-n", "client.rgw"))
        server = Server(f"http://127.0.0.1:{port}", ACCESS_KEY, SECRET_KEY, gateway)
        trio.run(_wait_until_answers, server, top)
        ceph = Ceph(server, config)
        keys = (f"--access-key={ACCESS_KEY}", f"--secret={SECRET_KEY}")
        ceph._admin("user", "create", "--uid=main", "--display-name=main", *keys)
        yield ceph


def _run(config: Path, *command: str) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, "CEPH_CONF": str(config)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_START_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


@contextmanager
def _daemon(config: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    log = config.parent / "log" / f"{command[0]}.out"
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *command, "-f"],
            env={**os.environ, "CEPH_CONF": str(config)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        stop(process)


async def _wait_until_answers(server: Server, top: Path) -> None:
    with trio.move_on_after(_START_S):
        while not await trio.to_thread.run_sync(_answers, server.endpoint):
            if server.process.poll() is not None:
                break
            await trio.sleep(0.1)
        else:
            return
    logs = "".join(path.read_text()[-2000:] for path in _logs(top))
    raise RuntimeError(f"the gateway of Ceph does not answer\n{logs}")


def _logs(top: Path) -> Sequence[Path]:
    return sorted((top / "log").glob("*.out"))


def _answers(endpoint: str) -> bool:
    try:
        with urllib.request.urlopen(endpoint, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
