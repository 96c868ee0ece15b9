"""The root of a backup that begins, and the names that a backup may have."""

from __future__ import annotations

import errno
import hashlib
import secrets
import socket
import time

from s3backfs.errors import FileSystemError
from s3backfs.format.refs import ID_BYTES
from s3backfs.format.root import BackupState, Owner, Root, Statistics
from s3backfs.repository.repository import Repository

NAME_MAX_BYTES = 140
"""A longer name does not fit into an object's key, encrypted."""

MAX_SLOT = 0xFFFF


def check_backup_name(name: bytes) -> None:
    """Refuse names that no key can hold, and those that belong to the mount itself."""
    if len(name) > NAME_MAX_BYTES:
        raise FileSystemError(
            errno.ENAMETOOLONG, f"a backup's name may have {NAME_MAX_BYTES} bytes at most"
        )


def new_root(repository: Repository, name: bytes) -> Root:
    """The root of a backup that holds nothing yet."""
    now_ns = time.time_ns()
    backup_id = secrets.token_bytes(ID_BYTES)
    owner = Owner(epoch=1, writer=repository.writer_id, sequence=1, nonce=bytes(ID_BYTES))
    digest = hashlib.sha256(backup_id).digest()
    return Root(
        repository_id=repository.keyring.repository_id,
        backup_id=backup_id,
        name=name,
        slot=int.from_bytes(digest[:2], "big") % MAX_SLOT + 1,
        state=BackupState.OPEN,
        created_ns=now_ns,
        updated_ns=now_ns,
        sealed_ns=0,
        owner=owner,
        host=socket.gethostname(),
        statistics=Statistics(directories=1),
        top=None,
    )
