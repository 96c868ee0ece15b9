"""Which repository this machine knows at each place, so that another one there is noticed.

    <state>/places/<hash of the place>    the repository's id, and the place for people

A repository's id derives from its first master key, so that it stands for the key as well; which
of the later keys is the newest is remembered with the repository (`local_state.py`).
"""

from __future__ import annotations

import hashlib
import logging
from contextlib import suppress
from pathlib import Path

from s3backfs.errors import RepositoryError
from s3backfs.format.keys import Keyring
from s3backfs.repository.private_file import replace_private
from s3backfs.store.base import Store

log = logging.getLogger(__name__)


def check_place(state_dir: Path, store: Store, keyring: Keyring) -> None:
    """Compare the repository at a place with the one that this machine saw there first.

    One that this machine sees there for the first time is remembered.

    Raises:
        RepositoryError: it is another one.
    """
    path, found = _path(state_dir, store), keyring.repository_id.hex()
    known = _load(path)
    if not known:
        pin_place(state_dir, store, keyring.repository_id)
    elif known != found:
        raise RepositoryError(
            f"{store.url}: this is repository {found[:8]}, and this machine knows another one "
            f"there, {known[:8]}: somebody has exchanged it; if that was you: rm {path}"
        )


def pin_place(state_dir: Path, store: Store, repository_id: bytes) -> None:
    """Remember the repository at a place; where that cannot be written, the next one tries."""
    path = _path(state_dir, store)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_private(path, f"{repository_id.hex()} {store.place}\n".encode())
    except OSError as error:
        log.debug("%s: %s", path, error)


def place_name(store: Store) -> str:
    """A short name for files that belong to one place."""
    return hashlib.sha256(store.place.encode()).hexdigest()[:24]


def _path(state_dir: Path, store: Store) -> Path:
    return state_dir / "places" / place_name(store)


def _load(path: Path) -> str:
    """The id that is remembered; empty where none is, or nothing that can be read."""
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text().partition(" ")[0].strip()
    return ""
