"""Bandwidth limits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from s3backfs.store.around import Request
from s3backfs.store.base import Fetched

T = TypeVar("T")


class _Direction:
    """Requests wait in line so that their bytes keep to the rate on average."""

    def __init__(self, rate_bytes_per_s: float | None) -> None:
        if rate_bytes_per_s is not None and rate_bytes_per_s <= 0:
            raise ValueError("a bandwidth limit must be above 0")
        self._rate = rate_bytes_per_s
        self._free_at_s = 0.0

    def charge(self, size_bytes: int) -> float:
        """Book `size_bytes`, or give them back if negative; return the booking's start time."""
        if self._rate is None:
            return 0.0
        start_s = max(self._free_at_s, trio.current_time())
        self._free_at_s = start_s + size_bytes / self._rate
        return start_s

    async def take(self, size_bytes: int) -> None:
        if size_bytes and self._rate is not None:
            await trio.sleep_until(self.charge(size_bytes))


class Limiting:
    """A policy: hold back requests so that neither direction exceeds its rate on average.

    None is no limit. A request starts when those before it would be through at the rate, so
    single requests still go at full speed.
    """

    def __init__(
        self,
        up_bytes_per_s: float | None = None,
        down_bytes_per_s: float | None = None,
    ) -> None:
        self._up = _Direction(up_bytes_per_s)
        self._down = _Direction(down_bytes_per_s)

    async def __call__(self, request: Request, act: Callable[[], Awaitable[T]]) -> T:
        await self._up.take(request.sent_bytes)
        await self._down.take(request.wanted_bytes)
        result = await act()
        if isinstance(result, Fetched):
            self._down.charge(len(result.data) - request.wanted_bytes)
        return result
