"""Storing roots: an open backup has one owner, whatever the network does.

Where conditions are proven, each root is put over the very one that was put or read before.
Where they are not, a copy is put first, and a listing of all copies afterwards shows whether
another writer has raised the epoch: of two writers that meet, at least one sees the other.
Source: docs/design.md, "Ownership".
"""

from __future__ import annotations

import logging
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import trio

from s3backfs.backup.copies import Copy, claim_key, list_beside
from s3backfs.backup.roots import HeldRoot, load_copy, load_root, open_key, sealed_key
from s3backfs.errors import (
    IntegrityError,
    ObjectMissingError,
    OwnershipLostError,
    PreconditionFailedError,
    RepositoryBusyError,
    RepositoryExistsError,
    RolledBackError,
    S3backfsError,
)
from s3backfs.format.refs import ID_BYTES
from s3backfs.format.root import BackupState, Root, encode_root
from s3backfs.repository.repository import Repository
from s3backfs.store.base import Condition, IfAbsent, IfMatch

if TYPE_CHECKING:
    from s3backfs.backup.standing import Standing

log = logging.getLogger(__name__)

ATTEMPTS = 4
CLAIM_S = 60.0
"""A claim that is older was left by a writer that is gone."""
CLAIM_PAUSE_S = 0.5
_NS = 1_000_000_000


class RootWriter:
    """Stores the roots of this mount's own backups."""

    def __init__(self, repository: Repository, standing: Standing | None = None) -> None:
        self._repository = repository
        self._standing = standing
        self._store = repository.store
        # Roots that were sent and not answered; they may be there, and they are ours.
        self._unanswered: dict[bytes, set[bytes]] = {}
        self._sequences: dict[bytes, int] = {}
        # All copies of a root in state sealed, by its nonce.
        self._copies: dict[bytes, list[str]] = {}

    # -- open roots --------------------------------------------------------------------------

    async def create(self, root: Root, *, over: HeldRoot | None = None) -> HeldRoot:
        """Store the first root of an open backup under its name.

        `over` is the sealed root of the same backup that gives way.

        Raises:
            RepositoryExistsError: somebody else has taken the name.
        """
        return self._remembered(await self._create(root, over))

    async def _create(self, root: Root, over: HeldRoot | None) -> HeldRoot:
        key, root = open_key(self._repository, root.name), self._next(root)
        condition: Condition = IfAbsent()
        if over is not None:
            root, condition = await self._beyond_left(key, root, over)
        if await self._is_conditional():
            if over is None:
                await self._check_absent(sealed_key(self._repository, root.name))
            try:
                return await self._put(key, root, condition)
            except PreconditionFailedError:
                return await self._put_over_older(key, root)
        claim = await self._claim(root.name)
        try:
            if over is None:
                await self._check_free(key)
                await self._check_absent(sealed_key(self._repository, root.name))
            if base_age(root) > (1, 2):
                # There were roots of it before, maybe under this very name.
                await self._put_copy(root)
            return await self._put(key, root, None)
        finally:
            await self._remove([claim])

    async def _put_over_older(self, key: str, root: Root) -> HeldRoot:
        """Replace what an interrupted rename or seal of the same backup has left under a name."""
        try:
            left = await load_root(self._store, self._repository.keyring, key)
            is_older = base_age(left.root) < base_age(root)
            if (left.root.backup_id == root.backup_id and is_older) or await self._is_gone(left):
                return await self._put(key, root, IfMatch(left.etag))
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
        return _raised(root, epoch, root.owner.writer), IfMatch(left.etag)

    async def replace(self, held: HeldRoot, root: Root) -> HeldRoot:
        """Store the next root of an open backup that this writer owns.

        Raises:
            OwnershipLostError: another writer has taken the backup over, or removed it.
        """
        if self._standing is not None:
            await self._standing.assure(root.backup_id)
        for _ in range(ATTEMPTS):
            try:
                return self._remembered(await self._replace_once(held, self._next(root)))
            except _FencedError as fence:
                if self._standing is None:
                    raise
                log.warning("%s: prune took this writer for gone", held.key)
                await self._standing.revalidate(root.backup_id)
                held = fence.held or held
                epoch, sequence = fence.age
                root = _raised(root, epoch, root.owner.writer)
                self._sequences[root.backup_id] = max(self._sequences[root.backup_id], sequence)
        raise OwnershipLostError("prune takes this writer for gone again and again")

    async def _replace_once(self, held: HeldRoot, root: Root) -> HeldRoot:
        if await self._is_conditional():
            return await self._replace_if(held, root, "taken over or removed by another writer")
        await self._check_present(held)
        await self._check_epochs(root)
        await self._put_copy(root)
        stored = await self._put(held.key, root, None)
        older = await self._check_epochs(root)
        if root.state == BackupState.SEALED:
            # They go with the root itself, which has one more step to its place.
            self._copies[root.owner.nonce] = [Copy.of(root).key, *older]
        else:
            await self._remove(older)
        return stored

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
            root = self._next(_raised(held.root, held.root.owner.epoch + 1, writer))
            return await self._replace_if(held, root, "changed by another writer just now")
        await self._check_present(held)
        root, others = await self._outbid(held.root, writer)
        stored = await self._put(held.key, root, None)
        await self._remove([copy.key for copy in others])
        return stored

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
            await self._remove([grave])
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
            await self._remove([new.key, Copy.of(new.root).key])
            raise

    async def _check_owned(self, held: HeldRoot) -> None:
        """Make sure that nobody else has raised the epoch of a root that is about to be removed."""
        if not await self._is_conditional():
            # Where prune has raised it, the backup is this writer's all the same.
            with suppress(_FencedError):
                await self._check_epochs(held.root)
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
                copies = (await list_beside(self._store)).of_backup(held.root.backup_id)
                await self._remove([copy.key for copy in copies])

    async def _replace_if(self, held: HeldRoot, root: Root, why: str) -> HeldRoot:
        condition = IfMatch(held.etag) if held.etag else IfAbsent()
        try:
            return await self._put(held.key, root, condition)
        except PreconditionFailedError as error:
            # A server may want etags to be written in another way than it did last week.
            if await self._repository.proof.is_renewed() and await self._is_conditional():
                return await self._replace_if(held, root, why)
            fence = await self._load_fence(held, root)
            if fence is not None:
                raise _FencedError(base_age(fence.root), fence) from error
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
                return await self._put(key, self._next(root), IfAbsent())
            except PreconditionFailedError:
                return await self._sealed_alike(root)
        with suppress(ObjectMissingError):
            # Another attempt may have stored it already.
            return await self._sealed_alike(root)
        return await self._put(key, self._next(root), None)

    async def _sealed_alike(self, root: Root) -> HeldRoot:
        key = sealed_key(self._repository, root.name)
        held = await load_root(self._store, self._repository.keyring, key)
        if held.root.backup_id != root.backup_id:
            raise RepositoryExistsError("there is a sealed backup of this name already")
        return held

    async def _try_to_remove(self, held: HeldRoot) -> None:
        try:
            copies = self._copies.pop(held.root.owner.nonce, None)
            if copies is None:
                await self.remove(held)
            else:
                await self._store.delete([held.key, *copies])
        except S3backfsError as error:
            log.info("%s could not be removed, which does no harm: %s", held.key, error)

    # -- parts -------------------------------------------------------------------------------

    async def _is_conditional(self) -> bool:
        return await self._repository.proof.is_given()

    def _next(self, root: Root) -> Root:
        """Give a root a sequence and a nonce that no root before has had."""
        backup_id, owner = root.backup_id, root.owner
        sequence = max(owner.sequence, self._sequences.get(backup_id, 0)) + 1
        self._sequences[backup_id] = sequence
        owner = msgspec.structs.replace(
            owner, sequence=sequence, nonce=secrets.token_bytes(ID_BYTES)
        )
        return msgspec.structs.replace(root, owner=owner)

    def _remembered(self, held: HeldRoot) -> HeldRoot:
        """Note what was stored, so that the next mount of this machine knows an older root."""
        self._repository.root_memory.remember(held.root.backup_id, base_age(held.root))
        return held

    async def _put(self, key: str, root: Root, condition: Condition) -> HeldRoot:
        """Write a root; where a condition fails because of an own root, it is put over that."""
        data = encode_root(self._repository.keyring, key, root)
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
            held = await load_root(self._store, self._repository.keyring, key)
        except (ObjectMissingError, IntegrityError):
            return None
        return held if held.root.owner.nonce in nonces else None

    async def _remove(self, keys: list[str]) -> None:
        """Remove what is of no use any more; left over it does no harm."""
        if keys:
            with suppress(S3backfsError):
                await self._store.delete(keys)

    # -- where conditions are not proven -----------------------------------------------------

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

    async def _check_epochs(self, root: Root) -> list[str]:
        """Make sure that nobody has raised the epoch, and return the keys of older copies."""
        copies = (await list_beside(self._store)).of_backup(root.backup_id)
        higher = [copy for copy in copies if copy.epoch > root.owner.epoch]
        if any(copy.writer != root.owner.writer for copy in higher):
            raise OwnershipLostError("this open backup was taken over by another writer")
        if higher:
            raise _FencedError(max(copy.age for copy in higher))
        return [copy.key for copy in copies if copy.age < Copy.of(root).age]

    async def _outbid(self, base: Root, writer: bytes) -> tuple[Root, list[Copy]]:
        """Put a copy of the newest state with a higher epoch than anybody else has."""
        before = await list_beside(self._store)
        base = await self._newest_state(base, before.newer(base), is_settled=True)
        epochs = [copy.epoch for copy in before.of_backup(base.backup_id)]
        epoch = max([base.owner.epoch, *epochs]) + 1
        for _ in range(ATTEMPTS):
            root = self._next(_raised(base, epoch, writer))
            mine = await self._put_copy(root)
            copies = (await list_beside(self._store)).of_backup(base.backup_id)
            others = [copy for copy in copies if copy != mine]
            if any(copy.epoch >= epoch and copy.writer != mine.writer for copy in others):
                await self._remove([mine.key])
                raise OwnershipLostError("another writer takes this open backup over just now")
            newer = [copy for copy in others if base_age(base) < copy.age < (epoch, 0)]
            newer = [copy for copy in newer if copy not in before.copies]
            if not newer:
                return root, others
            await self._remove([mine.key])
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
        await self._remove([key])
        raise RepositoryExistsError("another writer is taking this name")

    async def _check_free(self, key: str) -> None:
        try:
            left = await load_root(self._store, self._repository.keyring, key)
        except ObjectMissingError:
            return
        if not await self._is_gone(left):
            raise RepositoryExistsError("another writer has just taken this name")

    async def _is_gone(self, left: HeldRoot) -> bool:
        """Whether a root is a late one of a backup that was removed."""
        return (await list_beside(self._store)).is_gone(left.root)

    async def _check_absent(self, key: str) -> None:
        with suppress(ObjectMissingError):
            await self._store.head(key)
            raise RepositoryExistsError("another writer has just taken this name")


class _FencedError(OwnershipLostError):
    """Prune has raised the epoch of a backup that is still this writer's own."""

    def __init__(self, age: tuple[int, int], held: HeldRoot | None = None) -> None:
        super().__init__("this writer was taken for gone")
        self.age = age
        self.held = held


def _raised(root: Root, epoch: int, writer: bytes) -> Root:
    owner = msgspec.structs.replace(root.owner, epoch=epoch, writer=writer)
    return msgspec.structs.replace(root, owner=owner)


def base_age(root: Root) -> tuple[int, int]:
    """The (epoch, sequence) of a root."""
    return root.owner.epoch, root.owner.sequence


def rolled_back(root: Root, remembered: tuple[int, int]) -> RolledBackError:
    """Say that an open root is older than the one that this machine stored last."""
    name = root.name.decode("utf-8", "backslashreplace")
    (epoch, sequence), (was_epoch, was_sequence) = base_age(root), remembered
    return RolledBackError(
        f"open backup {name} is older than this machine has left it (epoch {epoch}, root "
        f"{sequence}; it was {was_epoch}, {was_sequence}): somebody has put an old root back; it "
        "stays as it is, and mount --take-over goes on from there"
    )
