"""Prune's side of the protocol between writers and prune.

One prune is at work at a time: it claims that beside its lease, and gives way to others that live.
A condemned set is carried out when every other live lease acknowledges it. Writers whose lease ran
out are fenced before they are ignored.
Source: docs/design.md, "Writers and prune".
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection
from contextlib import suppress

import trio

from s3backfs.backup.finding import gone, load_all, look, with_newer_copies
from s3backfs.backup.owning import RootWriter
from s3backfs.backup.roots import HeldRoot
from s3backfs.errors import (
    ObjectMissingError,
    OwnershipLostError,
    RepositoryBusyError,
    S3backfsError,
)
from s3backfs.format.lease import Lease
from s3backfs.repository.leases import LEASES_PREFIX, FoundLease, lease_key, load_leases
from s3backfs.repository.repository import Repository

log = logging.getLogger(__name__)


def _claim_key(writer: bytes) -> str:
    return f"{LEASES_PREFIX}{writer.hex()}/prune"


_CLOSING_S = 10.0
_SETTLING_S = 5.0
"""What a killed process has sent is stored after so long; its connections ended with it."""

_CLAIM = re.compile(r"leases/([0-9a-f]{32})/prune")


def _busy(found: FoundLease) -> str:
    host, minutes = found.lease.host, max(1, math.ceil(found.left_s / 60))
    return (
        f"another prune is at work on {host}; try again when it has ended. If it was killed, one "
        f"that is started on {host} goes on at once, and here it counts as gone in at most "
        f"{minutes} min, when its lease has run out"
    )


class Agreement:
    """Who still has to agree before a condemned set is carried out."""

    def __init__(self, repository: Repository, exceptions: Collection[bytes] = ()) -> None:
        self._repository = repository
        self._roots = RootWriter(repository)
        self._exceptions = exceptions

    async def begin(self) -> None:
        """Claim to be the only prune at work.

        Of two that begin at once each stores its claim before it looks, so that one sees the other.

        Raises:
            RepositoryBusyError: another one is.
        """
        store = self._repository.store
        with suppress(S3backfsError):
            await self._end_killed()
        await store.put(_claim_key(self._repository.writer_id), b"prune")
        live = {
            found.lease.writer: found
            for found in await load_leases(store, self._repository.keyring)
            if found.is_alive and found.lease.writer != self._repository.writer_id
        }
        for writer in await self._claims():
            if writer in live:
                await self.end()
                raise RepositoryBusyError(_busy(live[writer]))

    async def end(self) -> None:
        """Withdraw the claim; without this writer's lease it means nothing anyway."""
        with trio.move_on_after(_CLOSING_S, shield=True), suppress(S3backfsError):
            await self._repository.store.delete([_claim_key(self._repository.writer_id)])

    async def _end_killed(self) -> None:
        """End the leases of prunes, and the like, that were killed on this machine."""
        dead = self._repository.hold_dead_maintenance()
        if not dead:
            return
        if not await self._repository.proof.is_given():
            # Nothing else keeps a table that is still under way from replacing one of this run.
            await trio.sleep(_SETTLING_S)
        keys = [key for writer in dead for key in (_claim_key(writer), lease_key(writer))]
        await self._repository.store.delete(keys)
        self._repository.forget_dead(dead)
        log.info("ended the leases of %d processes that were killed here", len(dead))

    async def _claims(self) -> list[bytes]:
        found = []
        async for page in self._repository.store.list(LEASES_PREFIX):
            for listed in page:
                if match := _CLAIM.fullmatch(listed.key):
                    found.append(bytes.fromhex(match[1]))
        return found

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
            if isinstance(error, ObjectMissingError):
                raise OwnershipLostError("a root goes to another place just now") from error
            if isinstance(error, Exception):
                raise error
        roots |= await with_newer_copies(store, keyring, roots, beside)
        removed = gone(roots, beside)
        return [
            held
            for name, held in roots.items()
            if name not in removed and held.root.owner.writer in writers
        ]
