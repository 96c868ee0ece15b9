"""Real mounts for tests: the real command, in processes of its own, that never outlive a test."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PASSPHRASE = "correct horse battery staple"
TIMEOUT_S = 90


@dataclass
class Machine:
    """One machine with a home of its own: two of them have never heard of each other."""

    home: Path
    url: str
    environment: Mapping[str, str] = field(default_factory=dict)
    passphrase: str | None = PASSPHRASE

    def variables(self) -> dict[str, str]:
        """What the command finds in its environment."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("S3BACKFS")
        }
        return {
            **inherited,
            **self.environment,
            "HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "XDG_STATE_HOME": str(self.home / "state"),
            "XDG_RUNTIME_DIR": str(self.home),
            **({} if self.passphrase is None else {"S3BACKFS_PASSPHRASE": self.passphrase}),
            "S3BACKFS_REPOSITORY": self.url,
        }

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "s3backfs.cli", *arguments],
            env=self.variables(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{arguments}: exit {done.returncode}\n{done.stderr}{self.log()}")
        return done

    def log(self) -> str:
        """What the mount processes of this machine have logged."""
        logs = sorted((self.home / "state").rglob("*.log"))
        return "".join(path.read_text() for path in logs)

    @contextlib.contextmanager
    def mounted(self, *options: str) -> Iterator[Mount]:
        """Hold a mount; it ends with `umount` unless the test has ended it."""
        mountpoint = self.home / "mnt"
        mountpoint.mkdir(exist_ok=True)
        self.run("mount", *options, self.url, str(mountpoint))
        mount = Mount(self, mountpoint)
        try:
            yield mount
            if mount.is_there():
                mount.umount()
        finally:
            mount.clean_up()


@dataclass
class Mount:
    """A mounted repository."""

    machine: Machine
    path: Path

    def is_there(self) -> bool:
        """Whether the kernel still has the mount."""
        return f" {self.path} " in Path("/proc/self/mountinfo").read_text()

    def umount(self, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """End the mount as a user does."""
        return self.machine.run("umount", *options, str(self.path), check=check)

    def pid(self) -> int:
        """The process behind the mount."""
        for process in Path("/proc").iterdir():
            if not process.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                if b"mount" in words and os.fsencode(self.path) in words:
                    return int(process.name)
        raise AssertionError("no process serves the mount")

    def kill(self) -> None:
        """End the process as a crash does."""
        pid = self.pid()
        os.kill(pid, signal.SIGKILL)
        self.await_end(pid)
        subprocess.run(["umount", "-l", str(self.path)], check=False, capture_output=True)

    def terminate(self) -> None:
        """End the process as a service manager does, and wait for it."""
        pid = self.pid()
        os.kill(pid, signal.SIGTERM)
        self.await_end(pid)

    def await_end(self, pid: int) -> None:
        """Wait until a process is gone."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline_s:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            if _is_zombie(pid):
                return
            time.sleep(0.02)

    def clean_up(self) -> None:
        """Leave nothing behind, whatever has happened."""
        if self.is_there():
            with contextlib.suppress(AssertionError, ProcessLookupError):
                os.kill(self.pid(), signal.SIGKILL)
            subprocess.run(["umount", "-l", str(self.path)], check=False, capture_output=True)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
