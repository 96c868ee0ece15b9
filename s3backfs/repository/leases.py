"""Leases: by them a writer says that it is alive.

    leases/<writer>/lease     stored at mount, and again every third of its duration

Nobody compares clocks of machines: how old a lease is tell the store's own `Date` and the time at
which it says the object was written.
Source: docs/format.md, "Leases".
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import msgspec
import trio

from s3backfs.errors import (
    IntegrityError,
    LeaseLapsedError,
    ObjectMissingError,
    RefusedError,
    S3backfsError,
    UnsupportedFormatError,
)
from s3backfs.format.keys import Keyring
from s3backfs.format.lease import Lease, decode_lease, encode_lease
from s3backfs.repository.local_state import boot_id
from s3backfs.store.base import Conditions, Listed, Store

log = logging.getLogger(__name__)

LEASES_PREFIX = "leases/"

LEASE_S = 600.0
"""How long a writer that is not heard of counts as alive."""

LONGEST_LEASE_S = 24 * 3600.0
"""No lease holds longer, whatever it says of itself."""

_CLOSING_S = 10.0
_SURE_SHARE = 0.9
"""Clocks may run at slightly different speeds."""
_NS = 1_000_000_000


def lease_key(writer: bytes) -> str:
    """The key of a writer's lease."""
    return f"{LEASES_PREFIX}{writer.hex()}/lease"


class WriterLease:
    """The lease of this mount.

    `has_lapsed` says that it ran out before it was renewed, so that prune may have ignored this
    writer meanwhile; whoever has made sure of all that it refers to takes the flag away.
    """

    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        writer: bytes,
        *,
        duration_s: float = LEASE_S,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._now_s = clock or boot_time_s
        self._store = store
        self._keyring = keyring
        self._key = lease_key(writer)
        self._duration_s = duration_s
        self._lease = Lease(
            repository_id=keyring.repository_id,
            writer=writer,
            host=socket.gethostname(),
            boot_id=boot_id(),
            process_id=os.getpid(),
            started_ns=0,
            renewed_ns=0,
            sequence=secrets.randbits(32) << 16,
            duration_ms=int(duration_s * 1000),
        )
        self.has_lapsed = False
        self._expires_ns = 0  # by the store's clock; 0 where it tells no time
        self._renewed_s = 0.0  # by this machine's; 0 before the first answer
        self._renewing = trio.Lock()

    @property
    def is_sure(self) -> bool:
        """Whether nobody can have taken this writer for gone, at this moment."""
        return (
            not self.has_lapsed and self._now_s() - self._renewed_s < self._duration_s * _SURE_SHARE
        )

    @property
    def renewed_ns(self) -> int:
        """When it was last stored, by the store's clock; 0 where that tells no time."""
        return self._lease.renewed_ns

    @property
    def acknowledged(self) -> frozenset[bytes]:
        """The condemned sets that the lease says are obeyed."""
        return frozenset(self._lease.acknowledged)

    async def begin(self) -> None:
        """Store the lease for the first time.

        Raises:
            RefusedError: these credentials may not write.
        """
        try:
            await self.renew()
        except RefusedError as error:
            raise RefusedError(f"{error}; to read only, mount with -o ro") from error

    async def renew(self) -> None:
        """Store the lease anew.

        Raises:
            StoreError: it could not be stored; the last one holds on.
        """
        async with self._renewing:
            # From before it was sent: the store may have taken it at any moment since.
            sent_s = self._now_s()
            lease = msgspec.structs.replace(self._lease, sequence=self._lease.sequence + 1)
            stored = await self._store.put(self._key, encode_lease(self._keyring, self._key, lease))
            now_ns = stored.server_time_ns
            self._note_lapse(now_ns)
            self._lease = msgspec.structs.replace(
                lease,
                started_ns=lease.started_ns or now_ns,
                renewed_ns=now_ns,
                acknowledged=self._lease.acknowledged,
            )
            self._expires_ns = now_ns + int(self._duration_s * _NS) if now_ns else 0
            self._renewed_s = sent_s

    def _note_lapse(self, now_ns: int) -> None:
        is_first = not self._renewed_s
        if not is_first and (
            0 < self._expires_ns <= now_ns or self._now_s() - self._renewed_s >= self._duration_s
        ):
            self.has_lapsed = True

    def check(self) -> None:
        """Refuse to go on where others may have taken this writer for gone.

        Raises:
            LeaseLapsedError: they may.
        """
        if not self.is_sure:
            raise LeaseLapsedError("this machine was away for longer than its lease; run it again")

    async def acknowledge(self, set_ids: Iterable[bytes]) -> None:
        """Say which condemned sets are obeyed.

        Raises:
            StoreError: it could not be stored.
        """
        acknowledged = tuple(sorted(set_ids))
        if acknowledged != self._lease.acknowledged:
            self._lease = msgspec.structs.replace(self._lease, acknowledged=acknowledged)
            await self.renew()

    async def confirm_conditions(self, known: Conditions) -> bool:
        """Let the store prove what is known of its conditions, on the lease as it stands there.

        Where a condition is ignored the lease is written once more as it was: that harms nobody.

        Raises:
            StoreError: the store would not say.
        """
        async with self._renewing:
            data = encode_lease(self._keyring, self._key, self._lease)
            return await self._store.confirm(self._key, data, known)

    async def keep(self) -> None:
        """Store the lease anew every third of its duration, until cancelled."""
        while True:
            await trio.sleep(self._duration_s / 3)
            try:
                await self.renew()
            except S3backfsError as error:
                log.warning("the lease of this mount could not be renewed: %s", error)

    async def end(self) -> None:
        """Remove the lease: nothing of this writer is under way any more."""
        with trio.move_on_after(_CLOSING_S, shield=True), suppress(S3backfsError):
            await self._store.delete([self._key])


async def has_run_out(store: Store, keyring: Keyring, writer: bytes) -> bool:
    """Whether a writer is gone: it has ended its lease, or not renewed it for too long.

    A lease that cannot be read, or a store that tells no time, leaves it alive.

    Raises:
        StoreError: the store would not say.
    """
    key = lease_key(writer)
    try:
        return not (await _look_at(store, keyring, await store.head(key))).is_alive
    except ObjectMissingError:
        return True
    except (IntegrityError, UnsupportedFormatError) as error:
        log.warning("the lease of another writer cannot be read, it counts as alive: %s", error)
        return False


@dataclass(frozen=True, slots=True)
class FoundLease:
    """Another writer's lease, and whether it still holds."""

    lease: Lease
    is_alive: bool
    left_s: float = 0.0
    """For how long it holds if it is not renewed."""


async def load_leases(store: Store, keyring: Keyring) -> list[FoundLease]:
    """Read the leases of all writers.

    Raises:
        IntegrityError: one cannot be read, so that it is not known who is alive.
        StoreError: the store would not list or give.
    """
    found = []
    async for page in store.list(LEASES_PREFIX):
        for listed in page:
            if listed.key.endswith("/lease"):
                # One that ended meanwhile has nothing under way any more.
                with suppress(ObjectMissingError):
                    found.append(await _look_at(store, keyring, listed))
    return found


async def _look_at(store: Store, keyring: Keyring, listed: Listed) -> FoundLease:
    fetched = await store.get(listed.key)
    lease = decode_lease(keyring, listed.key, fetched.data)
    if lease_key(lease.writer) != listed.key or lease.repository_id != keyring.repository_id:
        raise IntegrityError("the lease is of another writer or repository", key=listed.key)
    if lease.is_dead:
        return FoundLease(lease, is_alive=False)
    if not listed.modified_ns or not fetched.server_time_ns:
        return FoundLease(lease, is_alive=True, left_s=lease.duration_ms / 1000)
    duration_ns = int(min(lease.duration_ms / 1000, LONGEST_LEASE_S) * _NS)
    left_ns = duration_ns - (fetched.server_time_ns - listed.modified_ns)
    return FoundLease(lease, is_alive=left_ns >= 0, left_s=left_ns / _NS)


def boot_time_s() -> float:
    """Seconds that go on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
