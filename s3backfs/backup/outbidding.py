"""Owning an open backup where the store's conditions are not proven.

A copy of a root is put before the root itself, and a listing of all copies afterwards shows whether
another writer has raised the epoch: of two writers that meet, at least one sees the other. Who
takes a name claims it first.
Source: docs/design.md, "Ownership".
"""

from __future__ import annotations

import trio

from s3backfs.backup.ages import FencedError, base_age, raised
from s3backfs.backup.copies import Copy, claim_key, list_beside
from s3backfs.backup.roots import HeldRoot, check_absent, load_copy, load_root, sealed_key
from s3backfs.backup.sending import ATTEMPTS, RootSender
from s3backfs.errors import (
    ObjectMissingError,
    OwnershipLostError,
    RepositoryBusyError,
    RepositoryExistsError,
)
from s3backfs.format.root import BackupState, Root, encode_root
from s3backfs.repository.repository import Repository

CLAIM_S = 60.0
"""A claim that is older was left by a writer that is gone."""
CLAIM_PAUSE_S = 0.5
_NS = 1_000_000_000


class Outbidding:
    """Stores open roots without conditions."""

    def __init__(self, repository: Repository, sender: RootSender) -> None:
        self._repository = repository
        self._sender = sender
        self._store = repository.store
        # All copies of a root in state sealed, by its nonce.
        self._copies: dict[bytes, list[str]] = {}

    # -- what is done ------------------------------------------------------------------------

    async def create(self, key: str, root: Root, *, must_be_free: bool) -> HeldRoot:
        """Store the first root of an open backup under its name.

        Raises:
            RepositoryExistsError: somebody else has taken the name.
        """
        claim = await self._claim(root.name)
        try:
            if must_be_free:
                await self._check_free(key)
                await check_absent(self._store, sealed_key(self._repository, root.name))
            if base_age(root) > (1, 2):
                # There were roots of it before, maybe under this very name.
                await self._put_copy(root)
            return await self._sender.put(key, root, None)
        finally:
            await self._sender.remove([claim])

    async def replace(self, held: HeldRoot, root: Root) -> HeldRoot:
        """Store the next root of an open backup that this writer owns.

        Raises:
            FencedError: prune has raised the epoch.
            OwnershipLostError: another writer has taken the backup over, or removed it.
        """
        await self._check_present(held)
        await self.check_epochs(root)
        await self._put_copy(root)
        stored = await self._sender.put(held.key, root, None)
        older = await self.check_epochs(root)
        if root.state == BackupState.SEALED:
            # They go with the root itself, which has one more step to its place.
            self._copies[root.owner.nonce] = [Copy.of(root).key, *older]
        else:
            await self._sender.remove(older)
        return stored

    async def raise_epoch(self, held: HeldRoot, writer: bytes) -> HeldRoot:
        """Store the newest state of an open backup with a higher epoch than anybody has given it.

        Raises:
            OwnershipLostError: another writer was faster; look again.
            RepositoryBusyError: its owner is sealing or renaming it at this moment.
        """
        await self._check_present(held)
        root, others = await self._outbid(held.root, writer)
        stored = await self._sender.put(held.key, root, None)
        await self._sender.remove([copy.key for copy in others])
        return stored

    async def remove_copies(self, backup_id: bytes) -> None:
        """Remove the copies of a backup that has no open root any more."""
        copies = (await list_beside(self._store)).of_backup(backup_id)
        await self._sender.remove([copy.key for copy in copies])

    def take_copies(self, nonce: bytes) -> list[str] | None:
        """The keys of all copies of a root in state sealed; None where they are not known."""
        return self._copies.pop(nonce, None)

    # -- copies ------------------------------------------------------------------------------

    async def _put_copy(self, root: Root) -> Copy:
        copy = Copy.of(root)
        await self._store.put(copy.key, encode_root(self._repository.keyring, copy.key, root))
        return copy

    async def _check_present(self, held: HeldRoot) -> None:
        if held.is_unstored:
            return
        try:
            # A HEAD could not tell a missing root from a missing bucket.
            await self._store.get(held.key)
        except ObjectMissingError:
            raise OwnershipLostError("the root of this open backup was removed") from None

    async def check_epochs(self, root: Root) -> list[str]:
        """Make sure that nobody has raised the epoch, and return the keys of older copies.

        Raises:
            FencedError: prune has.
            OwnershipLostError: another writer has.
        """
        copies = (await list_beside(self._store)).of_backup(root.backup_id)
        higher = [copy for copy in copies if copy.epoch > root.owner.epoch]
        if any(copy.writer != root.owner.writer for copy in higher):
            raise OwnershipLostError("this open backup was taken over by another writer")
        if higher:
            raise FencedError(max(copy.age for copy in higher))
        return [copy.key for copy in copies if copy.age < Copy.of(root).age]

    async def _outbid(self, base: Root, writer: bytes) -> tuple[Root, list[Copy]]:
        """Put a copy of the newest state with a higher epoch than anybody else has."""
        before = await list_beside(self._store)
        base = await self._newest_state(base, before.newer(base), is_settled=True)
        epochs = [copy.epoch for copy in before.of_backup(base.backup_id)]
        epoch = max([base.owner.epoch, *epochs]) + 1
        for _ in range(ATTEMPTS):
            root = self._sender.next(raised(base, epoch, writer))
            mine = await self._put_copy(root)
            copies = (await list_beside(self._store)).of_backup(base.backup_id)
            others = [copy for copy in copies if copy != mine]
            if any(copy.epoch >= epoch and copy.writer != mine.writer for copy in others):
                await self._sender.remove([mine.key])
                raise OwnershipLostError("another writer takes this open backup over just now")
            newer = [copy for copy in others if base_age(base) < copy.age < (epoch, 0)]
            newer = [copy for copy in newer if copy not in before.copies]
            if not newer:
                return root, others
            await self._sender.remove([mine.key])
            base = await self._newest_state(base, newer, is_settled=False)
        raise OwnershipLostError("the owner of this open backup is writing it")

    async def _newest_state(self, base: Root, newer: list[Copy], *, is_settled: bool) -> Root:
        """The newest state of a backup under its name.

        Another name is that of an interrupted rename, if it was there before (`is_settled`).
        """
        for copy in sorted(newer, key=lambda copy: copy.age, reverse=True):
            root = await load_copy(self._store, self._repository.keyring, copy)
            is_same = root.name == base.name
            if (is_same and root.state == BackupState.SEALED) or not (is_same or is_settled):
                raise RepositoryBusyError("the owner of this open backup is sealing or renaming it")
            if is_same:
                return root
        return base

    # -- names -------------------------------------------------------------------------------

    async def _claim(self, name: bytes) -> str:
        """Announce that this writer takes a name; of those that meet, at most one goes on.

        Raises:
            RepositoryExistsError: another writer is taking it.
        """
        writer, encoded = self._repository.writer_id, self._repository.keyring.encode_name(name)
        key = claim_key(writer, encoded)
        stored = await self._store.put(key, b"claim")
        oldest_ns = stored.server_time_ns - int(CLAIM_S * _NS)
        for _ in range(ATTEMPTS):
            claims = (await list_beside(self._store)).claims
            rivals = [
                claim.writer
                for claim in claims
                if claim.name == encoded and claim.writer != writer
                if claim.modified_ns >= oldest_ns
                and not self._repository.is_own_writer(claim.writer)
            ]
            if not rivals:
                return key
            if max(rivals) > writer:
                break
            # The others withdraw.
            await trio.sleep(CLAIM_PAUSE_S)
        await self._sender.remove([key])
        raise RepositoryExistsError("another writer is taking this name")

    async def _check_free(self, key: str) -> None:
        try:
            left = await load_root(self._store, self._repository.keyring, key)
        except ObjectMissingError:
            return
        if not (await list_beside(self._store)).is_gone(left.root):
            raise RepositoryExistsError("another writer has just taken this name")
