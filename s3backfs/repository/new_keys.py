"""What a new key slot is to be opened with, and the making of its first bytes."""

from __future__ import annotations

import time
from dataclasses import dataclass

import trio

from s3backfs.format.holders import (
    Holder,
    HolderKind,
    KmsBlob,
    new_holder,
    new_passphrase_holder,
    seal_to_holder,
)
from s3backfs.format.keys import Keyring
from s3backfs.format.slots import DEFAULT_COST, Cost


@dataclass(frozen=True, slots=True)
class NewKey:
    """What somebody will open a repository with. Its repr shows nothing of it."""

    kind: HolderKind
    secret: bytes
    label: str = ""
    cost: Cost | None = None
    """What stretching a passphrase costs; None for the default."""
    kms: KmsBlob | None = None

    def __repr__(self) -> str:
        return f"NewKey({self.kind}, {self.label!r})"


async def make_holder(new: NewKey, repository_id: bytes) -> Holder:
    """Make what a slot says of its holder; errors as of `new_passphrase_holder`."""
    now_s = int(time.time())
    if new.kind == "argon2id":
        cost = new.cost or DEFAULT_COST
        return await trio.to_thread.run_sync(
            new_passphrase_holder, new.secret, repository_id, new.label, now_s, cost
        )
    return new_holder(new.kind, new.secret, repository_id, new.label, now_s, new.kms)


async def make_slot(new: NewKey, keyring: Keyring) -> tuple[str, bytes]:
    """Seal the newest master for somebody; return a slot's object key and bytes."""
    holder = await make_holder(new, keyring.repository_id)
    master = keyring.master(keyring.epoch)
    return seal_to_holder(holder, keyring.repository_id, keyring.epoch, master)
