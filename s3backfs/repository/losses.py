"""What this mount has found to be lost, and whether something that refers there still needs it.

Suspicion is kept in sets that reader and writer fill; it is borne out by the store before anything
is said of a backup, since a pack may have been moved, or may be back.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

from s3backfs.errors import DeniedError, IntegrityError, ObjectMissingError
from s3backfs.format.keys import Keyring
from s3backfs.format.refs import Kind, Ref
from s3backfs.repository.moved import MAX_HOPS, MovedTables, plan_moved
from s3backfs.repository.packing import pack_key
from s3backfs.store.base import Store


class Losses:
    """Packs that were not there when they were wanted, and frames that did not open.

    `frames` (pack id, offset) and `packs` belong to others, and may grow at any time.
    """

    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        *,
        frames: Set[tuple[bytes, int]],
        packs: Iterable[Set[bytes]],
    ) -> None:
        self._store = store
        self._tables = MovedTables(store, keyring)
        self._frames = frames
        self._noted: set[bytes] = set()
        self._packs = (*packs, self._noted)
        self._absent: dict[bytes, bool] = {}

    @property
    def version(self) -> int:
        """Grows with every new suspicion; 0 while there is none."""
        return len(self._frames) + self.packs_version

    @property
    def packs_version(self) -> int:
        """Grows with every pack that is suspected as a whole."""
        return sum(map(len, self._packs))

    def suspect_packs(self) -> set[bytes]:
        """The packs in which anything is suspected."""
        return {pack_id for pack_id, _ in self._frames}.union(*self._packs)

    def note(self, pack_ids: Iterable[bytes]) -> None:
        """Suspect packs that something else says are lost."""
        self._noted.update(pack_ids)

    def is_suspect(self, ref: Ref) -> bool:
        """Whether a place may be lost, as far as this mount has seen."""
        return (ref.pack_id, ref.pack_offset) in self._frames or self._is_pack_suspect(ref.pack_id)

    def _is_pack_suspect(self, pack_id: bytes) -> bool:
        return any(pack_id in packs for packs in self._packs)

    def look_anew(self) -> None:
        """Ask the store again which of the suspected packs are there."""
        self._absent.clear()

    async def is_lost(self, ref: Ref) -> bool:
        """Whether a place, or the base of its patch, is lost, and was moved nowhere.

        Raises:
            StoreError: the store would not say.
        """
        base = ref.base
        if base is not None and await self._is_lost(base, 0):
            return True
        return await self._is_lost(ref, 0)

    async def _is_lost(self, ref: Ref, hops: int) -> bool:
        if not self.is_suspect(ref):
            return False
        is_damaged = (ref.pack_id, ref.pack_offset) in self._frames
        if not is_damaged and not await self._is_absent(ref.pack_id):
            return False
        table = self._tables.known(ref.pack_id)
        if table is None:
            try:
                table = await self._tables.load(ref.pack_id)
            except IntegrityError:
                return True
        if table is None or hops >= MAX_HOPS:
            return True
        parts = plan_moved(table.ranges, ref.pack_offset, ref.slice_offset, ref.slice_length)
        if parts is None:
            return True
        return any([await self._is_lost(part.target, hops + 1) for part in parts])

    async def _is_absent(self, pack_id: bytes) -> bool:
        known = self._absent.get(pack_id)
        if known is None:
            # Leaves of entries refer to contents and to nodes alike.
            known = not (
                await self._has(pack_key(Kind.DATA, pack_id))
                or await self._has(pack_key(Kind.META, pack_id))
            )
            self._absent[pack_id] = known
        return known

    async def _has(self, key: str) -> bool:
        try:
            await self._store.head(key)
        except (ObjectMissingError, DeniedError):
            # Who may not list is not told what is missing.
            return False
        return True
