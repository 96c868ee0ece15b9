"""The store and the repository's options, as the configuration of a mount wants them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from s3backfs.config import MountConfig, make_private_dir
from s3backfs.format.parameters import Parameters
from s3backfs.repository.repository import RepositoryOptions
from s3backfs.store.around import Policy
from s3backfs.store.base import Store
from s3backfs.store.location import parse_url
from s3backfs.store.open import open_store
from s3backfs.store.unlisted import Unlisted

CLOSING_DEADLINE_S = 10.0


@asynccontextmanager
async def opened_store(config: MountConfig) -> AsyncIterator[Store]:
    """The bare store at the mount's URL, closed afterwards."""
    settings = config.store
    store = open_store(
        parse_url(config.url),
        endpoint_url=settings.endpoint_url,
        path_style=settings.path_style,
        region=settings.region,
        profile=settings.profile,
        credentials_file=settings.credentials_file,
        ca_bundle=settings.ca_bundle,
        max_connections=settings.connections,
        sse=settings.sse,
        sse_c_key_file=settings.sse_c_key_file,
    )
    try:
        yield store
    finally:
        with trio.move_on_after(CLOSING_DEADLINE_S, shield=True):
            await store.aclose()


def reading_policies(config: MountConfig) -> list[Policy]:
    """What is put around the store of a mount that only reads."""
    # Who restores one backup may have credentials that list nothing.
    is_one_read = config.is_read_only and config.backup is not None
    return [Unlisted("data/", "meta/", "moved/")] if is_one_read else []


def repository_options(config: MountConfig, parameters: Parameters) -> RepositoryOptions:
    """How the repository is opened; its private directories are made."""
    chosen = config.compression
    return RepositoryOptions(
        state_dir=make_private_dir(config.state_dir),
        cache_dir=make_private_dir(config.cache_dir),
        cache_bytes=config.cache_bytes,
        memory_bytes=config.memory_bytes,
        is_read_only=config.is_read_only,
        lease_s=config.lease_s,
        level=chosen.level if chosen else parameters.compression_level,
    )
