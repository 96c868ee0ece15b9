"""Looking at the roots for those who can do with the last picture of them, while S3 is away.

One look serves everyone, and goes on when nobody waits any more.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from s3backfs.errors import S3backfsError, StoreError
from s3backfs.repository.flights import Background, Promise

log = logging.getLogger(__name__)

PATIENCE_S = 3.0
"""A look that takes longer is waited for by nobody, nor are those after it until one succeeds."""

AGAIN_S = 5.0
"""So old a look is begun anew while S3 is away: it may be in a long pause between two requests."""


@dataclass(slots=True)
class _Look:
    begun_s: float
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    promise: Promise[None] = field(default_factory=Promise)


class Glances:
    """Looks, and waits for that as long as it makes sense."""

    def __init__(
        self,
        background: Background,
        look: Callable[[], Awaitable[None]],
        is_away: Callable[[], bool],
    ) -> None:
        self._background = background
        self._look = look
        self._is_away = is_away
        self._under_way: _Look | None = None
        self._is_late = False

    async def glance(self) -> None:
        """Look, or let the last picture do.

        Raises:
            S3backfsError: the store refuses; that it is away is no error.
        """
        look, now_s = self._under_way, trio.current_time()
        if look is None or (self._is_late and self._is_stuck(look, now_s)):
            if look is not None:
                look.scope.cancel()
            look = self._under_way = _Look(now_s)
            self._background.start(self._carry_out, look)
        if self._is_late:
            return
        with trio.move_on_at(look.begun_s + PATIENCE_S) as waiting:
            await look.promise.wait()
        self._is_late = self._is_late or waiting.cancelled_caught

    def _is_stuck(self, look: _Look, now_s: float) -> bool:
        return now_s - look.begun_s >= AGAIN_S and self._is_away()

    async def _carry_out(self, look: _Look) -> None:
        failure: Exception = StoreError("the repository is being closed")
        try:
            with look.scope:
                await self._look()
                self._is_late = False
            look.promise.keep(None)
        except S3backfsError as error:
            failure = error
            self._is_late = error.can_retry
            if error.can_retry:
                log.debug("the last picture of the backups has to do: %s", error)
                look.promise.keep(None)
        except Exception as error:
            log.exception("looking at the backups failed")
            failure = error
        finally:
            look.promise.fail(failure)
            if self._under_way is look:
                self._under_way = None
