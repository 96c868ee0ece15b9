"""What the command line asks of a mount: status, sync, seal, reopen."""

from __future__ import annotations

import errno
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from s3backfs.backup.backup import Backup, incompleteness, printable
from s3backfs.backup.catalogue import Catalogue
from s3backfs.errors import FileSystemError, OwnershipLostError, RepositoryError, S3backfsError
from s3backfs.fs.filesystem import FileSystem
from s3backfs.store.counting import Traffic
from s3backfs.store.retrying import Outage

Progress = Callable[[str], Awaitable[None]]

PROGRESS_EVERY_S = 2.0
NAMES_SHOWN = 5


@dataclass(slots=True)
class Condition:
    """What the mount as a whole is going through."""

    url: str
    state: str = "mounted"
    outage: Outage | None = None
    last_error: str = ""
    warning: str = ""
    started_s: float = field(default_factory=trio.current_time)


class Verbs:
    """Answers requests of the control channel; names travel as text with surrogate escapes."""

    def __init__(
        self, filesystem: FileSystem, condition: Condition, traffic: Callable[[], Traffic]
    ) -> None:
        self._fs = filesystem
        self._condition = condition
        self._traffic = traffic

    async def handle(self, verb: str, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        """Carry one request out.

        Raises:
            S3backfsError: its text and exit code go back to the command.
        """
        if verb == "status":
            return self.status()
        if verb == "sync":
            return await self._sync(progress)
        if verb in ("seal", "reopen"):
            backup = await self._find(args)
            if verb == "reopen":
                return await self._reopen(backup)
            return await self._seal(backup, is_forced=bool(args.get("force")))
        raise RepositoryError(f"this mount does not know the request {verb!r}")

    # -- status ------------------------------------------------------------------------------

    def status_json(self) -> bytes:
        """The text of `.s3backfs/status.json`."""
        return json.dumps(self.status(), indent=2).encode() + b"\n"

    def status(self) -> dict[str, Any]:
        """Everything that can be said of the mount at this moment."""
        traffic = self._traffic()
        progress = self._fs.repository.writer.progress
        uptime_s = max(trio.current_time() - self._condition.started_s, 0.001)
        open_backups = self._fs.catalogue.own_open()
        checkpoints = [backup.last_checkpoint_ns for backup in open_backups]
        outage = self._condition.outage
        return {
            "url": self._condition.url,
            "state": self._condition.state,
            "written_bytes": progress.written_bytes,
            "deduplicated_bytes": progress.deduplicated_bytes,
            "stored_bytes": progress.stored_bytes,
            "in_flight_bytes": self._fs.repository.writer.budget.used_bytes,
            "fetched_bytes": traffic.received_bytes,
            "rates": {
                "written_bytes_per_s": int(progress.written_bytes / uptime_s),
                "stored_bytes_per_s": int(progress.stored_bytes / uptime_s),
            },
            "requests": {row.verb: row.count for row in traffic.verbs},
            "last_checkpoint_ns": max(checkpoints, default=0),
            "waiting_since_ns": outage.since_ns if outage else 0,
            "last_error": self._last_error(),
            "warning": self._condition.warning,
            "backups": [describe(backup) for backup in open_backups],
        }

    def _last_error(self) -> str:
        catalogue = self._fs.catalogue
        failures: list[S3backfsError] = list(catalogue.rolled_back.values())
        failures += [backup.failure for backup in catalogue.own_open() if backup.failure]
        return str(failures[-1]) if failures else self._condition.last_error

    # -- sync, seal, reopen ------------------------------------------------------------------

    async def _sync(self, progress: Progress) -> dict[str, Any]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.tell_progress, progress)
            errors = [await _checkpoint(backup) for backup in self._fs.catalogue.own_open()]
            nursery.cancel_scope.cancel()
        for error in filter(None, errors):
            raise error
        return {}

    async def tell_progress(self, progress: Progress) -> None:
        """Say every few seconds how far the work is, until cancelled."""
        while True:
            await trio.sleep(PROGRESS_EVERY_S)
            await progress(self.progress_line())

    def progress_line(self) -> str:
        """How far the work is, for a person who waits."""
        writer = self._fs.repository.writer
        text = (
            f"{writer.progress.durable_bytes >> 20} MiB stored, "
            f"{writer.budget.used_bytes >> 20} MiB to go"
        )
        if self._condition.outage is not None:
            text += f"; S3 does not answer: {self._condition.outage.last_error}"
        return text

    async def _find(self, args: dict[str, Any]) -> Backup:
        name = str(args.get("name", "")).encode("utf-8", "surrogateescape")
        await self._fs.catalogue.refresh()
        backup = self._fs.catalogue.backups.get(name)
        if backup is None:
            raise RepositoryError(f"there is no backup {printable(name)} in this mount")
        return backup

    async def _seal(self, backup: Backup, *, is_forced: bool) -> dict[str, Any]:
        if backup.is_sealed:
            raise RepositoryError(f"backup {printable(backup.name)} is sealed already")
        if not backup.is_own_open:
            raise RepositoryError(f"backup {printable(backup.name)} is open on another machine")
        writing = [node for node in self._fs.files.open_for_writing() if node.backup is backup]
        if writing:
            raise RepositoryError(
                f"backup {printable(backup.name)} has {len(writing)} file(s) open for writing; "
                "close them first"
            )
        if backup.refused is not None and not is_forced:
            raise RepositoryError(
                f"backup {printable(backup.name)} is not sealed: {_refusal(backup.refused)}; copy "
                "it again and seal it with --force"
            )
        await self._fs.catalogue.seal(backup)
        return describe(backup)

    async def _reopen(self, backup: Backup) -> dict[str, Any]:
        try:
            await self._fs.catalogue.reopen(backup)
        except FileSystemError as error:
            text = "the mount is read-only" if error.errno_code == errno.EROFS else str(error)
            raise RepositoryError(f"backup {printable(backup.name)}: {text}") from error
        return describe(backup)


def describe(backup: Backup) -> dict[str, Any]:
    """One backup for the command line."""
    return {
        "name": backup.name.decode("utf-8", "surrogateescape"),
        "state": "sealed" if backup.is_sealed else "open",
        "incomplete": bool(backup.root.incomplete),
        "files": backup.tally.files,
        "size_bytes": backup.tally.size_bytes,
        "written_bytes": backup.tally.size_bytes,
        "stored_bytes": backup.root.statistics.stored_bytes,
        "last_checkpoint_ns": backup.last_checkpoint_ns,
        "error": str(backup.failure) if backup.failure else "",
        "refused": str(backup.refused) if backup.refused else "",
    }


def describe_open(catalogue: Catalogue) -> str:
    """Which open backups a mount has found, for whoever mounts; nothing where there are none."""
    backups = [
        each
        for each in catalogue.backups.values()
        # What is rolled back is told apart, and is no other writer's.
        if not each.is_sealed and each.id not in catalogue.rolled_back
    ]
    own = [each for each in backups if each.is_own]
    others = [each for each in backups if not each.is_own]
    parts = [f"going on with {_names(own)}"] if own else []
    parts += [f"{_names(others)}: another writer's, read-only here"] if others else []
    return "open backups: " + "; ".join(parts) if parts else ""


def _names(backups: list[Backup]) -> str:
    names = sorted(printable(each.name) for each in backups)
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def _refusal(error: Exception) -> str:
    return f"a program was told that something could not be written ({error})"


async def _checkpoint(backup: Backup) -> S3backfsError | None:
    """Store one backup; that it fails keeps none of the others from being stored."""
    try:
        await backup.checkpoint()
    except S3backfsError as error:
        return error
    return None


@dataclass(slots=True)
class Finish:
    """What became of the open backups at the end of a mount."""

    backups: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    exit_code: int = 0

    def as_json(self) -> dict[str, Any]:
        """The answer to `umount`."""
        return {
            "backups": self.backups,
            "warnings": self.warnings,
            "exit_code": self.exit_code,
        }


async def finish_backups(filesystem: FileSystem, *, keep_open: bool, torn: set[bytes]) -> Finish:
    """Make every open backup durable, and seal those that are complete.

    `torn` are backups with a file that was open for writing when the mount ended.
    """
    result = Finish()
    for backup in filesystem.catalogue.lost():
        why = backup.failure or "another writer has taken it over"
        result.warnings.append(
            f"backup {printable(backup.name)}: {why}; what this mount wrote since the last "
            "checkpoint is not in S3"
        )
        result.exit_code = OwnershipLostError.exit_code
    unsealed = filesystem.catalogue.own_open()
    if unsealed:
        await filesystem.repository.writer.look_if_old()
    for backup in unsealed:
        name = printable(backup.name)
        had_failed = backup.failure is not None
        try:
            await backup.checkpoint()
            if keep_open:
                pass
            elif backup.is_resumed and not backup.change_count:
                result.warnings.append(
                    f"backup {name} stays open: an earlier mount did not complete it, and nothing "
                    "was written to it since; write what is missing, or seal it as it is"
                )
            elif (incomplete := incompleteness(backup.root)) is not None:
                result.warnings.append(f"backup {name} stays open: {incomplete}")
                result.exit_code = incomplete.exit_code
            elif backup.refused is not None:
                result.warnings.append(
                    f"backup {name} stays open: {_refusal(backup.refused)}; mount and copy again"
                )
                result.exit_code = result.exit_code or 1
            elif backup.id in torn or had_failed:
                why = "an error" if had_failed else "a file open for writing"
                result.warnings.append(f"backup {name} stays open: it had {why}")
                result.exit_code = result.exit_code or (1 if had_failed else 0)
            else:
                await filesystem.catalogue.seal(backup)
        except S3backfsError as error:
            result.warnings.append(f"backup {name} is not complete in S3: {error}")
            result.exit_code = error.exit_code or 1
        result.backups.append(describe(backup))
    return result
