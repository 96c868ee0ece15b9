"""What stands beside the roots, most of it where a store does not enforce conditions.

    leases/<writer>/open/<backup id>-<epoch>-<sequence>    a copy of an open root
    leases/<writer>/names/<name>                           a claim: the writer is taking this name
    leases/<writer>/gone/<backup id>-<epoch>-<sequence>    a grave: roots of this age are removed

A copy has a key of its own and is stored before its root, so that no late or lost request can bring
an older state back: the copy with the highest (epoch, sequence) is the state. Graves stand on every
store, since a late first root lands also where conditions are enforced.
Source: docs/design.md, "Ownership".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from s3backfs.format.root import Root
from s3backfs.repository.leases import LEASES_PREFIX
from s3backfs.store.base import Listed, Store

_COPY = re.compile(r"leases/([0-9a-f]{32})/open/([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{16})")
_GONE = re.compile(r"leases/([0-9a-f]{32})/gone/([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{16})")
_CLAIM = re.compile(r"leases/([0-9a-f]{32})/names/([^/]+)")


@dataclass(frozen=True, slots=True)
class Copy:
    """The key of a copy says all that is needed to choose one."""

    writer: bytes
    backup_id: bytes
    epoch: int
    sequence: int

    @classmethod
    def of(cls, root: Root) -> Copy:
        """The copy of a root by its present owner."""
        owner = root.owner
        return cls(owner.writer, root.backup_id, owner.epoch, owner.sequence)

    @property
    def key(self) -> str:
        """The object's key."""
        return self._key("open")

    @property
    def grave_key(self) -> str:
        """The key that says that roots up to this age are removed."""
        return self._key("gone")

    def _key(self, kind: str) -> str:
        return (
            f"{LEASES_PREFIX}{self.writer.hex()}/{kind}/"
            f"{self.backup_id.hex()}-{self.epoch:016x}-{self.sequence:016x}"
        )

    @property
    def age(self) -> tuple[int, int]:
        """Grows with every state of a backup."""
        return self.epoch, self.sequence


@dataclass(frozen=True, slots=True)
class Claim:
    """A writer is taking a name; `modified_ns` by the store's clock."""

    writer: bytes
    name: str
    modified_ns: int


@dataclass(frozen=True, slots=True)
class Beside:
    """One listing of `leases/`."""

    copies: tuple[Copy, ...] = ()
    claims: tuple[Claim, ...] = ()
    graves: tuple[Copy, ...] = ()

    def of_backup(self, backup_id: bytes) -> list[Copy]:
        """All copies of one backup."""
        return [copy for copy in self.copies if copy.backup_id == backup_id]

    def is_gone(self, root: Root) -> bool:
        """Whether an open root is that of a backup that was removed later."""
        age = Copy.of(root).age
        return any(grave.age >= age for grave in self.graves if grave.backup_id == root.backup_id)

    def newer(self, root: Root) -> list[Copy]:
        """The copies that are newer than a root, the newest first."""
        age = Copy.of(root).age
        copies = [copy for copy in self.of_backup(root.backup_id) if copy.age > age]
        return sorted(copies, key=lambda copy: (copy.age, copy.writer), reverse=True)


def claim_key(writer: bytes, encoded_name: str) -> str:
    """The key of a claim."""
    return f"{LEASES_PREFIX}{writer.hex()}/names/{encoded_name}"


async def list_beside(store: Store) -> Beside:
    """List copies and claims.

    Raises:
        StoreError: the store would not list.
    """
    found: list[Listed] = []
    async for page in store.list(LEASES_PREFIX):
        found.extend(page)
    return _beside(found)


def _beside(found: Iterable[Listed]) -> Beside:
    copies, claims, graves = [], [], []
    for listed in found:
        if match := _COPY.fullmatch(listed.key):
            copies.append(_copy(match))
        elif match := _GONE.fullmatch(listed.key):
            graves.append(_copy(match))
        elif match := _CLAIM.fullmatch(listed.key):
            claims.append(Claim(bytes.fromhex(match[1]), match[2], listed.modified_ns))
    return Beside(tuple(copies), tuple(claims), tuple(graves))


def _copy(match: re.Match[str]) -> Copy:
    writer, backup_id, epoch, sequence = match.groups()
    ids = bytes.fromhex(writer), bytes.fromhex(backup_id)
    return Copy(*ids, int(epoch, 16), int(sequence, 16))
