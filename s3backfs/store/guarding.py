"""A policy that asks before some requests whether they may still be made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from s3backfs.store.around import Request

T = TypeVar("T")


class Guarding:
    """Calls `check` before each attempt to delete anything, or to write below some prefixes.

    It belongs inside of what repeats requests: an attempt may come long after the first one.
    """

    def __init__(self, *prefixes: str) -> None:
        self._prefixes = prefixes
        self.check: Callable[[], None] | None = None

    async def __call__(self, request: Request, act: Callable[[], Awaitable[T]]) -> T:
        is_guarded = request.verb == "delete" or (
            request.verb == "put" and request.key.startswith(self._prefixes)
        )
        if is_guarded and self.check is not None:
            self.check()
        return await act()
