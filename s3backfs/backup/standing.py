"""How this mount stands with maintenance that runs elsewhere at the same time.

`keep` obeys new condemned sets and then says so in the lease. `assure` is called before each root
is stored: after a lapse of the lease nothing is stored before all that is referred to was seen
again.
Source: docs/design.md, "Writers and prune".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import trio

from s3backfs.backup.node import Node
from s3backfs.backup.picture import Picture
from s3backfs.errors import OwnershipLostError, S3backfsError
from s3backfs.manifest.entry import extra_of
from s3backfs.repository.piece import Piece
from s3backfs.repository.repository import Repository

log = logging.getLogger(__name__)


class Standing:
    """The writer's side of the protocol between writers and prune."""

    def __init__(self, repository: Repository, picture: Picture) -> None:
        self._repository = repository
        self._picture = picture
        self._verifying = trio.Lock()

    # -- condemned sets ----------------------------------------------------------------------

    async def keep(self, every_s: float, held_open: Callable[[], Iterable[Node]]) -> None:
        """Hear of condemned sets now and then, until cancelled; `held_open` gives open files."""
        while True:
            await trio.sleep(every_s)
            try:
                await self.hear(held_open)
            except S3backfsError as error:
                log.warning("prune on another machine has to wait for this mount: %s", error)

    async def hear(self, held_open: Callable[[], Iterable[Node]]) -> None:
        """Obey the condemned sets in force, and acknowledge them.

        Raises:
            S3backfsError: they cannot be acknowledged yet.
        """
        lease = self._repository.lease
        assert lease is not None
        if lease.has_lapsed:
            await self._verify()
        in_force, fresh = await self._repository.condemned.refresh()
        if fresh or not lease.acknowledged.issuperset(in_force):
            self._repository.writer.shun(fresh)
            # From here on nothing refers to them anew; what did before gets into stored roots.
            await self._picture.refresh(is_forced=True)
            for backup in self._picture.own_open():
                await backup.store_older_references()
            packs = self._repository.condemned.packs
            if any(_needs(node, packs) for node in held_open()):
                log.info("a removed file that is still open needs condemned packs: prune waits")
                return
        await lease.acknowledge(in_force)
        if all(backup.is_settled for backup in self._picture.own_open()):
            self._repository.writer.referred.clear()

    # -- lapses ------------------------------------------------------------------------------

    async def assure(self, backup_id: bytes) -> None:
        """Make sure that nobody has taken this writer for gone since its references were made.

        Raises:
            OwnershipLostError: somebody has, and what is needed is gone.
            StoreError: it cannot be found out now.
        """
        lease = self._repository.lease
        if lease is not None and not lease.is_sure:
            async with self._verifying:
                if not lease.is_sure:
                    await lease.renew()
                    if lease.has_lapsed:
                        await self._look_again()
        self._check_lost(backup_id)

    async def revalidate(self, backup_id: bytes) -> None:
        """After prune has fenced a root: see again all that is referred to; raises as `assure`."""
        async with self._verifying:
            lease = self._repository.lease
            assert lease is not None
            lease.has_lapsed = True
            await lease.renew()
            await self._look_again()
        self._check_lost(backup_id)

    def _check_lost(self, backup_id: bytes) -> None:
        for backup in self._picture.lost():
            if backup.id == backup_id and backup.failure is not None:
                raise backup.failure

    async def _verify(self) -> None:
        async with self._verifying:
            await self._look_again()

    async def _look_again(self) -> None:
        """As a new writer: the lease is stored, now sets, packs and roots are listed."""
        log.warning("this mount was away for longer than its lease: looking at all it refers to")
        repository, lease = self._repository, self._repository.lease
        assert lease is not None
        _, fresh = await repository.condemned.refresh()
        repository.writer.shun(fresh)
        missing = await repository.writer.find_missing()
        await self._picture.refresh(is_forced=True)
        for backup in self._picture.own_open():
            if (missing and not backup.is_settled) or backup.lost_sources:
                backup.lose(
                    OwnershipLostError(
                        "this machine was away for longer than its lease, and maintenance has "
                        "removed what was not yet in a checkpoint; mount again and write it again"
                    )
                )
        lease.has_lapsed = False


def _needs(node: Node, packs: set[bytes]) -> bool:
    """Whether a file that has no name any more may have contents in some packs."""
    if node.entry is None or any(True for _ in node.places()):
        return False
    if extra_of(node.entry).extent_tree is not None:
        return True
    contents = (extent.content for extent in node.entry.extents)
    refs = (content.ref if isinstance(content, Piece) else content for content in contents)
    return any(ref is not None and ref.pack_id in packs for ref in refs)
