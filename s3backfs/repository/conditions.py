"""What this machine remembers of a store's conditional writes, so that mounts need not probe anew.

    <state>/<repository id>/conditions    one line of JSON: what was found, and when

Memory is never believed alone: see docs/design.md, "What is remembered of a store".
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import trio

from s3backfs.repository.leases import WriterLease
from s3backfs.repository.private_file import replace_private
from s3backfs.store.base import Conditions, Store

log = logging.getLogger(__name__)

REMEMBERED_S = 7 * 86400.0
_LONGEST_BYTES = 4096


class _Remembered(msgspec.Struct, frozen=True):
    conditions: Conditions
    probed_s: float


class ConditionMemory:
    """A file that can be lost, which costs a probe, or be wrong, which is noticed."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now_s = clock

    def load(self) -> Conditions | None:
        """Return what was found not long ago; None where nothing can be read."""
        try:
            with self._path.open("rb") as file:
                found = msgspec.json.decode(file.read(_LONGEST_BYTES), type=_Remembered)
        except (OSError, msgspec.MsgspecError):
            return None
        is_young = 0 <= self._now_s() - found.probed_s < REMEMBERED_S
        return found.conditions if is_young else None

    def save(self, conditions: Conditions) -> None:
        """Remember it; what cannot be written is not worth an error."""
        data = msgspec.json.encode(_Remembered(conditions, self._now_s()))
        try:
            replace_private(self._path, data)
        except OSError as error:
            log.debug("%s: %s", self._path, error)


class Proof:
    """Whether a store enforces conditions, proven once for each process that relies on it."""

    def __init__(
        self, store: Store, lease: WriterLease | None, memory: ConditionMemory, probe_key: str
    ) -> None:
        self._store = store
        self._lease = lease
        self._memory = memory
        self._probe_key = probe_key
        self._is_from_memory = False
        self._lock = trio.Lock()

    async def is_given(self) -> bool:
        """Say whether conditions are enforced; the first call finds it out.

        Raises:
            StoreError: the store would not say.
        """
        async with self._lock:
            if self._store.has_conditional_put is None:
                known = self._memory.load() if self._lease is not None else None
                if known is not None and self._lease is not None:
                    self._is_from_memory = await self._lease.confirm_conditions(known)
                if not self._is_from_memory:
                    await self._probe()
        return bool(self._store.has_conditional_put)

    async def is_renewed(self) -> bool:
        """After a refusal: probe, if memory was believed so far; whether it was wrong.

        Raises:
            StoreError: the store would not say.
        """
        async with self._lock:
            if not self._is_from_memory:
                return False
            believed = self._store.conditions
            self._is_from_memory = False
            await self._probe()
            return self._store.conditions != believed

    async def _probe(self) -> None:
        await self._store.probe(self._probe_key)
        if self._store.conditions is not None:
            self._memory.save(self._store.conditions)
