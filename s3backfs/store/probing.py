"""Find out whether a store enforces conditions; several servers ignore them silently."""

from __future__ import annotations

from contextlib import suppress

import trio

from s3backfs.errors import PreconditionFailedError, StoreError
from s3backfs.store.base import Condition, IfAbsent, IfMatch, Store

_FOREIGN_ETAG = "0" * 32
_CLEANUP_S = 10.0


class UnsupportedError(StoreError):
    """The store does not know this kind of request."""


async def are_conditions_enforced(store: Store, key: str) -> bool:
    """Write `key` over itself under conditions that hold and that do not; then delete it.

    The delete may fail, for a writer may be allowed to create only.

    Raises:
        StoreError: the plain write failed, or the store went away in between.
    """
    first = await store.put(key, b"probe")
    try:
        return (
            await _is_refused(store, key, IfAbsent())
            and await _is_refused(store, key, IfMatch(_FOREIGN_ETAG))
            and not await _is_refused(store, key, IfMatch(first.etag))
        )
    finally:
        with trio.move_on_after(_CLEANUP_S, shield=True), suppress(StoreError):
            await store.delete([key])


async def _is_refused(store: Store, key: str, condition: Condition) -> bool:
    try:
        await store.put(key, b"probe", condition=condition)
    except PreconditionFailedError:
        return True
    except StoreError as error:
        # Servers that do not know conditions differ in how they say so.
        if type(error) not in (StoreError, UnsupportedError):
            raise
    return False
