"""What a sealed root says of the backups that its writer had seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3backfs.backup.roots import load_root, sealed_key
from s3backfs.repository.opening import CreateOptions, create_repository
from s3backfs.store.memory import MemoryStore
from tests.crash.machine import booted

pytestmark = pytest.mark.anyio


async def test_it_is_not_kept_in_memory_and_goes_with_a_renamed_backup(tmp_path: Path) -> None:
    """A thousand roots name half a million others: who renames one reads it again."""
    memory = MemoryStore()
    opened = await create_repository(memory, CreateOptions(is_encrypted=False), None)
    async with booted(memory, opened, tmp_path / "first") as first:
        for name in (b"sunday", b"monday"):
            await first.make_backup(name)
            await first.catalogue.seal(first.catalogue.backups[name])
    async with booted(memory, opened, tmp_path / "second") as second:
        assert second.catalogue.backups[b"monday"].root.seen == ()
        await second.fs.root.rename(b"monday", b"tuesday", 0)
        key = sealed_key(second.repository, b"tuesday")
        renamed = await load_root(memory, second.repository.keyring, key)
    assert [seen.name for seen in renamed.root.seen] == [b"sunday"]
