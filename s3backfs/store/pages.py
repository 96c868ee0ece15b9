"""Listings that come page by page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeAlias, TypeVar

Item = TypeVar("Item")
Cursor = TypeVar("Cursor")

Page: TypeAlias = tuple[Sequence[Item], Cursor | None]
"""One page, and where the next one begins: None after the last."""

PAGE_COUNT = 1000
"""Objects in a page of the stores that choose it themselves; the same as S3's."""


class Pages(Generic[Item, Cursor]):
    """An asynchronous iterator of pages that may be left at any time: it holds nothing open.

    After an error the same page can be asked for again.
    """

    # A class and no async generator, since those warn when they are left before their end
    # and are dead after an error.

    def __init__(
        self, fetch: Callable[[Cursor], Awaitable[Page[Item, Cursor]]], first: Cursor
    ) -> None:
        self._fetch = fetch
        self._next: Cursor | None = first

    @property
    def is_exhausted(self) -> bool:
        """Whether it is known already that no page follows."""
        return self._next is None

    def __aiter__(self) -> Pages[Item, Cursor]:
        return self

    async def __anext__(self) -> Sequence[Item]:
        while self._next is not None:
            page, self._next = await self._fetch(self._next)
            if page:
                return page
        raise StopAsyncIteration
