"""Packs that vanish from the bucket while a mount lives are not referred to by the next backup."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from s3backfs.errors import IntegrityError
from s3backfs.repository import learning
from s3backfs.repository.opening import CreateOptions, OpenedRepository, create_repository
from s3backfs.store.memory import MemoryStore
from tests.crash.machine import Machine, booted

pytestmark = pytest.mark.anyio

MIB = 1 << 20
CONTENT = random.Random(1).randbytes(3 * MIB)


async def new_repository() -> tuple[MemoryStore, OpenedRepository]:
    memory = MemoryStore(smallest_part_bytes=1)
    options = CreateOptions(is_encrypted=False, chunk_bytes=64 << 10, pack_bytes=MIB)
    return memory, await create_repository(memory, options, None)


async def lose_contents(memory: MemoryStore) -> None:
    """Remove every data pack, as no command of s3backfs does."""
    keys = [listed.key async for page in memory.list("data/") for listed in page]
    assert keys
    await memory.delete(keys)


async def check_all_gone(machine: Machine) -> None:
    files = machine.fs.files
    async with machine.at(b"monday", b"file") as node:
        handle = await files.open(node, os.O_RDONLY)
        for offset in range(0, len(CONTENT), 64 << 10):
            with pytest.raises(IntegrityError, match="gone"):
                await files.read(files.handle(handle), offset, 1)
        await files.release(handle)


async def check_read(memory: MemoryStore, opened: OpenedRepository, home: Path) -> None:
    async with booted(memory, opened, home, is_read_only=True) as machine:
        assert await machine.read(b"tuesday", b"file") == CONTENT


async def test_packs_that_vanish_between_backups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup begun after packs were lost stores their contents again, in the same mount."""
    monkeypatch.setattr(learning, "LOOK_EVERY_S", 0.0)
    memory, opened = await new_repository()
    async with booted(memory, opened, tmp_path / "home") as machine:
        await machine.make_backup(b"monday")
        await machine.write_file(b"monday", b"file", data=CONTENT)
        await machine.sync(b"monday")
        await lose_contents(memory)
        await machine.make_backup(b"tuesday")
        await machine.write_file(b"tuesday", b"file", data=CONTENT)
        await machine.sync(b"tuesday")
    await check_read(memory, opened, tmp_path / "reader")


async def test_packs_that_are_found_to_be_gone(tmp_path: Path) -> None:
    """Who reads a lost pack gets an error, and writing the same contents stores them again."""
    memory, opened = await new_repository()
    async with booted(memory, opened, tmp_path / "first") as machine:
        await machine.make_backup(b"monday")
        await machine.write_file(b"monday", b"file", data=CONTENT)
        await machine.sync(b"monday")
    async with booted(memory, opened, tmp_path / "second") as machine:
        await machine.make_backup(b"tuesday")
        await machine.write_file(b"tuesday", b"first", data=b"learned")
        await machine.sync(b"tuesday")
        await lose_contents(memory)
        await check_all_gone(machine)
        await machine.write_file(b"tuesday", b"file", data=CONTENT)
        await machine.sync(b"tuesday")
    await check_read(memory, opened, tmp_path / "reader")
