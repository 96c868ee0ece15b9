"""Find out whether a store enforces conditions; several servers ignore them silently."""

from __future__ import annotations

from contextlib import suppress
from enum import Enum, auto

import trio

from s3backfs.errors import PreconditionFailedError, StoreError
from s3backfs.store.base import Buffer, Condition, Conditions, IfAbsent, IfMatch, Store

_FOREIGN_ETAG = "0" * 32
_CLEANUP_S = 10.0


class UnsupportedError(StoreError):
    """The store does not know this kind of request."""


class Enforced(Enum):
    """What a store does with conditions."""

    ALL = auto()
    ABSENCE_ONLY = auto()
    """IfAbsent is refused as it should; IfMatch is not understood as it was written."""
    NONE = auto()


async def are_conditions_enforced(store: Store, key: str) -> bool:
    """Whether a store enforces all conditions, see `find_enforced`."""
    return await find_enforced(store, key) is Enforced.ALL


async def find_enforced(store: Store, key: str) -> Enforced:
    """Write `key` over itself under conditions that hold and that do not; then delete it.

    The delete may fail, for a writer may be allowed to create only.

    Raises:
        StoreError: the plain write failed, or the store went away in between.
    """
    first = await store.put(key, b"probe")
    try:
        if not await _is_refused(store, key, IfAbsent()):
            return Enforced.NONE
        is_matched = await _is_refused(
            store, key, IfMatch(_FOREIGN_ETAG)
        ) and not await _is_refused(store, key, IfMatch(first.etag))
        return Enforced.ALL if is_matched else Enforced.ABSENCE_ONLY
    finally:
        with trio.move_on_after(_CLEANUP_S, shield=True), suppress(StoreError):
            await store.delete([key])


async def are_borne_out(store: Store, key: str, data: Buffer, known: Conditions) -> bool:
    """Whether a store still does with conditions what is known; see `Store.confirm`.

    Nothing but a refusal proves that a condition is looked at, so enforcement takes one of each.

    Raises:
        StoreError: the store went away in between.
    """
    is_refused = await _is_refused(store, key, IfAbsent(), data)
    if not known.are_enforced:
        return not is_refused
    return is_refused and await _is_refused(store, key, IfMatch(_FOREIGN_ETAG), data)


async def _is_refused(
    store: Store, key: str, condition: Condition, data: Buffer = b"probe"
) -> bool:
    try:
        await store.put(key, data, condition=condition)
    except PreconditionFailedError:
        return True
    except StoreError as error:
        # Servers that do not know conditions differ in how they say so.
        if type(error) not in (StoreError, UnsupportedError):
            raise
    return False
