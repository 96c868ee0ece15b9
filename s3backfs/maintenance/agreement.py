"""Prune's side of the protocol between writers and prune.

Who carries a condemned set out does so alone: its own lease does not acknowledge the set, and every
other live lease does. Writers whose lease ran out are fenced before they are ignored.
Source: docs/design.md, "Writers and prune".
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from s3backfs.backup.finding import gone, load_all, look, with_newer_copies
from s3backfs.backup.owning import RootWriter
from s3backfs.backup.roots import HeldRoot
from s3backfs.errors import OwnershipLostError
from s3backfs.format.lease import Lease
from s3backfs.repository.leases import WriterLease, load_leases
from s3backfs.repository.repository import Repository

log = logging.getLogger(__name__)


class Agreement:
    """Who still has to agree before a condemned set is carried out."""

    def __init__(self, repository: Repository, exceptions: Collection[bytes] = ()) -> None:
        assert repository.lease is not None
        self._repository = repository
        self._lease: WriterLease = repository.lease
        self._roots = RootWriter(repository)
        self._exceptions = exceptions

    async def acknowledge(self, but: Collection[bytes] = ()) -> None:
        """Obey the sets of others; call it only while nothing copied waits for its table.

        Raises:
            S3backfsError: a set could not be read, or the lease not be stored.
        """
        in_force, fresh = await self._repository.condemned.refresh()
        self._repository.writer.shun(fresh)
        await self._lease.acknowledge(set(in_force).difference(but))

    async def waits_for(self, set_id: bytes) -> list[Lease]:
        """Return the live writers that have not acknowledged a set; fence those that are gone.

        Raises:
            IntegrityError: a lease cannot be read, so that it is not known who has to agree.
        """
        waiting, gone = [], set[bytes]()
        for found in await load_leases(self._repository.store, self._repository.keyring):
            if found.lease.writer == self._repository.writer_id:
                continue
            if not found.is_alive:
                gone.add(found.lease.writer)
            elif set_id not in found.lease.acknowledged:
                waiting.append(found.lease)
        if not waiting:
            await self._fence(gone)
        return waiting

    async def _fence(self, writers: Collection[bytes]) -> None:
        for held in await self._open_roots(writers):
            try:
                await self._roots.fence(held)
            except OwnershipLostError:
                # It moves: whoever wrote it has a lease that must be looked at anew.
                log.info("%s changes just now; the set is left for the next run", held.key)
                raise

    async def _open_roots(self, writers: Collection[bytes]) -> list[HeldRoot]:
        store, keyring = self._repository.store, self._repository.keyring
        if not writers:
            return []
        found, beside = await look(store, keyring)
        opened = [
            entry
            for entry in found.values()
            if not entry.is_sealed and entry.name not in self._exceptions
        ]
        loaded = await load_all(store, keyring, opened)
        roots = {entry.name: held for entry, held in loaded if isinstance(held, HeldRoot)}
        for _, error in loaded:
            if isinstance(error, Exception):
                raise error
        roots |= await with_newer_copies(store, keyring, roots, beside)
        removed = gone(roots, beside)
        return [
            held
            for name, held in roots.items()
            if name not in removed and held.root.owner.writer in writers
        ]
