"""A repository opened to change its keys, for one verb."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from s3backfs.cli.passphrase import passphrase_reader, take_passphrase
from s3backfs.cli.terminal import note
from s3backfs.config import StoreConfig, default_state_dir, make_private_dir
from s3backfs.errors import OldKeysError
from s3backfs.store.location import parse_url

if TYPE_CHECKING:
    from s3backfs.repository.keyslots import KeyedRepository

T = TypeVar("T")


def run_keyed(
    url: str,
    config: StoreConfig,
    act: Callable[[KeyedRepository], Awaitable[T]],
    *,
    may_write: bool = True,
) -> T:
    """Open a repository by what the environment leads to, and act on its keys.

    Where old keys were put back, who may not write is warned.

    Raises:
        OldKeysError: `act` may write, and old keys were put back.
        S3backfsError: it cannot be opened, or has no keys; else what `act` raises.
    """
    import trio  # slow to import

    from s3backfs.backup.newest_key import find_newer, open_to_write
    from s3backfs.cli.stores import opened_store
    from s3backfs.key_service import unwrapper
    from s3backfs.repository.keyslots import open_for_keys
    from s3backfs.repository.pins import check_place

    known = take_passphrase()
    passphrase = functools.cache(passphrase_reader(known))

    async def open_and_act() -> T:
        async with opened_store(parse_url(url).url, config) as store:
            open_once = partial(
                open_for_keys,
                store,
                passphrase,
                make_private_dir(default_state_dir()),
                must_be_encrypted=known is not None,
                unwrap=unwrapper(config),
            )
            keys = await (open_to_write(open_once, store) if may_write else open_once())
            check_place(default_state_dir(), store, keys.opened.keyring)
            if not may_write and (newer := await find_newer(store, keys.keyring)) is not None:
                note(str(OldKeysError(newer)))
            return await act(keys)

    return trio.run(open_and_act)
