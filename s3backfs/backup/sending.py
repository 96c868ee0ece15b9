"""Sending roots: each is unlike all before, and known again where no answer has come."""

from __future__ import annotations

import secrets
from contextlib import suppress

import msgspec

from s3backfs.backup.roots import HeldRoot, load_root
from s3backfs.errors import (
    IntegrityError,
    ObjectMissingError,
    PreconditionFailedError,
    S3backfsError,
)
from s3backfs.format.refs import ID_BYTES
from s3backfs.format.root import Root, encode_root
from s3backfs.repository.repository import Repository
from s3backfs.store.base import Condition, IfMatch

ATTEMPTS = 4


class RootSender:
    """Numbers this writer's roots, and puts them."""

    def __init__(self, repository: Repository) -> None:
        self._keyring = repository.keyring
        self._store = repository.store
        # Roots that were sent and not answered; they may be there, and they are ours.
        self._unanswered: dict[bytes, set[bytes]] = {}
        self._sequences: dict[bytes, int] = {}

    def next(self, root: Root) -> Root:
        """Give a root a sequence and a nonce that no root before has had."""
        backup_id, owner = root.backup_id, root.owner
        sequence = max(owner.sequence, self._sequences.get(backup_id, 0)) + 1
        self._sequences[backup_id] = sequence
        owner = msgspec.structs.replace(
            owner, sequence=sequence, nonce=secrets.token_bytes(ID_BYTES)
        )
        return msgspec.structs.replace(root, owner=owner)

    def go_beyond(self, backup_id: bytes, sequence: int) -> None:
        """Let the next root of a backup have a higher sequence than another one has."""
        self._sequences[backup_id] = max(self._sequences[backup_id], sequence)

    async def put(self, key: str, root: Root, condition: Condition) -> HeldRoot:
        """Write a root; where a condition fails because of an own root, it is put over that.

        Raises:
            PreconditionFailedError: the condition fails because of somebody else's.
        """
        data = encode_root(self._keyring, key, root)
        unanswered = self._unanswered.setdefault(root.backup_id, set())
        unanswered.add(root.owner.nonce)
        for _ in range(ATTEMPTS):
            try:
                stored = await self._store.put(key, data, condition=condition)
            except PreconditionFailedError:
                held = await self._load_own(key, unanswered)
                if held is None:
                    raise
                if held.root.owner.nonce != root.owner.nonce:
                    condition = IfMatch(held.etag)
                    continue
            else:
                held = HeldRoot(root, key, stored.etag)
            unanswered.clear()
            return held
        raise PreconditionFailedError("the root changes again and again", key=key)

    async def _load_own(self, key: str, nonces: set[bytes]) -> HeldRoot | None:
        """What is there, if this writer has put it."""
        try:
            held = await load_root(self._store, self._keyring, key)
        except (ObjectMissingError, IntegrityError):
            return None
        return held if held.root.owner.nonce in nonces else None

    async def remove(self, keys: list[str]) -> None:
        """Remove what is of no use any more; left over it does no harm."""
        if keys:
            with suppress(S3backfsError):
                await self._store.delete(keys)
