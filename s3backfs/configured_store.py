"""The store that a configuration describes, for mounts and for verbs that need none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from s3backfs.config import StoreConfig
from s3backfs.store.base import Store
from s3backfs.store.location import parse_url
from s3backfs.store.open import open_store

CLOSING_DEADLINE_S = 10.0


@asynccontextmanager
async def bare_store(url: str, config: StoreConfig) -> AsyncIterator[Store]:
    """Hold a store open without any policy."""
    store = open_store(
        parse_url(url),
        endpoint_url=config.endpoint_url,
        path_style=config.path_style,
        region=config.region,
        profile=config.profile,
        credentials_file=config.credentials_file,
        ca_bundle=config.ca_bundle,
        max_connections=config.connections,
        sse=config.sse,
        sse_c_key_file=config.sse_c_key_file,
    )
    try:
        yield store
    finally:
        with trio.move_on_after(CLOSING_DEADLINE_S, shield=True):
            await store.aclose()
