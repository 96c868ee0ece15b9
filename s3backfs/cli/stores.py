"""What the verbs do that speak to the bucket themselves, without a mount."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from s3backfs.config import CreateConfig, Secret, StoreConfig, default_state_dir
from s3backfs.configured_store import bare_store
from s3backfs.key_service import unwrapper
from s3backfs.repository.new_keys import NewKey
from s3backfs.repository.opening import (
    CreateOptions,
    OpenedRepository,
    create_repository,
    open_repository,
)
from s3backfs.repository.pins import check_place, pin_place
from s3backfs.store import retrying
from s3backfs.store.around import Policy, WrappedStore
from s3backfs.store.base import Store

if TYPE_CHECKING:
    from s3backfs.backup.finding import BackupSummary

PATIENCE_S = 15.0
"""How long a command waits for an S3 that is away; a person is looking at it."""


@asynccontextmanager
async def opened_store(url: str, config: StoreConfig, *policies: Policy) -> AsyncIterator[Store]:
    """Hold a store open, with a few retries around it, and `policies` around each attempt."""
    async with bare_store(url, config) as store:
        yield patient(store, url, *policies)


def patient(store: Store, url: str, *policies: Policy) -> WrappedStore:
    """Put a few retries around a store, and `policies` around each attempt."""
    # What ends the command says it too, and in one line.
    logging.getLogger(retrying.__name__).setLevel(logging.ERROR)
    return WrappedStore(
        store, retrying.Retrying(PATIENCE_S), retrying.Impatient(PATIENCE_S, url), *policies
    )


async def open_known(
    store: Store,
    config: StoreConfig,
    known: Secret | None,
    passphrase: Callable[[], bytes],
    *,
    may_write: bool = False,
) -> OpenedRepository:
    """Open the repository that this machine knows at this place, or one that is new to it.

    Raises:
        OldKeysError: it may be written to, and old keys were put back.
        S3backfsError: it cannot be opened, or it is another one.
    """
    from s3backfs.backup.newest_key import open_to_write  # `init` need not wait for it

    open_once = partial(
        open_repository,
        store,
        functools.cache(passphrase),
        must_be_encrypted=known is not None,
        unwrap=unwrapper(config),
    )
    opened = await (open_to_write(open_once, store) if may_write else open_once())
    check_place(default_state_dir(), store, opened.keyring)
    return opened


async def create(config: CreateConfig, secret: NewKey | None) -> str:
    """Make a repository and say its id."""
    options = CreateOptions(
        is_encrypted=config.is_encrypted,
        compression_level=config.compression.level,
        chunk_bytes=config.chunk_bytes,
        pack_bytes=config.pack_bytes,
    )
    async with opened_store(config.url, config.store) as store:
        opened = await create_repository(store, options, secret)
        pin_place(default_state_dir(), store, opened.keyring.repository_id)
    return opened.keyring.repository_id.hex()


async def summarize(
    url: str, config: StoreConfig, known: Secret | None, ask: Callable[[], Secret]
) -> Sequence[BackupSummary]:
    """Read the roots of all backups; `ask` is called where a passphrase is needed and unknown."""
    from s3backfs.backup.finding import list_backups  # `init` need not wait for all below it

    def passphrase() -> bytes:
        return (known or ask()).reveal()

    async with opened_store(url, config) as store:
        opened = await open_known(store, config, known, passphrase)
        return await list_backups(store, opened.keyring)
