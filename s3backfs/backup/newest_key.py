"""Whether the keys that the bucket shows are the newest: its objects say under which they stand.

Who knew an older key and can write to the bucket may put back repository.json and the key slots
from before a rotation. A machine that has seen the rotation remembers; any other one has only what
the objects say. Their epochs stand in clear, so a forger can make a machine refuse to write, but
not make it write under a key that was given up, unless all newer roots are gone too.
Source: docs/design.md, "Threats".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import trio

from s3backfs.backup.finding import ROOTS_AT_ONCE, list_root_objects, newest_named
from s3backfs.backup.roots import load_root
from s3backfs.errors import (
    DeniedError,
    IntegrityError,
    NewerKeyError,
    ObjectMissingError,
    OldKeysError,
    RefusedError,
    UnsupportedFormatError,
)
from s3backfs.format.keys import Keyring
from s3backfs.format.objects import HEADER_BYTES, read_header
from s3backfs.store.base import Store
from s3backfs.store.together import open_together


class Opened(Protocol):
    """What was opened with the keys that the bucket shows."""

    @property
    def keyring(self) -> Keyring: ...


T = TypeVar("T", bound=Opened)


async def open_to_write(open_once: Callable[[], Awaitable[T]], store: Store) -> T:
    """Open a repository, and see that nothing in it was written under a newer key.

    Raises:
        OldKeysError: something was, also when the keys were read anew: the rotation was not just
            now.
    """
    opened = await open_once()
    newer = await find_newer(store, opened.keyring)
    if newer is None:
        return opened
    opened = await open_once()
    check_reaches(opened.keyring, newer)
    return opened


def check_reaches(keyring: Keyring, newer: NewerKeyError) -> None:
    """See that keys that were read anew reach what an object names.

    Raises:
        OldKeysError: they do not.
    """
    if keyring.epoch < newer.epoch:
        raise OldKeysError(newer)


async def has_roots(store: Store) -> bool:
    """Whether there is any backup, or these credentials may not see that.

    Raises:
        StoreError: the store would not list.
    """
    try:
        objects = await list_root_objects(store)
    except DeniedError:
        return True
    return any(objects.by_prefix.values())


async def find_newer(store: Store, keyring: Keyring) -> NewerKeyError | None:
    """Look at the beginnings of all roots for one that names a newer key than is known.

    Raises:
        StoreError: the store would not give one of them.
    """
    found: list[NewerKeyError] = []
    limiter = trio.CapacityLimiter(ROOTS_AT_ONCE)

    async def look_at(key: str) -> None:
        async with limiter:
            try:
                head = read_header((await store.get(key, length=HEADER_BYTES)).data)
                if head.epoch > keyring.epoch:
                    await load_root(store, keyring, key)
            except NewerKeyError as error:
                found.append(error)
            except (IntegrityError, UnsupportedFormatError, ObjectMissingError, RefusedError):
                # What else is wrong with a root is said by who needs it.
                pass

    try:
        objects = await list_root_objects(store)
    except DeniedError:
        return None
    async with open_together() as nursery:
        for listing in objects.by_prefix.values():
            for listed in listing:
                nursery.start_soon(look_at, listed.key)
    return newest_named(found)
