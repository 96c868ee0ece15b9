"""Statistics of what was asked of a store."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from s3backfs.errors import S3backfsError
from s3backfs.store.around import Request, Verb
from s3backfs.store.base import Fetched

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class VerbTraffic:
    """All requests of one kind so far; times are those of the requests that ended."""

    verb: Verb
    count: int = 0
    failed_count: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    total_ns: int = 0
    longest_ns: int = 0

    @property
    def mean_ns(self) -> int:
        return self.total_ns // self.count if self.count else 0


@dataclass(frozen=True, slots=True)
class Traffic:
    """A snapshot of the counters: one row for each kind that was used, sorted by kind."""

    verbs: tuple[VerbTraffic, ...] = ()
    in_flight_count: int = 0

    @property
    def request_count(self) -> int:
        return sum(verb.count for verb in self.verbs)

    @property
    def failed_count(self) -> int:
        return sum(verb.failed_count for verb in self.verbs)

    @property
    def sent_bytes(self) -> int:
        return sum(verb.sent_bytes for verb in self.verbs)

    @property
    def received_bytes(self) -> int:
        return sum(verb.received_bytes for verb in self.verbs)

    def of(self, verb: Verb) -> VerbTraffic:
        """The row of one kind, all zeros where it was not used."""
        return next((row for row in self.verbs if row.verb == verb), VerbTraffic(verb))


class Counting:
    """A policy: count requests, bytes and times. Inside `Retrying` each attempt counts.

    Bytes count when they have arrived: those of a failed request do not. Cancelled requests are
    not counted.
    """

    def __init__(self) -> None:
        self._rows: dict[Verb, VerbTraffic] = {}
        self._in_flight_count = 0

    def snapshot(self) -> Traffic:
        """The counters as they are now."""
        rows = sorted(self._rows.values(), key=lambda row: row.verb)
        return Traffic(tuple(rows), self._in_flight_count)

    async def __call__(self, request: Request, act: Callable[[], Awaitable[T]]) -> T:
        started_ns = time.monotonic_ns()
        self._in_flight_count += 1
        try:
            result = await act()
        except S3backfsError:
            self._add(request.verb, time.monotonic_ns() - started_ns, failed_count=1)
            raise
        finally:
            self._in_flight_count -= 1
        received = len(result.data) if isinstance(result, Fetched) else 0
        took_ns = time.monotonic_ns() - started_ns
        self._add(request.verb, took_ns, sent_bytes=request.sent_bytes, received_bytes=received)
        return result

    def _add(
        self,
        verb: Verb,
        took_ns: int,
        *,
        failed_count: int = 0,
        sent_bytes: int = 0,
        received_bytes: int = 0,
    ) -> None:
        old = self._rows.get(verb, VerbTraffic(verb))
        self._rows[verb] = VerbTraffic(
            verb=verb,
            count=old.count + 1,
            failed_count=old.failed_count + failed_count,
            sent_bytes=old.sent_bytes + sent_bytes,
            received_bytes=old.received_bytes + received_bytes,
            total_ns=old.total_ns + took_ns,
            longest_ns=max(old.longest_ns, took_ns),
        )
