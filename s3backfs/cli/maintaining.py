"""A repository opened for maintenance: as a writer with a lease, without a mount."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from s3backfs.cli.stores import open_known, opened_store
from s3backfs.config import (
    MIB,
    Secret,
    StoreConfig,
    default_cache_dir,
    default_state_dir,
    make_private_dir,
)
from s3backfs.format.parameters import Parameters
from s3backfs.repository.repository import Repository, RepositoryOptions, open_for_mount
from s3backfs.store.guarding import Guarding

MEMORY_BYTES = 256 * MIB
CACHE_BYTES = 1024 * MIB

GUARDED_PREFIXES = ("moved/", "prune/")
"""What is written here by somebody who was taken for gone could do harm."""


@dataclass(frozen=True, slots=True)
class Maintained:
    """A repository and what it was made with."""

    repository: Repository
    parameters: Parameters


@asynccontextmanager
async def opened_for_check(
    url: str, config: StoreConfig, known: Secret | None, ask: Callable[[], Secret]
) -> AsyncIterator[Repository]:
    """Hold a repository open for reading, with no cache that is older than this call.

    Raises:
        S3backfsError: it cannot be opened.
    """

    def passphrase() -> bytes:
        return (known or ask()).reveal()

    async with opened_store(url, config) as store:
        opened = await open_known(store, config, known, passphrase)
        with tempfile.TemporaryDirectory(prefix="s3backfs-check-") as scratch:
            options = RepositoryOptions(
                state_dir=make_private_dir(default_state_dir()),
                cache_dir=Path(scratch),
                cache_bytes=CACHE_BYTES // 8,
                memory_bytes=MEMORY_BYTES,
                is_read_only=True,
                level=None,
            )
            async with open_for_mount(store, opened, options) as repository:
                yield repository


@asynccontextmanager
async def opened_for_maintenance(
    url: str, config: StoreConfig, known: Secret | None, ask: Callable[[], Secret]
) -> AsyncIterator[Maintained]:
    """Hold a repository open as its mounts do, with caches and an index of its own.

    Raises:
        OldKeysError: old keys were put back.
        S3backfsError: it cannot be opened, or these credentials may not write.
    """

    def passphrase() -> bytes:
        return (known or ask()).reveal()

    guard = Guarding(*GUARDED_PREFIXES)
    async with opened_store(url, config, guard) as store:
        opened = await open_known(store, config, known, passphrase, may_write=True)
        options = RepositoryOptions(
            state_dir=make_private_dir(default_state_dir()),
            cache_dir=make_private_dir(default_cache_dir()),
            cache_bytes=CACHE_BYTES,
            memory_bytes=MEMORY_BYTES,
            is_read_only=False,
            takes_dead=False,
            level=opened.parameters.compression_level,
        )
        async with open_for_mount(store, opened, options) as repository:
            assert repository.lease is not None
            guard.check = repository.lease.check
            try:
                yield Maintained(repository, opened.parameters)
            finally:
                guard.check = None
                repository.retire_writer()
                await repository.end_lease()
