"""What the verbs share that look after backups without a mount: arguments, and opening."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import click

from s3backfs.cli.options import URL_VARIABLE
from s3backfs.cli.passphrase import passphrase_reader, prompt_passphrase, take_passphrase
from s3backfs.cli.progress import reporting
from s3backfs.config import StoreConfig
from s3backfs.reporting import Report
from s3backfs.store.location import parse_url

if TYPE_CHECKING:
    from s3backfs.format.keys import Keyring
    from s3backfs.repository.repository import Repository
    from s3backfs.store.base import Store

T = TypeVar("T")


def split_url(words: Sequence[str], usage: str) -> tuple[str, tuple[str, ...]]:
    """Take the URL off the arguments; S3BACKFS_REPOSITORY stands in for one that is not given."""
    if words and "://" in words[0]:
        return parse_url(words[0]).url, tuple(words[1:])
    known = os.environ.get(URL_VARIABLE)
    if not known:
        raise click.UsageError(f"give {usage}, or set {URL_VARIABLE}")
    return parse_url(known).url, tuple(words)


def as_names(words: Sequence[str]) -> tuple[bytes, ...]:
    """Names of backups or paths as bytes."""
    return tuple(os.fsencode(word) for word in words)


def run_on_store(
    url: str,
    config: StoreConfig,
    act: Callable[[Store, Keyring, Report], Awaitable[T]],
    *,
    may_write: bool = True,
) -> T:
    """Open a repository for its roots and small objects alone, without lease and caches.

    Raises:
        OldKeysError: `act` may write, and old keys were put back.
        S3backfsError: it cannot be opened; else what `act` raises.
    """
    import trio  # slow to import

    from s3backfs.cli.stores import open_known, opened_store

    known = take_passphrase()

    async def open_and_act() -> T:
        async with opened_store(url, config) as store:
            opened = await open_known(
                store, config, known, passphrase_reader(known), may_write=may_write
            )
            with reporting() as report:
                return await act(store, opened.keyring, report)

    return trio.run(open_and_act)


def run_reading(
    url: str, config: StoreConfig, act: Callable[[Repository, Report], Awaitable[T]]
) -> T:
    """Open a repository for reading all of it.

    Raises:
        S3backfsError: it cannot be opened; else what `act` raises.
    """
    import trio  # slow to import

    from s3backfs.cli.maintaining import opened_for_check

    known = take_passphrase()

    async def open_and_act() -> T:
        async with opened_for_check(url, config, known, prompt_passphrase) as repository:
            with reporting() as report:
                return await act(repository, report)

    return trio.run(open_and_act)


def run_maintaining(
    url: str, config: StoreConfig, act: Callable[[Repository, Report], Awaitable[T]]
) -> T:
    """Open a repository as a writer with a lease.

    Raises:
        S3backfsError: it cannot be opened; else what `act` raises.
    """
    import trio  # slow to import

    from s3backfs.cli.maintaining import opened_for_maintenance

    known = take_passphrase()

    async def open_and_act() -> T:
        async with opened_for_maintenance(url, config, known, prompt_passphrase) as maintained:
            with reporting() as report:
                return await act(maintained.repository, report)

    return trio.run(open_and_act)
