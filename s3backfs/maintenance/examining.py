"""The examination behind `doctor`: trials and measurements on a store, that leave nothing behind.

All objects lie below `leases/<random id>/`, where any writer may create and delete, and where
prune removes what an interrupted examination may have left.
"""

from __future__ import annotations

import os
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import trio

from s3backfs.errors import EncryptionRefusedError, ObjectMissingError, RefusedError, StoreError
from s3backfs.format.parameters import REPOSITORY_KEY
from s3backfs.format.refs import ID_BYTES
from s3backfs.maintenance.doctor import Diagnosis, Speed, advise, judge, suggest
from s3backfs.store.base import Store
from s3backfs.store.capabilities import (
    GENERAL_NAMES,
    S3_NAMES,
    Capabilities,
    Capability,
    Trials,
    Verdict,
    try_out,
)
from s3backfs.store.together import open_together

if TYPE_CHECKING:
    from s3backfs.store.s3_capabilities import S3Trials

CONNECTIONS = (1, 4, 16)

_SAMPLES = 5
_FIRST_BYTES = 1 << 18
_MAX_LEVEL_BYTES = 32 << 20
_LEVEL_S = 3.0
_CLEANUP_S = 60.0
_NS = 1_000_000_000


class Examination:
    """One examination of one store; `s3` are the trials of servers of S3."""

    def __init__(self, store: Store, prefix: str, s3: S3Trials | None) -> None:
        self._store = store
        self._prefix = prefix
        self._s3 = s3
        self._is_repository: bool | None = None
        self._skew_s: float | None = None
        self._may_have_written = True

    async def run(self, *, is_measured: bool) -> Diagnosis:
        """Try out everything, measure if asked, clean up.

        Raises:
            RefusedError: nothing at all is allowed, for example for wrong credentials.
            BucketMissingError, UnavailableError: nothing can be tried.
        """
        refusal = await self._look()
        latency_ms: float | None = None
        speeds: tuple[Speed, ...] = ()
        try:
            rows = await self._try_all(refusal)
            if is_measured and rows[0].verdict is Verdict.YES:
                latency_ms, speeds = await measure(self._store, self._prefix)
        finally:
            left_behind = await self._clean_up()
        table = Capabilities(rows)
        return Diagnosis(
            url=self._store.url,
            endpoint=self._s3.endpoint if self._s3 else "",
            region=await self._s3.region() if self._s3 else "",
            is_repository=self._is_repository,
            clock_skew_s=self._skew_s,
            capabilities=rows,
            functions=judge(table),
            advice=advise(table, self._skew_s),
            latency_ms=latency_ms,
            speeds=speeds,
            suggestion=suggest(latency_ms, speeds) if latency_ms is not None else None,
            left_behind=left_behind,
        )

    async def _look(self) -> RefusedError | None:
        """Read what every repository has; what is wrong with everything shows here first."""
        try:
            fetched = await self._store.get(REPOSITORY_KEY)
        except ObjectMissingError:
            self._is_repository = False
        except RefusedError as error:
            if isinstance(error, EncryptionRefusedError):
                self._is_repository = True
            return error
        else:
            self._is_repository = True
            self._note_time(fetched.server_time_ns)
        return None

    def _note_time(self, server_time_ns: int) -> None:
        # The server's clock is told in whole seconds.
        if server_time_ns:
            self._skew_s = round((time.time_ns() - server_time_ns) / _NS - 0.5, 1)

    async def _try_all(self, refusal: RefusedError | None) -> tuple[Capability, ...]:
        trials = Trials(self._store, self._prefix)
        rows = await trials.run()
        self._note_time(trials.server_time_ns)
        self._may_have_written = rows[0].verdict is not Verdict.REFUSED
        table = Capabilities(rows)
        if isinstance(refusal, EncryptionRefusedError):
            read = Capability("read", Verdict.FAILED, str(refusal))
        elif refusal is None or table.has("get"):
            # Without the right to list, what is missing is refused.
            read = Capability("read", Verdict.YES)
        elif not (table.has("put") or table.has("list")):
            raise refusal
        else:
            read = Capability("read", Verdict.REFUSED, str(refusal))
        extra = await self._s3.run(can_put=table.has("put")) if self._s3 else ()
        is_versioned = self._s3 is not None and self._s3.may_have_versions
        return (*rows, read, await self._maintain(is_versioned=is_versioned), *extra)

    async def _maintain(self, *, is_versioned: bool) -> Capability:
        """Look whether a pack could be deleted, by deleting one that is not there."""
        if is_versioned:
            # That would leave a mark of deletion.
            return Capability("maintain", Verdict.UNTRIED, "not tried where there may be versions")

        async def delete() -> None:
            await self._store.delete([f"data/{secrets.token_hex(ID_BYTES)}"])

        return await try_out("maintain", delete)

    async def _clean_up(self) -> str:
        """Remove what was written; say why something stays."""
        if not self._may_have_written:
            return ""
        with trio.move_on_after(_CLEANUP_S, shield=True):
            try:
                await self._store.delete([self._prefix + name for name in _NAMES])
            except StoreError as error:
                return (
                    f"{error}; test objects stay below {self._prefix} until `s3backfs prune` "
                    "removes them, by who may delete"
                )
            return await self._s3.remove_versions() if self._s3 else ""
        return f"{self._prefix} could not be cleaned up in time"


async def measure(store: Store, prefix: str) -> tuple[float, tuple[Speed, ...]]:
    """Measure latency, and the speed of several requests at once; some seconds on any line."""
    await store.put(prefix + _speed_name(0), b"x")
    latency_ms = statistics.median(
        [1000 * await _timed(store.head, prefix + _speed_name(0)) for _ in range(_SAMPLES)]
    )
    first_s = await _timed(store.put, prefix + _speed_name(0), os.urandom(_FIRST_BYTES))
    level_bytes = int(min(_MAX_LEVEL_BYTES, max(_FIRST_BYTES, _LEVEL_S * _FIRST_BYTES / first_s)))
    speeds = [await _speed(store, prefix, count, level_bytes) for count in CONNECTIONS]
    return round(latency_ms, 1), tuple(speeds)


async def _speed(store: Store, prefix: str, connections: int, level_bytes: int) -> Speed:
    data = os.urandom(level_bytes // connections)
    keys = [prefix + _speed_name(number) for number in range(connections)]
    total_bytes = len(data) * connections
    up_s = await _timed(_all, [partial(store.put, key, data) for key in keys])
    down_s = await _timed(_all, [partial(store.get, key) for key in keys])
    return Speed(connections, round(total_bytes / up_s), round(total_bytes / down_s))


async def _all(acts: Sequence[Callable[[], Awaitable[object]]]) -> None:
    async with open_together() as nursery:
        for act in acts:
            nursery.start_soon(act)


async def _timed(act: Callable[..., Awaitable[object]], *arguments: object) -> float:
    started_s = time.perf_counter()
    await act(*arguments)
    return max(1e-6, time.perf_counter() - started_s)


def _speed_name(number: int) -> str:
    return f"speed-{number}"


_NAMES = (*GENERAL_NAMES, *S3_NAMES, *(_speed_name(number) for number in range(max(CONNECTIONS))))
