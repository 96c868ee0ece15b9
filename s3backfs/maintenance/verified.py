"""Remembering in the repository what was read and found sound, and when.

Each run writes a state of its own that has all that it found before, and removes only what it has
taken over, so that two runs at once lose nothing.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection, Iterable

from s3backfs.errors import IntegrityError, ObjectMissingError, StoreError, UnsupportedFormatError
from s3backfs.format.keys import Keyring
from s3backfs.format.refs import ID_BYTES
from s3backfs.format.verified import decode_verified, encode_verified
from s3backfs.maintenance.shelf import server_time_ns
from s3backfs.maintenance.survey import PackListed, list_packs
from s3backfs.store.base import Store

log = logging.getLogger(__name__)

VERIFIED_PREFIX = "verified/"

_NS = 1_000_000_000


class VerifiedState:
    """When each pack was last read as a whole; `proven_s` in seconds since 1970."""

    def __init__(self, store: Store, keyring: Keyring) -> None:
        self._store = store
        self._keyring = keyring
        self._key = VERIFIED_PREFIX + secrets.token_hex(ID_BYTES)
        self._older: list[str] = []
        self.proven_s: dict[bytes, int] = {}

    async def load(self) -> None:
        """Take in what earlier runs have left.

        Raises:
            StoreError: the store would not list or give.
        """
        async for page in self._store.list(VERIFIED_PREFIX):
            for listed in page:
                await self._load_one(listed.key)

    async def _load_one(self, key: str) -> None:
        try:
            data = (await self._store.get(key)).data
            packs = decode_verified(self._keyring, key, data).packs
        except ObjectMissingError:
            return
        except UnsupportedFormatError:
            return
        except IntegrityError as error:
            log.warning("what was proven before is not known: %s", error)
            packs = {}
        self._older.append(key)
        for pack_id, time_s in packs.items():
            self.note(pack_id, time_s)

    def sound_s(self, pack: PackListed) -> int:
        """When a pack was last known to be sound: read as a whole, or else stored."""
        return self.proven_s.get(pack.pack_id) or pack.modified_ns // _NS

    def oldest_unproven_s(self, packs: Iterable[PackListed], now_s: int) -> int | None:
        """Age of the content that was not read for longest; None where there is none."""
        times = [self.sound_s(pack) for pack in packs]
        return max(0, now_s - min(times)) if times else None

    def note(self, pack_id: bytes, time_s: int) -> None:
        """Note that a pack was read."""
        self.proven_s[pack_id] = max(time_s, self.proven_s.get(pack_id, 0))

    def disprove(self, pack_id: bytes) -> None:
        """Forget that a pack was sound."""
        self.proven_s.pop(pack_id, None)

    async def store(self, present: Collection[bytes]) -> bool:
        """Store what is known of packs that are there; False where these credentials may not."""
        kept = {pack: time_s for pack, time_s in self.proven_s.items() if pack in present}
        try:
            await self._store.put(self._key, encode_verified(self._keyring, self._key, kept))
            older, self._older = self._older, []
            await self._store.delete(older)
        except StoreError as error:
            log.warning("what was proven cannot be remembered: %s", error)
            return False
        return True


async def measure_unproven(store: Store, keyring: Keyring) -> int | None:
    """Say for how many seconds some content was not read, by the store's clock.

    Raises:
        StoreError: the store would not list or give.
    """
    verified = VerifiedState(store, keyring)
    await verified.load()
    now_s = await server_time_ns(store) // _NS
    return verified.oldest_unproven_s((await list_packs(store)).values(), now_s)
