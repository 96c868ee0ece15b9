"""CPU seconds and memory of the processes that one run starts."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_WAIT_S = 120.0
_POLL_S = 0.005
_KILLED_S = 5.0


@dataclass
class Meter:
    """Adds up what every process used, its children included; `log` takes what they say.

    `peak_bytes` is 0 where no process took more memory than this one: the kernel counts what a
    process was before it became another program, so less than that cannot be seen.
    """

    log: Path
    environment: Mapping[str, str]
    cpu_s: float = 0.0
    peak_bytes: int = 0

    @property
    def _own_peak_kib(self) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def start(self, command: Sequence[str], **more: str) -> subprocess.Popen[bytes]:
        """Start a process that `finish` must end."""
        with self.log.open("ab") as log:
            log.write(f"$ {command}\n".encode())
            log.flush()
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment, **more},
                # Ctrl-C is for this process alone: a server or mount that went first would hang it.
                process_group=0,
            )

    def finish(self, process: subprocess.Popen[bytes], *, check: bool = True) -> None:
        """Wait for a process and count what it used."""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_s += usage.ru_utime + usage.ru_stime
        if usage.ru_maxrss > self._own_peak_kib:
            self.peak_bytes = max(self.peak_bytes, usage.ru_maxrss * 1024)
        if check and process.returncode:
            raise RuntimeError(f"{process.args!r}: exit {process.returncode}, see {self.log}")

    def run(self, command: Sequence[str], **more: str) -> None:
        """Run a command to its end, which comes at once if this process shall end."""
        process = self.start(command, **more)
        try:
            self.finish(process)
        except BaseException:
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                process.kill()
                # Not for ever: it may wait for a mount, which goes after it.
                process.wait(_KILLED_S)
            raise

    @contextlib.contextmanager
    def mounted(
        self, command: Sequence[str], mountpoint: Path, unmount: Sequence[str]
    ) -> Iterator[None]:
        """Hold a mount whose process stays in the foreground; its end is waited for."""
        mountpoint.mkdir(parents=True, exist_ok=True)
        process = self.start(command)
        try:
            wait_until(lambda: _is_mounted(mountpoint) or process.poll() is not None)
            yield
            self.run(unmount)
            self.finish(process)
        except BaseException:
            subprocess.run(["umount", "-l", str(mountpoint)], check=False, capture_output=True)
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            process.wait()
            raise


def _is_mounted(path: Path) -> bool:
    return f" {path} " in Path("/proc/self/mountinfo").read_text()


def wait_until(holds: Callable[[], bool]) -> None:
    """Look again and again until something holds."""
    deadline_s = time.monotonic() + _WAIT_S
    while not holds():
        if time.monotonic() > deadline_s:
            raise TimeoutError("it did not come")
        time.sleep(_POLL_S)


def touch_memory(length: int) -> None:
    """Use memory once, and let go of it: a virtual machine's host may have taken it back.

    Who is first to use it pays for its return: twice the time of reading 2 GiB, say.
    """
    touch = "import sys; b'1' * int(sys.argv[1])"
    # Not in this process, which would be as large as that ever after.
    subprocess.run([sys.executable, "-c", touch, str(length)], check=True)


def drop_caches() -> None:
    """Make the kernel forget what it has read; only root can."""
    os.sync()
    with contextlib.suppress(PermissionError):
        Path("/proc/sys/vm/drop_caches").write_text("3")
