"""Objects that are created once: under a key that nobody else has ever used, and never replaced."""

from __future__ import annotations

from s3backfs.errors import PreconditionFailedError
from s3backfs.store.base import Buffer, IfAbsent, Store


async def create(store: Store, key: str, data: Buffer) -> None:
    """Write a new object such that a policy that only allows to create lets it pass.

    `key` is random: if there is such an object, an earlier attempt whose answer was lost made it.

    Raises:
        StoreError: it could not be stored.
    """
    if not store.has_conditional_put:
        await store.put(key, data)
        return
    try:
        await store.put(key, data, condition=IfAbsent())
    except PreconditionFailedError:
        if (await store.head(key)).length_bytes != len(data):
            raise
