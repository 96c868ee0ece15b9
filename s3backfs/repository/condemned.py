"""Condemned sets: packs that prune is about to delete, which nothing may refer to anew.

Source: docs/format.md, "Condemned sets".
"""

from __future__ import annotations

import logging

from s3backfs.errors import IntegrityError, ObjectMissingError
from s3backfs.format.keys import Keyring
from s3backfs.format.lease import Condemned, decode_condemned
from s3backfs.format.refs import ID_BYTES, Ref
from s3backfs.repository.moved import MovedTables, plan_moved
from s3backfs.store.base import Store

log = logging.getLogger(__name__)

CONDEMNED_PREFIX = "prune/"


def condemned_key(set_id: bytes) -> str:
    """The key of a condemned set."""
    return CONDEMNED_PREFIX + set_id.hex()


async def list_condemned(store: Store) -> list[bytes]:
    """The ids of the condemned sets that are in force.

    Raises:
        StoreError: the store would not list.
    """
    found = []
    async for page in store.list(CONDEMNED_PREFIX):
        for listed in page:
            try:
                set_id = bytes.fromhex(listed.key[len(CONDEMNED_PREFIX) :])
            except ValueError:
                continue
            if len(set_id) == ID_BYTES:
                found.append(set_id)
    return found


async def load_condemned(store: Store, keyring: Keyring, set_id: bytes) -> Condemned:
    """Read and authenticate one set.

    Raises:
        ObjectMissingError: it is not there.
        IntegrityError: it is damaged, or of another name or repository.
        UnsupportedFormatError: a newer program wrote it.
    """
    key = condemned_key(set_id)
    condemned = decode_condemned(keyring, key, (await store.get(key)).data)
    if (condemned.repository_id, condemned.set_id) != (keyring.repository_id, set_id):
        raise IntegrityError("the set is of another name or repository", key=key)
    return condemned


class CondemnedSets:
    """The sets that this writer has read; a pack once condemned stays so for this writer."""

    def __init__(self, store: Store, keyring: Keyring) -> None:
        self._store = store
        self._keyring = keyring
        self._known: set[bytes] = set()
        self._moved = MovedTables(store, keyring)
        self.packs: set[bytes] = set()
        """Packs that are to go; nothing is deduplicated against them."""
        self.tables: set[bytes] = set()
        """Packs that are gone, and whose moved tables are to go."""
        self.version = 0
        """Counts the sets that were read."""

    async def refresh(self) -> tuple[list[bytes], set[bytes]]:
        """Read what is new; return the ids of the sets in force, and the packs that came.

        Raises:
            S3backfsError: a set could not be read, so that it is not known what must be obeyed.
        """
        in_force, fresh = [], set[bytes]()
        for set_id in await list_condemned(self._store):
            if set_id not in self._known:
                try:
                    condemned = await load_condemned(self._store, self._keyring, set_id)
                except ObjectMissingError:
                    # Prune is done with it, and its packs are gone: a listing will tell.
                    continue
                fresh.update(condemned.packs)
                self.tables.update(condemned.tables)
                self._known.add(set_id)
                self.version += 1
            in_force.append(set_id)
        self._known.intersection_update(in_force)
        self.packs |= fresh
        return in_force, fresh

    async def allow(self, ref: Ref) -> bool:
        """Whether something may refer to a place anew: it stays, or is known where it went.

        Raises:
            IntegrityError: the table of where it went is damaged.
        """
        for each in (ref, ref.base):
            if each is None:
                continue
            if each.pack_id in self.tables:
                return False
            if each.pack_id in self.packs and not await self._is_moved(each):
                return False
        return True

    async def _is_moved(self, ref: Ref) -> bool:
        moved = self._moved.known(ref.pack_id) or await self._moved.load(ref.pack_id)
        if moved is None:
            return False
        length = ref.slice_length
        return plan_moved(moved.ranges, ref.pack_offset, ref.slice_offset, length) is not None
