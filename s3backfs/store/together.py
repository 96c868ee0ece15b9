"""Several requests at once, whose error is the error of one of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import trio

from s3backfs.errors import S3backfsError


@asynccontextmanager
async def open_together() -> AsyncIterator[trio.Nursery]:
    """Hold a nursery; where only errors of ours end it, the first of them is raised by itself."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except ExceptionGroup as group:
        errors = list(_leaves(group))
        ours = [error for error in errors if isinstance(error, S3backfsError)]
        if len(ours) < len(errors):
            raise
        raise ours[0] from None


def _leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
