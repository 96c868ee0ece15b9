"""Packs whose upload fails stay in memory, and are sent again at the next checkpoint."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from s3backfs.errors import (
    FileSystemError,
    QuotaError,
    RefusedError,
    S3backfsError,
    StoreError,
    UnavailableError,
    UploadMissingError,
)
from s3backfs.repository import uploading
from s3backfs.repository.opening import CreateOptions, OpenedRepository, create_repository
from s3backfs.store.around import Verb, WrappedStore
from s3backfs.store.memory import MemoryStore
from tests.crash.machine import booted
from tests.store.faults import Fault, Faults

pytestmark = pytest.mark.anyio

NAME = b"monday"
MIB = 1 << 20
CONTENT = random.Random(1).randbytes(3 * MIB)


def of(kind: type[StoreError]) -> Callable[[str], StoreError]:
    return lambda key: kind("scripted", key=key)


async def new_repository() -> tuple[MemoryStore, OpenedRepository]:
    memory = MemoryStore(smallest_part_bytes=1)
    options = CreateOptions(is_encrypted=False, chunk_bytes=64 << 10, pack_bytes=MIB)
    return memory, await create_repository(memory, options, None)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs of a MiB go up in several parts."""
    monkeypatch.setattr(uploading, "PART_BYTES", 256 << 10)


async def check_stored(memory: MemoryStore, opened: OpenedRepository, home: Path) -> None:
    async with booted(memory, opened, home / "reader", is_read_only=True) as machine:
        assert await machine.read(NAME, b"file") == CONTENT


@pytest.mark.parametrize("verb", ["put", "begin_upload", "put_part", "complete"])
@pytest.mark.parametrize("prefix", ["data/", "meta/", "open/"])
@pytest.mark.parametrize(
    ("kind", "code"), [(RefusedError, errno.EACCES), (QuotaError, errno.ENOSPC)]
)
async def test_a_refused_pack_is_sent_again(
    verb: Verb, prefix: str, kind: type[StoreError], code: int, tmp_path: Path
) -> None:
    """A checkpoint that fails says why, what was written reads, and the next one stores it all."""
    memory, opened = await new_repository()
    faults = Faults(Fault(verb, prefix, skip=1, times=2, error=of(kind)))
    async with booted(WrappedStore(memory, faults), opened, tmp_path / "home") as machine:
        await machine.make_backup(NAME)
        codes = set()
        for write in (lambda: machine.write_file(NAME, b"file", data=CONTENT), None):
            try:
                if write is not None:
                    await write()
                await machine.sync(NAME)
            except S3backfsError as error:
                codes.add(error.errno_code)
        assert codes <= {code}
        assert await machine.read(NAME, b"file") == CONTENT
        await machine.sync(NAME)
        assert machine.repository.writer.budget.used_bytes == 0
    await check_stored(memory, opened, tmp_path)


@pytest.mark.parametrize("times", [1, 2])
async def test_a_lost_upload_is_sent_again_at_once(times: int, tmp_path: Path) -> None:
    """When the store has forgotten an upload nobody but the log hears of it."""
    memory, opened = await new_repository()
    faults = Faults(Fault("complete", "data/", times=times, error=of(UploadMissingError)))
    async with booted(WrappedStore(memory, faults), opened, tmp_path / "home") as machine:
        await machine.make_backup(NAME)
        await machine.write_file(NAME, b"file", data=CONTENT)
        await machine.sync(NAME)
    assert faults.is_used_up
    await check_stored(memory, opened, tmp_path)


@pytest.mark.parametrize("verb", ["put", "complete", "put_part", "begin_upload"])
async def test_a_lost_answer_does_no_harm(verb: Verb, tmp_path: Path) -> None:
    """What was done and not answered is done again, to the same end."""
    memory, opened = await new_repository()
    faults = Faults(Fault(verb, "data/", times=1, when="after", error=of(UnavailableError)))
    async with booted(WrappedStore(memory, faults), opened, tmp_path / "home") as machine:
        await machine.make_backup(NAME)
        for _ in range(2):
            try:
                if not machine.catalogue.backups[NAME].has_changes:
                    await machine.write_file(NAME, b"file", data=CONTENT)
                await machine.sync(NAME)
            except S3backfsError as error:
                assert isinstance(error, UnavailableError | FileSystemError)  # noqa: PT017
        await machine.sync(NAME)
    await check_stored(memory, opened, tmp_path)


async def test_memory_is_bounded_while_s3_refuses(tmp_path: Path) -> None:
    """A writer that goes on after errors is refused, and no more than the bound is kept."""
    memory, opened = await new_repository()
    faults = Faults(
        Fault("put_part", "data/", times=10**6, error=of(RefusedError)),
        Fault("begin_upload", "data/", times=10**6, error=of(RefusedError)),
    )
    store = WrappedStore(memory, faults)
    async with booted(store, opened, tmp_path / "home", memory_bytes=32 * MIB) as machine:
        await machine.make_backup(NAME)
        await machine.make(NAME, b"file", mode=0o100644)
        handle = await machine.open(NAME, b"file")
        files, refused_count = machine.fs.files, 0
        for number in range(100):
            data = random.Random(number).randbytes(MIB)
            try:
                await files.write(files.handle(handle), number * MIB, data)
            except S3backfsError:
                refused_count += 1
        assert refused_count > 50
        assert machine.repository.writer.budget.peak_bytes <= 32 * MIB
        assert files.handle(handle).content.buffered_bytes <= 16 * MIB
