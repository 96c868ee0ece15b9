"""Storing roots: an open backup has one owner, whatever the network does.

Where conditions are proven, each root is put over the very one that was put or read before. Where
they are not, `outbidding.py` has another protocol for the same.
Source: docs/design.md, "Ownership".
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from s3backfs.backup.ages import FencedError, base_age, raised
from s3backfs.backup.copies import Copy, list_beside
from s3backfs.backup.outbidding import Outbidding
from s3backfs.backup.roots import HeldRoot, check_absent, load_root, open_key, sealed_key
from s3backfs.backup.sending import ATTEMPTS, RootSender
from s3backfs.errors import (
    IntegrityError,
    ObjectMissingError,
    OwnershipLostError,
    PreconditionFailedError,
    RepositoryExistsError,
    S3backfsError,
)
from s3backfs.format.root import BackupState, Root
from s3backfs.repository.repository import Repository
from s3backfs.store.base import Condition, IfAbsent, IfMatch

if TYPE_CHECKING:
    from s3backfs.backup.standing import Standing

log = logging.getLogger(__name__)


class RootWriter:
    """Stores the roots of this mount's own backups."""

    def __init__(self, repository: Repository, standing: Standing | None = None) -> None:
        self._repository = repository
        self._standing = standing
        self._store = repository.store
        self._sender = RootSender(repository)
        self._outbidding = Outbidding(repository, self._sender)

    # -- open roots --------------------------------------------------------------------------

    async def create(self, root: Root, *, over: HeldRoot | None = None) -> HeldRoot:
        """Store the first root of an open backup under its name.

        `over` is the sealed root of the same backup that gives way.

        Raises:
            RepositoryExistsError: somebody else has taken the name.
        """
        held = await self._create(root, over)
        # While the sealed root stands, that is the one that counts.
        return held if over is not None else self._remembered(held)

    async def _create(self, root: Root, over: HeldRoot | None) -> HeldRoot:
        key, root = open_key(self._repository, root.name), self._sender.next(root)
        condition: Condition = IfAbsent()
        if over is not None:
            root, condition = await self._beyond_left(key, root, over)
        if await self._is_conditional():
            if over is None:
                await check_absent(self._store, sealed_key(self._repository, root.name))
            try:
                return await self._sender.put(key, root, condition)
            except PreconditionFailedError:
                return await self._put_over_older(key, root)
        return await self._outbidding.create(key, root, must_be_free=over is None)

    async def _put_over_older(self, key: str, root: Root) -> HeldRoot:
        """Replace what an interrupted rename or seal of the same backup has left under a name."""
        try:
            left = await load_root(self._store, self._repository.keyring, key)
            is_older = base_age(left.root) < base_age(root)
            if (left.root.backup_id == root.backup_id and is_older) or await self._is_gone(left):
                return await self._sender.put(key, root, IfMatch(left.etag))
        except (ObjectMissingError, PreconditionFailedError) as error:
            raise RepositoryExistsError("another writer has just taken this name") from error
        raise RepositoryExistsError("another writer has just taken this name")

    async def _beyond_left(
        self, key: str, root: Root, over: HeldRoot
    ) -> tuple[Root, IfAbsent | IfMatch]:
        """Go beyond what an interrupted reopening of the same backup has left.

        While the sealed root stands, nothing was acknowledged that is under the open one.
        """
        try:
            left = await load_root(self._store, self._repository.keyring, key)
        except ObjectMissingError:
            return root, IfAbsent()
        try:
            sealed = await self._sealed_alike(root)
        except ObjectMissingError as error:
            raise RepositoryExistsError("another writer has just reopened this backup") from error
        is_same = sealed.root.owner.nonce == over.root.owner.nonce
        if left.root.backup_id != root.backup_id or not is_same:
            raise RepositoryExistsError("another writer has just taken this name")
        epoch = max(root.owner.epoch, left.root.owner.epoch + 1)
        return raised(root, epoch, root.owner.writer), IfMatch(left.etag)

    async def replace(self, held: HeldRoot, root: Root) -> HeldRoot:
        """Store the next root of an open backup that this writer owns.

        Raises:
            OwnershipLostError: another writer has taken the backup over, or removed it.
        """
        if self._standing is not None:
            await self._standing.assure(root.backup_id)
        for _ in range(ATTEMPTS):
            try:
                return self._remembered(await self._replace_once(held, self._sender.next(root)))
            except FencedError as fence:
                if self._standing is None:
                    raise
                log.warning("%s: prune took this writer for gone", held.key)
                await self._standing.revalidate(root.backup_id)
                held = fence.held or held
                epoch, sequence = fence.age
                root = raised(root, epoch, root.owner.writer)
                self._sender.go_beyond(root.backup_id, sequence)
        raise OwnershipLostError("prune takes this writer for gone again and again")

    async def _replace_once(self, held: HeldRoot, root: Root) -> HeldRoot:
        if await self._is_conditional():
            return await self._replace_if(held, root, "taken over or removed by another writer")
        return await self._outbidding.replace(held, root)

    async def fence(self, held: HeldRoot) -> HeldRoot:
        """Keep a writer that is taken for gone from storing what it had under way.

        The backup stays that writer's. Should it wake up, its next root is refused, and it looks
        again at all that it refers to before it goes on from the raised epoch.

        Raises:
            OwnershipLostError: the root has changed just now.
        """
        return await self._raise_epoch(held, held.root.owner.writer)

    async def take_over(self, held: HeldRoot) -> HeldRoot:
        """Become the owner of an open backup, by a higher epoch.

        Raises:
            OwnershipLostError: another writer was faster; look again.
            RepositoryBusyError: its owner is sealing it at this moment.
        """
        return self._remembered(await self._raise_epoch(held, self._repository.writer_id))

    async def _raise_epoch(self, held: HeldRoot, writer: bytes) -> HeldRoot:
        if await self._is_conditional():
            root = self._sender.next(raised(held.root, held.root.owner.epoch + 1, writer))
            return await self._replace_if(held, root, "changed by another writer just now")
        return await self._outbidding.raise_epoch(held, writer)

    async def bury(self, held: HeldRoot) -> None:
        """Remove an open root for good: a late duplicate of it must not bring the backup back.

        Raises:
            OwnershipLostError: another writer has taken the backup over.
            StoreError: the root could not be removed.
        """
        grave = Copy.of(held.root).grave_key
        await self._store.put(grave, b"gone")
        try:
            await self._check_owned(held)
        except OwnershipLostError:
            await self._sender.remove([grave])
            raise
        await self.remove(held)
        self._repository.root_memory.forget(held.root.backup_id)

    async def check_renamed(self, old: HeldRoot, new: HeldRoot) -> None:
        """Before the old name of an open backup goes: give the new one up if it was taken over.

        Who takes over looks for new names and graves afterwards, so that one sees the other.

        Raises:
            OwnershipLostError: another writer has taken it over under its old name.
        """
        try:
            await self._check_owned(old)
        except OwnershipLostError:
            await self._sender.remove([new.key, Copy.of(new.root).key])
            raise

    async def _check_owned(self, held: HeldRoot) -> None:
        """Make sure that nobody else has raised the epoch of a root that is about to be removed."""
        if not await self._is_conditional():
            # Where prune has raised it, the backup is this writer's all the same.
            with suppress(FencedError):
                await self._outbidding.check_epochs(held.root)
            return
        with suppress(ObjectMissingError):
            found = await load_root(self._store, self._repository.keyring, held.key)
            if found.root.owner.writer != held.root.owner.writer:
                raise OwnershipLostError("this open backup was taken over by another writer")

    async def remove(self, held: HeldRoot) -> None:
        """Remove an open root and its copies.

        Raises:
            StoreError: the root could not be removed.
        """
        await self._store.delete([held.key])
        if not await self._is_conditional():
            with suppress(S3backfsError):
                await self._outbidding.remove_copies(held.root.backup_id)

    async def _replace_if(self, held: HeldRoot, root: Root, why: str) -> HeldRoot:
        condition = IfMatch(held.etag) if held.etag else IfAbsent()
        try:
            return await self._sender.put(held.key, root, condition)
        except PreconditionFailedError as error:
            # A server may want etags to be written in another way than it did last week.
            if await self._repository.proof.is_renewed() and await self._is_conditional():
                return await self._replace_if(held, root, why)
            fence = await self._load_fence(held, root)
            if fence is not None:
                raise FencedError(base_age(fence.root), fence) from error
            raise OwnershipLostError(f"this open backup was {why}") from error

    async def _load_fence(self, held: HeldRoot, root: Root) -> HeldRoot | None:
        """The root that stands where ours was, if it is ours but for a raised epoch."""
        try:
            found = await load_root(self._store, self._repository.keyring, held.key)
        except (ObjectMissingError, IntegrityError):
            return None
        owner = found.root.owner
        is_ours = found.root.backup_id == root.backup_id and owner.writer == root.owner.writer
        return found if is_ours and owner.epoch > root.owner.epoch else None

    # -- sealed roots ------------------------------------------------------------------------

    async def decide_seal(self, held: HeldRoot, root: Root) -> HeldRoot:
        """Store a sealed state in the place of the open one: from here on nothing can change it.

        Raises:
            RepositoryExistsError: there is another sealed backup of this name; nothing is decided.
            OwnershipLostError: another writer has taken the backup over.
        """
        with suppress(ObjectMissingError):
            await self._sealed_alike(root)
        sealed: Root = msgspec.structs.replace(root, state=BackupState.SEALED)
        return await self.replace(held, sealed)

    async def complete_seal(self, decided: HeldRoot) -> HeldRoot:
        """Store the sealed root in its own place, and remove the open one.

        Raises:
            RepositoryExistsError: there is another sealed backup of this name.
        """
        stored = await self.create_sealed(decided.root)
        if stored.root.owner.epoch > 1:
            # It may have been sealed before, and that root be put back.
            self._remembered(stored)
        else:
            self._repository.root_memory.forget(stored.root.backup_id)
        await self._try_to_remove(decided)
        return stored

    async def create_sealed(self, root: Root) -> HeldRoot:
        """Create the root of a sealed backup; it is never replaced.

        Raises:
            RepositoryExistsError: there is another sealed backup of this name.
        """
        key = sealed_key(self._repository, root.name)
        if await self._is_conditional():
            try:
                return await self._sender.put(key, self._sender.next(root), IfAbsent())
            except PreconditionFailedError:
                return await self._sealed_alike(root)
        with suppress(ObjectMissingError):
            # Another attempt may have stored it already.
            return await self._sealed_alike(root)
        return await self._sender.put(key, self._sender.next(root), None)

    async def _sealed_alike(self, root: Root) -> HeldRoot:
        key = sealed_key(self._repository, root.name)
        held = await load_root(self._store, self._repository.keyring, key)
        if held.root.backup_id != root.backup_id:
            raise RepositoryExistsError("there is a sealed backup of this name already")
        return held

    async def _try_to_remove(self, held: HeldRoot) -> None:
        try:
            copies = self._outbidding.take_copies(held.root.owner.nonce)
            if copies is None:
                await self.remove(held)
            else:
                await self._store.delete([held.key, *copies])
        except S3backfsError as error:
            log.info("%s could not be removed, which does no harm: %s", held.key, error)

    # -- parts -------------------------------------------------------------------------------

    async def _is_conditional(self) -> bool:
        return await self._repository.proof.is_given()

    def _remembered(self, held: HeldRoot) -> HeldRoot:
        """Note what was stored, so that the next mount of this machine knows an older root."""
        self._repository.root_memory.remember(held.root.backup_id, base_age(held.root))
        return held

    async def _is_gone(self, left: HeldRoot) -> bool:
        """Whether a root is a late one of a backup that was removed."""
        return (await list_beside(self._store)).is_gone(left.root)
