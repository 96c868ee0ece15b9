"""Checks of a share each day: in about a month everything was read, whatever comes meanwhile."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from s3backfs.errors import StoreError
from s3backfs.maintenance import checking
from s3backfs.maintenance.checking import CheckOptions
from s3backfs.maintenance.verified import VERIFIED_PREFIX, measure_unproven
from s3backfs.repository.opening import CreateOptions, create_repository
from s3backfs.store.base import Fetched
from s3backfs.store.memory import MemoryStore

from .place import Place

pytestmark = pytest.mark.anyio

DAY_S = 24 * 3600
DAILY = CheckOptions(read_share=0.03)
PACK_BYTES = 20_000


class Days:
    """The store's clock."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000

    def read_ns(self) -> int:
        return self.now_s * 1_000_000_000


async def new_dated(home: Path, days: Days, memory: MemoryStore | None = None) -> Place:
    memory = memory or MemoryStore(clock=days.read_ns)
    options = CreateOptions(is_encrypted=False)
    return Place(memory, await create_repository(memory, options, None), home)


async def store(place: Place, name: bytes, packs_count: int) -> None:
    """Make a backup of some packs of about the same length."""
    randomness = random.Random(name)
    async with place.machine() as machine:
        await machine.make_backup(name)
        for number in range(packs_count):
            data = randomness.randbytes(PACK_BYTES)
            await machine.write_file(name, b"%d" % number, data=data)
            await machine.sync(name)
        await machine.catalogue.seal(machine.catalogue.backups[name])
        await machine.repository.end_lease()


def packs(place: Place) -> set[bytes]:
    keys = [key for key in place.store.objects if key.startswith(("data/", "meta/"))]
    return {bytes.fromhex(key.rpartition("/")[2]) for key in keys}


async def test_three_percent_a_day_cover_everything_in_a_month(tmp_path: Path) -> None:
    """With a new backup each night nothing is unproven for longer than 40 days, month after month.

    The oldest unproven byte is as old as `measure_unproven` says without a check.
    """
    days = Days()
    place = await new_dated(tmp_path, days)
    await store(place, b"first", 60)
    ages = []
    for night in range(60):
        days.now_s += DAY_S
        await store(place, b"night%d" % night, 2)
        result = await place.check(DAILY)
        assert result.damages == []
        assert result.read_bytes <= 0.03 * result.packs_bytes + 2 * PACK_BYTES
        assert result.oldest_unproven_s is not None
        assert await measure_unproven(place.store, place.opened.keyring) == result.oldest_unproven_s
        ages.append(result.oldest_unproven_s // DAY_S)
    assert ages[20] >= 15
    assert max(ages) <= 40


class Dying(MemoryStore):
    """A store that gives no more of packs after a while, as for a process that is killed."""

    left_count: int | None = None

    async def get(self, key: str, *, offset: int = 0, length: int | None = None) -> Fetched:
        if key.startswith("data/") and offset >= 0 and self.left_count is not None:
            self.left_count -= 1
            if self.left_count < 0:
                raise StoreError("gone")
        return await super().get(key, offset=offset, length=length)

    async def delete(self, keys: Sequence[str]) -> None:
        if self.left_count is not None and self.left_count < 0:
            raise StoreError("gone")
        await super().delete(keys)


async def test_a_check_that_was_cut_off_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read before the end came is not read again with `since`, and nothing is left out."""
    monkeypatch.setattr(checking, "REMEMBER_EVERY_BYTES", 1)
    days = Days()
    dying = Dying(clock=days.read_ns)
    place = await new_dated(tmp_path, days, dying)
    await store(place, b"first", 20)
    everything = CheckOptions(read_share=1.0, since_s=3600)
    dying.left_count = 16
    with pytest.raises(BaseExceptionGroup):
        await place.check(everything)
    dying.left_count = None
    states = [key for key in dying.objects if key.startswith(VERIFIED_PREFIX)]
    assert states
    result = await place.check(everything)
    assert 0 < result.read_packs <= len(packs(place)) - 4
    assert (await place.check(everything)).read_packs == 0


async def test_a_long_check_remembers_by_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow line what was read is noted every minute, not only every few gigabytes."""
    days = Days()
    place = await new_dated(tmp_path, days)
    await store(place, b"first", 20)
    puts = []
    put = place.store.put

    async def counted(key: str, *arguments: object, **named: object) -> object:
        puts.append(key)
        return await put(key, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(place.store, "put", counted)
    start = trio.current_time()
    times = iter(range(10_000))
    monkeypatch.setattr(checking.trio, "current_time", lambda: start + 31 * next(times))
    await place.check(CheckOptions(read_share=1.0))
    states = [key for key in puts if key.startswith(VERIFIED_PREFIX)]
    assert len(states) >= len(packs(place)) // 2
