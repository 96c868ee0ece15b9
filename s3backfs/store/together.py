"""Several requests at once, whose error is the error of one of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from s3backfs.errors import S3backfsError

A = TypeVar("A")
B = TypeVar("B")


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


async def both(
    first: Callable[[], Awaitable[A]], second: Callable[[], Awaitable[B]]
) -> tuple[A | S3backfsError, B | S3backfsError]:
    """Run two requests at once; an error stands in the place of its result."""
    kept: list[B | S3backfsError] = []

    async def keep() -> None:
        kept.append(await _caught(second))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep)
        answer = await _caught(first)
    return answer, kept[0]


async def _caught(call: Callable[[], Awaitable[A]]) -> A | S3backfsError:
    try:
        return await call()
    except S3backfsError as error:
        return error
