"""What this machine remembers of a repository: its identity, and who writes from here.

    <state>/<repository id>/mode             the encryption mode when it was first opened
    <state>/<repository id>/epoch            the newest key epoch that was seen, what tells its key
    <state>/<repository id>/removed          ids of the key slots that were removed from here
    <state>/<repository id>/writers/<id>     one file for each writer id, locked while it is alive

A writer id whose file is not locked belongs to a process that is gone; its open backups may be
gone on with. The file of a verb of maintenance says so: it has none, and its lease may be ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from s3backfs.errors import IntegrityError, RepositoryError
from s3backfs.format.keys import Keyring
from s3backfs.format.refs import ID_BYTES
from s3backfs.repository.private_file import replace_private

FINISHING = b"finishing\n"
"""What the file of a writer says whose mount is gone and whose process is not."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class WriterIdentity:
    """The writer id of one mount, and those of dead ones of this machine; held until closed.

    Every mount writes under an id of its own, so that a cloned machine is another writer.
    """

    def __init__(self, directory: Path, *, takes_dead: bool = True) -> None:
        self._directory = directory / "writers"
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._files: dict[bytes, int] = {}
        self._is_needed = True
        for path in sorted(self._directory.iterdir()) if takes_dead else ():
            if not _is_of_maintenance(path):
                self._try_to_hold(path)
        self.writer_id = secrets.token_bytes(ID_BYTES)
        self._try_to_hold(self._path(self.writer_id))
        while self.writer_id not in self._files:
            # Another mount took the new file for that of a dead writer before it was locked.
            self.writer_id = secrets.token_bytes(ID_BYTES)
            self._try_to_hold(self._path(self.writer_id))
        if not takes_dead:
            os.pwrite(self._files[self.writer_id], _maintenance(), 0)

    def _path(self, writer_id: bytes) -> Path:
        return self._directory / writer_id.hex()

    def _try_to_hold(self, path: Path) -> None:
        try:
            writer_id = bytes.fromhex(path.name)
        except ValueError:
            return
        descriptor = lock_file(path)
        if descriptor is not None:
            self._files[writer_id] = descriptor

    def is_own(self, writer_id: bytes) -> bool:
        """Whether a writer is this mount, or a dead one of this machine."""
        return writer_id in self._files

    def retire_dead(self) -> None:
        """Forget the ids of dead writers, once this mount has taken over what was theirs."""
        self.forget_dead(self._files.keys() - {self.writer_id})

    def hold_dead_maintenance(self) -> list[bytes]:
        """Hold the ids of verbs of maintenance that were killed here since this machine booted.

        A clone of the disk shows such files too, of a process that lives elsewhere; but it booted
        at another time.
        """
        before = set(self._files)
        for path in sorted(self._directory.iterdir()):
            if _is_of_maintenance(path):
                self._try_to_hold(path)
        return sorted(self._files.keys() - before)

    def forget_dead(self, writer_ids: Iterable[bytes]) -> None:
        """Forget dead writers that are held, when nothing of them is left."""
        for writer_id in writer_ids:
            self._drop(writer_id)

    def note_finishing(self) -> None:
        """Let the next mount of this machine wait: this one is only storing what is left."""
        os.pwrite(self._files[self.writer_id], FINISHING, 0)

    def retire(self) -> None:
        """Say that this mount leaves no open backup behind: nobody needs its id."""
        self._is_needed = False

    def close(self) -> None:
        """Let go of all ids; those that are needed stay for the next mount to find."""
        if not self._is_needed:
            self._drop(self.writer_id)
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def _drop(self, writer_id: bytes) -> None:
        self._path(writer_id).unlink(missing_ok=True)
        os.close(self._files.pop(writer_id))


def is_one_finishing(directory: Path) -> bool:
    """Whether another mount process of this machine is storing what is left to store."""
    for path in (directory / "writers").glob("*"):
        with contextlib.suppress(OSError):
            if path.read_bytes() != FINISHING:
                continue
            descriptor = lock_file(path)
            if descriptor is None:
                return True
            os.close(descriptor)
    return False


def boot_id() -> str:
    """What tells this boot of this machine from all others; empty where nothing does."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _maintenance() -> bytes:
    """What the file of a verb of maintenance says."""
    return f"maintenance {boot_id()}\n".encode()


def _is_of_maintenance(path: Path) -> bool:
    """Whether a file is that of a verb of maintenance that began since this machine booted."""
    try:
        return bool(boot_id()) and path.read_bytes() == _maintenance()
    except OSError:
        return False


def lock_file(path: Path) -> int | None:
    """Open and lock a file that belongs to one process; None while that process lives."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def check_pin(directory: Path, mode: str) -> None:
    """Compare a repository's encryption mode with what this machine saw first, and remember it.

    Raises:
        RepositoryError: the mode has changed, which no command of s3backfs does.
    """
    path = directory / "mode"
    try:
        pinned = path.read_text().strip()
    except FileNotFoundError:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_private(path, f"{mode}\n".encode())
        return
    if pinned != mode:
        raise RepositoryError(
            f"this repository was {pinned} when it was last opened here and is {mode} now; "
            f"if that is what you want, remove {path}"
        )


def check_epoch(directory: Path, keyring: Keyring) -> None:
    """Compare the keys with the newest that this machine saw, and remember them.

    Whoever knew an older master could put back what was before a rotation, or go on from it with
    masters of their own; writing with these would undo the rotation.

    Raises:
        RepositoryError: the newest key was known here once and is not among them.
    """
    path = directory / "epoch"
    seen = unknown_epoch(directory, keyring)
    if seen is not None:
        raise RepositoryError(
            f"this machine has seen a newer key (epoch {seen}) than the bucket shows now: "
            f"somebody put old keys back; if that was you, remove {path}"
        )
    line = f"{keyring.epoch} {keyring.fingerprint(keyring.epoch)}\n"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_private(path, line.encode())


def unknown_epoch(directory: Path, keyring: Keyring) -> str | None:
    """The newest epoch that this machine saw, if its key is not among those of a keyring."""
    try:
        number, _, fingerprint = (
            (directory / "epoch").read_text(errors="replace").strip().partition(" ")
        )
        return None if keyring.fingerprint(int(number)) == fingerprint else number
    except FileNotFoundError:
        return None
    except (IntegrityError, ValueError):
        return number


def removed_slots(directory: Path) -> frozenset[str]:
    """Return the object keys of the slots that were removed from this machine."""
    try:
        return frozenset((directory / "removed").read_text().split())
    except FileNotFoundError:
        return frozenset()


def remember_removed(directory: Path, slot_keys: frozenset[str]) -> None:
    """Remember that slots were removed, so that a rotation never takes them up again."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = sorted(removed_slots(directory) | slot_keys)
    replace_private(directory / "removed", "".join(f"{key}\n" for key in known).encode())
