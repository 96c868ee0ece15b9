"""What a store refuses while many requests are under way is one error, not a group of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from s3backfs.backup.finding import list_roots, load_all
from s3backfs.errors import RefusedError
from s3backfs.repository.opening import CreateOptions, OpenedRepository, create_repository
from s3backfs.store.around import WrappedStore
from s3backfs.store.base import Store
from s3backfs.store.memory import MemoryStore
from s3backfs.store.together import open_together
from tests.crash.machine import booted
from tests.store.faults import Fault, Faults

pytestmark = pytest.mark.anyio


async def two_backups(home: Path) -> tuple[MemoryStore, OpenedRepository]:
    memory = MemoryStore()
    opened = await create_repository(memory, CreateOptions(is_encrypted=False), None)
    async with booted(memory, opened, home) as machine:
        await machine.make_backup(b"monday")
        await machine.make_backup(b"tuesday")
    return memory, opened


def refused(key: str) -> RefusedError:
    return RefusedError("refused", key=key)


def refusing(memory: MemoryStore, verb: str, prefix: str = "") -> Store:
    fault = Fault(verb, prefix, times=100, error=refused)  # type: ignore[arg-type]
    return WrappedStore(memory, Faults(fault))


async def test_refused_listings(tmp_path: Path) -> None:
    """Both listings of roots may be refused, or one: the error is the store's own."""
    memory, opened = await two_backups(tmp_path)
    for prefix in ("", "open/", "backups/"):
        with pytest.raises(RefusedError):
            await list_roots(refusing(memory, "list", prefix), opened.keyring)


async def test_refused_roots(tmp_path: Path) -> None:
    """Roots that may be listed and not read are no group of errors either."""
    memory, opened = await two_backups(tmp_path)
    found = await list_roots(memory, opened.keyring)
    with pytest.raises(RefusedError):
        await load_all(refusing(memory, "get", "open/"), opened.keyring, found.values())


async def test_what_is_no_error_of_ours_stays_in_its_group() -> None:
    """A bug is not hidden behind an error of the store."""

    async def run() -> None:
        async with open_together() as nursery:
            nursery.start_soon(trio.sleep, -1)
            raise RefusedError("refused")

    with pytest.raises(ExceptionGroup):
        await run()
