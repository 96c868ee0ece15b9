"""What a writer knows of the repository's packs: what may be referred to, and what is gone."""

from __future__ import annotations

import logging
from collections.abc import Collection

import trio

from s3backfs.errors import S3backfsError
from s3backfs.format.keys import Keyring
from s3backfs.repository.condemned import CondemnedSets
from s3backfs.repository.filling import Filling
from s3backfs.repository.flow import Flow
from s3backfs.repository.index import ChunkIndex, refresh
from s3backfs.store.base import Store

log = logging.getLogger(__name__)

LOOK_EVERY_S = 600.0
"""How old the last listing of packs may be when a backup begins."""


class Learning:
    """Listings of packs, taken into the index."""

    def __init__(
        self, store: Store, keyring: Keyring, index: ChunkIndex, filling: Filling, flow: Flow
    ) -> None:
        self.missing: set[bytes] = set()
        """Packs that are referred to or were written here, and that a listing did not show."""
        self._store = store
        self._keyring = keyring
        self._index = index
        self._filling = filling
        self._flow = flow
        self._is_done = trio.Event()
        self._refreshing = trio.Lock()
        self._looked_s = 0.0

    async def wait(self) -> None:
        """Wait until the index is as new as a listing that is under way."""
        await self._is_done.wait()

    async def learn(self, condemned: CondemnedSets) -> list[bytes]:
        """Bring the index up to date; return the packs that are in no segment yet."""
        waiting: list[bytes] = []
        try:
            # Sets first: what is condemned after that waits for this writer's lease.
            _, packs = await condemned.refresh()
            self.shun(packs)
            await self._refresh()
            # Those of a writer that died before it wrote their segment are among them.
            waiting = await self._flow.in_thread(self._index.waiting_packs)
        except S3backfsError as error:
            log.warning("the index cannot be brought up to date, less is deduplicated: %s", error)
        self._is_done.set()
        return waiting

    def look_anew(self) -> None:
        """List the packs again before a backup begins; contents wait for it.

        In a mount that lives for weeks packs can have been lost, and with them the next backup
        that took its contents from there.
        """
        if self._is_done.is_set() and self._is_old():
            self._is_done = trio.Event()
            self._flow.nursery.start_soon(self.look)

    async def look_if_old(self) -> None:
        """List the packs again if the last listing is old, so that `missing` is of now."""
        if self._is_old():
            await self.look()

    def _is_old(self) -> bool:
        return trio.current_time() - self._looked_s >= LOOK_EVERY_S

    async def look(self) -> None:
        """List the packs; that it cannot be done is logged only."""
        try:
            await self._refresh()
        except S3backfsError as error:
            log.warning("the packs cannot be listed anew: %s", error)
        self._is_done.set()

    async def _refresh(self) -> None:
        async with self._refreshing:
            under_way = self._filling.under_way
            await refresh(self._store, self._keyring, self._index)
            self._looked_s = trio.current_time()
            used = self._filling.written | self._filling.referred
            used -= under_way | self._filling.under_way
            self.missing.update(
                pack_id
                for pack_id in used
                if not (self._index.is_shunned(pack_id) or self._index.is_usable(pack_id))
            )

    def shun(self, pack_ids: Collection[bytes]) -> None:
        """Give nothing a place in these packs any more: they are condemned."""
        self._index.shun(pack_ids)
        self._filling.shun(pack_ids)

    async def find_missing(self) -> set[bytes]:
        """List the packs anew, and return those referred to that are gone or condemned.

        Raises:
            StoreError: the store would not list.
        """
        await self._filling.store_finishing()
        # These nobody else has seen, or they will be sent again as they are.
        under_way = self._filling.under_way
        await self._refresh()
        return {
            pack_id
            for pack_id in self._filling.referred
            if self._index.is_shunned(pack_id)
            or not (pack_id in under_way or self._index.is_usable(pack_id))
        }
