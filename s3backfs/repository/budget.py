"""A bound on bytes in memory: who wants more waits until others have let go."""

from __future__ import annotations

from collections.abc import Callable

import trio


class ByteBudget:
    """Counts bytes in memory against a limit.

    `take` never waits: it is for bytes that change owner or shape inside the pipeline. `acquire`
    is the gate at the entrance: it waits while the budget is spent. One holder may always enter
    an empty budget, however large its request.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.peak_bytes = 0
        self._changed = trio.Event()

    def is_spent(self, wanted_bytes: int) -> bool:
        """Say whether `wanted_bytes` more would have to wait."""
        return self.used_bytes > 0 and self.used_bytes + wanted_bytes > self.limit_bytes

    def take(self, taken_bytes: int) -> None:
        """Count bytes that are there already."""
        self.used_bytes += taken_bytes
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)

    def release(self, released_bytes: int) -> None:
        """Let go of bytes, and wake who waits."""
        self.used_bytes -= released_bytes
        self.wake()

    def wake(self) -> None:
        """Let those who wait look again: something else than the count has changed."""
        self._changed.set()
        self._changed = trio.Event()

    async def acquire(self, wanted_bytes: int, relieve: Callable[[], None]) -> None:
        """Wait until `wanted_bytes` fit, then count them.

        `relieve` is called before every wait, to start what will free memory. Cancelled, nothing
        is counted.
        """
        while self.is_spent(wanted_bytes):
            relieve()
            # No await between the check and the wait: `relieve` must not free bytes by itself.
            await self._changed.wait()
        self.take(wanted_bytes)
