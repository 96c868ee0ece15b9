"""A policy for credentials that may read and not list: what is missing is refused to them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from s3backfs.errors import DeniedError, ObjectMissingError
from s3backfs.store.around import Request

T = TypeVar("T")

log = logging.getLogger(__name__)


class Unlisted:
    """Takes gets below some prefixes that are denied for gets of objects that are not there.

    Servers say so to keep secret what there is. It is for readers alone: a writer that took
    something for gone would store it again.
    """

    def __init__(self, *prefixes: str) -> None:
        self._prefixes = prefixes
        self._has_told = False

    async def __call__(self, request: Request, act: Callable[[], Awaitable[T]]) -> T:
        try:
            return await act()
        except DeniedError as error:
            if request.verb != "get" or not request.key.startswith(self._prefixes):
                raise
            if not self._has_told:
                self._has_told = True
                log.warning("taken for missing: %s", error)
            raise ObjectMissingError("not there, or denied", key=request.key) from error
