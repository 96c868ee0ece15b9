"""What writers that are long gone have left below `leases/`."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3backfs.errors import IntegrityError
from s3backfs.maintenance.left_behind import LONG_GONE_S, tidy_leases
from s3backfs.repository.opening import CreateOptions, OpenedRepository, create_repository
from s3backfs.store.memory import MemoryStore
from tests.crash.machine import booted

pytestmark = pytest.mark.anyio

NS = 1_000_000_000


class Clock:
    """The store's time."""

    def __init__(self) -> None:
        self.now_ns = 10**18

    def __call__(self) -> int:
        return self.now_ns


async def place(clock: Clock) -> tuple[MemoryStore, OpenedRepository]:
    store = MemoryStore(clock=clock)
    options = CreateOptions(is_encrypted=False, chunk_bytes=64 << 10, pack_bytes=1 << 20)
    return store, await create_repository(store, options, None)


async def keys(store: MemoryStore) -> list[str]:
    return [found.key async for page in store.list("leases/") for found in page]


async def test_only_what_is_old_and_owns_nothing_goes(tmp_path: Path) -> None:
    """Old leases and graves go; that of the owner of an open backup stays, and so do young ones."""
    clock = Clock()
    store, opened = await place(clock)
    async with booted(store, opened, tmp_path / "owner") as owner:
        await owner.make_backup(b"monday")
        owners_lease = f"leases/{owner.repository.writer_id.hex()}/lease"
    async with booted(store, opened, tmp_path / "idle") as idle:
        await idle.make_backup(b"tuesday")
        await idle.fs.root.remove(b"tuesday")
    assert sorted(key.split("/")[2] for key in await keys(store)) == ["gone", "lease", "lease"]
    clock.now_ns += int(LONG_GONE_S * NS) - NS
    assert await tidy_leases(store, opened.keyring, clock.now_ns) == 0
    async with booted(store, opened, tmp_path / "young") as young:
        youngs_lease = f"leases/{young.repository.writer_id.hex()}/lease"
    clock.now_ns += 2 * NS
    assert await tidy_leases(store, opened.keyring, clock.now_ns) == 2
    assert set(await keys(store)) == {owners_lease, youngs_lease}


async def test_nothing_goes_while_a_root_cannot_be_read(tmp_path: Path) -> None:
    """Where it is not known who owns a backup all leases stay."""
    clock = Clock()
    store, opened = await place(clock)
    async with booted(store, opened, tmp_path / "home") as machine:
        await machine.make_backup(b"monday")
    await store.put("open/monday", b"damaged")
    clock.now_ns += int(LONG_GONE_S * NS)
    with pytest.raises(IntegrityError):
        await tidy_leases(store, opened.keyring, clock.now_ns)
    assert len(await keys(store)) == 1
