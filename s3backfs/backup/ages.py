"""The age of a root: (epoch, sequence), which grows with every state of a backup."""

from __future__ import annotations

import msgspec

from s3backfs.backup.roots import HeldRoot
from s3backfs.errors import OwnershipLostError
from s3backfs.format.root import Root
from s3backfs.repository.root_memory import Age


class FencedError(OwnershipLostError):
    """Prune has raised the epoch of a backup that is still this writer's own."""

    def __init__(self, age: Age, held: HeldRoot | None = None) -> None:
        super().__init__("this writer was taken for gone")
        self.age = age
        self.held = held


def base_age(root: Root) -> Age:
    """The (epoch, sequence) of a root."""
    return root.owner.epoch, root.owner.sequence


def raised(root: Root, epoch: int, writer: bytes) -> Root:
    """A root of another epoch, and perhaps of another owner."""
    owner = msgspec.structs.replace(root.owner, epoch=epoch, writer=writer)
    return msgspec.structs.replace(root, owner=owner)
