"""An open backup whose packs are lost says so, and is whole again when they are written anew."""

from __future__ import annotations

import errno
import json
import random
from pathlib import Path

import pytest

from s3backfs.errors import FileSystemError, IncompleteError, IntegrityError, OwnershipLostError
from s3backfs.fs.verbs import Condition, Verbs, finish_backups
from s3backfs.repository import learning
from s3backfs.repository.opening import CreateOptions, OpenedRepository, create_repository
from s3backfs.repository.packing import pack_id_of
from s3backfs.store.counting import Counting
from s3backfs.store.memory import MemoryStore
from tests.crash.machine import Machine, booted

pytestmark = pytest.mark.anyio

MIB = 1 << 20
CONTENT = random.Random(1).randbytes(MIB)
OTHER = random.Random(2).randbytes(MIB)
LARGE = random.Random(3).randbytes(12 * MIB)
"""So many chunks that they stand in an extent tree, whose nodes know no times."""


async def new_repository() -> tuple[MemoryStore, OpenedRepository]:
    memory = MemoryStore(smallest_part_bytes=1)
    options = CreateOptions(is_encrypted=False, chunk_bytes=64 << 10, pack_bytes=8 * MIB)
    return memory, await create_repository(memory, options, None)


async def data_packs(memory: MemoryStore) -> list[str]:
    return [listed.key async for page in memory.list("data/") for listed in page]


async def lose_contents(memory: MemoryStore) -> tuple[bytes, ...]:
    """Remove every data pack behind the mount's back, and return their ids."""
    keys = await data_packs(memory)
    assert keys
    await memory.delete(keys)
    return tuple(sorted(pack_id_of(key) or b"" for key in keys))


async def damage_contents(memory: MemoryStore) -> None:
    """Change a bit in the middle of every data pack."""
    for key in await data_packs(memory):
        data = bytearray((await memory.get(key)).data)
        data[len(data) // 2] ^= 1
        await memory.delete([key])
        await memory.put(key, bytes(data))


async def begin(
    machine: Machine, name: bytes, content: bytes = CONTENT, *, names_count: int = 0
) -> None:
    """Begin a backup with a file; with many names its tree has stored nodes."""
    await machine.make_backup(name)
    await machine.write_file(name, b"file", data=content)
    for number in range(names_count):
        path = b"%d %s" % (number, b"long name " * 20)
        await machine.make(name, path, mode=0o120777, target=b"target")
    await machine.sync(name)


async def begin_other(machine: Machine) -> None:
    await machine.make_backup(b"tuesday")
    await machine.write_file(b"tuesday", b"other", data=OTHER)


async def learn(machine: Machine, name: bytes) -> None:
    """Read what is lost."""
    with pytest.raises(IntegrityError, match="gone"):
        await machine.read(name, b"file")


async def check_whole(
    memory: MemoryStore, opened: OpenedRepository, home: Path, content: bytes = CONTENT
) -> None:
    """Read a backup on a machine that knows nothing."""
    async with booted(memory, opened, home, is_read_only=True) as machine:
        assert await machine.read(b"monday", b"file") == content
        assert machine.catalogue.backups[b"monday"].root.incomplete == ()


async def test_a_checkpoint_and_a_seal_say_what_is_lost(tmp_path: Path) -> None:
    """After a read has met a loss, root, failure and status say so; a seal carries it along."""
    memory, opened = await new_repository()
    async with booted(memory, opened, tmp_path / "home") as machine:
        await begin(machine, b"monday")
        lost = await lose_contents(memory)
        await learn(machine, b"monday")
        await machine.write_file(b"monday", b"more", data=OTHER)
        await machine.sync(b"monday")
        backup = machine.catalogue.backups[b"monday"]
        assert backup.root.incomplete == lost
        assert isinstance(backup.failure, IncompleteError)
        verbs = Verbs(machine.fs, Condition("s3://bucket"), Counting().snapshot)
        status = json.loads(verbs.status_json())
        assert lost[0].hex() in status["last_error"]
        assert status["backups"][0]["incomplete"]
        await machine.catalogue.seal(backup)
    async with booted(memory, opened, tmp_path / "reader", is_read_only=True) as machine:
        assert machine.catalogue.backups[b"monday"].root.incomplete == lost
        assert await machine.read(b"monday", b"more") == OTHER


async def test_the_end_of_a_mount_seals_nothing_that_is_incomplete(tmp_path: Path) -> None:
    """At `umount` such a backup stays open, with a warning and an exit code."""
    memory, opened = await new_repository()
    async with booted(memory, opened, tmp_path / "home") as machine:
        await begin(machine, b"monday")
        await lose_contents(memory)
        await learn(machine, b"monday")
        finish = await finish_backups(machine.fs, keep_open=False, torn=set())
        assert finish.exit_code == IncompleteError.exit_code
        assert "incomplete" in finish.warnings[0]
        assert not machine.catalogue.backups[b"monday"].is_sealed


async def test_the_end_of_a_mount_says_why_it_lost_a_backup(tmp_path: Path) -> None:
    """A mount that slept for longer than its lease does not say that somebody took its backup."""
    memory, opened = await new_repository()
    async with booted(memory, opened, tmp_path / "home") as machine:
        await begin(machine, b"monday")
        await machine.write_file(b"monday", b"unsynced", data=OTHER)
        await machine.fs.repository.writer.barrier()
        await memory.delete(await data_packs(memory))
        lease = machine.fs.repository.lease
        assert lease is not None
        lease.has_lapsed = True
        await machine.catalogue.standing.hear(list)
        finish = await finish_backups(machine.fs, keep_open=False, torn=set())
        assert finish.exit_code == OwnershipLostError.exit_code
        assert "maintenance has removed" in finish.warnings[0]
        assert "another writer" not in finish.warnings[0]


@pytest.mark.parametrize("content", [CONTENT, LARGE], ids=["few extents", "many"])
async def test_writing_again_makes_whole(tmp_path: Path, content: bytes) -> None:
    """The same bytes written over the same file are stored again, and nothing is incomplete."""
    memory, opened = await new_repository()
    async with booted(memory, opened, tmp_path / "home") as machine:
        await begin(machine, b"monday", content)
        await lose_contents(memory)
        await learn(machine, b"monday")
        await machine.sync(b"monday")
        await machine.write(b"monday", b"file", offset=0, data=content)
        await machine.sync(b"monday")
        backup = machine.catalogue.backups[b"monday"]
        assert backup.root.incomplete == ()
        assert backup.failure is None
        assert await machine.read(b"monday", b"file") == content
    await check_whole(memory, opened, tmp_path / "reader", content)


async def test_a_damaged_frame_counts_until_it_is_written_again(tmp_path: Path) -> None:
    """Damage that a read has met makes a backup incomplete, and writing the same bytes mends it."""
    memory, opened = await new_repository()
    async with booted(memory, opened, tmp_path / "home") as machine:
        await begin(machine, b"monday", names_count=1500)
        await damage_contents(memory)
        with pytest.raises(IntegrityError):
            await machine.read(b"monday", b"file")
        await machine.sync(b"monday")
        assert machine.catalogue.backups[b"monday"].root.incomplete
        await machine.write(b"monday", b"file", offset=0, data=CONTENT)
        await machine.sync(b"monday")
        assert machine.catalogue.backups[b"monday"].root.incomplete == ()
    await check_whole(memory, opened, tmp_path / "reader")


@pytest.mark.parametrize("content", [CONTENT, LARGE], ids=["few extents", "many"])
async def test_writing_again_in_the_next_mount_makes_whole(tmp_path: Path, content: bytes) -> None:
    """A mount that only listed the packs stores the contents, and the nodes that lead to them."""
    memory, opened = await new_repository()
    async with booted(memory, opened, tmp_path / "home") as machine:
        await begin(machine, b"monday", content)
    await lose_contents(memory)
    async with booted(memory, opened, tmp_path / "home") as machine:
        await machine.write(b"monday", b"file", offset=0, data=content)
        await machine.sync(b"monday")
    await check_whole(memory, opened, tmp_path / "reader", content)


async def test_next_nights_take_no_node_that_leads_to_what_is_lost(tmp_path: Path) -> None:
    """Backups of the same source after a loss read everywhere, with and without the local index."""
    memory, opened = await new_repository()
    async with booted(memory, opened, tmp_path / "home") as machine:
        await begin(machine, b"monday", LARGE)
        await machine.catalogue.seal(machine.catalogue.backups[b"monday"])
    await lose_contents(memory)
    for name, home in ((b"tuesday", "home"), (b"wednesday", "home"), (b"thursday", "new")):
        async with booted(memory, opened, tmp_path / home) as machine:
            await begin(machine, name, LARGE)
            await machine.catalogue.seal(machine.catalogue.backups[name])
    async with booted(memory, opened, tmp_path / "reader", is_read_only=True) as machine:
        for name in (b"tuesday", b"wednesday", b"thursday"):
            assert await machine.read(name, b"file") == LARGE


async def test_what_is_in_memory_is_stored_again(tmp_path: Path) -> None:
    """Of lost packs the contents that were read just before survive; the root names the rest."""
    memory, opened = await new_repository()
    async with booted(memory, opened, tmp_path / "home") as machine:
        await begin(machine, b"monday", names_count=1500)
        await machine.write_file(b"monday", b"other", data=OTHER)
        await machine.sync(b"monday")
        assert await machine.read(b"monday", b"other") == OTHER
        await lose_contents(memory)
        await learn(machine, b"monday")
        await machine.sync(b"monday")
        assert machine.catalogue.backups[b"monday"].root.incomplete
        assert await machine.read(b"monday", b"other") == OTHER
    async with booted(memory, opened, tmp_path / "reader", is_read_only=True) as machine:
        assert await machine.read(b"monday", b"other") == OTHER
        with pytest.raises(IntegrityError):
            await machine.read(b"monday", b"file")


async def test_damage_elsewhere_is_no_loss_of_this_backup(tmp_path: Path) -> None:
    """Lost packs of a sealed backup make no open one incomplete that does not need them."""
    memory, opened = await new_repository()
    async with booted(memory, opened, tmp_path / "home") as machine:
        await begin(machine, b"monday")
        await machine.catalogue.seal(machine.catalogue.backups[b"monday"])
        await lose_contents(memory)
        await begin_other(machine)
        await learn(machine, b"monday")
        await machine.sync(b"tuesday")
        assert machine.catalogue.backups[b"tuesday"].root.incomplete == ()
        assert machine.catalogue.backups[b"tuesday"].failure is None


async def test_a_pack_of_nodes_that_is_lost_counts(tmp_path: Path) -> None:
    """Where extents cannot be read the root names the pack that they were in."""
    memory, opened = await new_repository()
    async with booted(memory, opened, tmp_path / "home") as machine:
        await begin(machine, b"monday", LARGE)
    keys = [listed.key async for page in memory.list("meta/") for listed in page]
    await memory.delete(keys)
    async with booted(memory, opened, tmp_path / "new", take_over=True) as machine:
        await machine.write_file(b"monday", b"more", data=OTHER)
        with pytest.raises(IntegrityError, match="gone"):
            await machine.read(b"monday", b"file")
        await machine.sync(b"monday")
        lost = machine.catalogue.backups[b"monday"].root.incomplete
        assert lost == tuple(sorted(pack_id_of(key) or b"" for key in keys))


async def test_a_late_seal_looks_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seal long after the last listing lists the packs, and says what is lost unread."""
    memory, opened = await new_repository()
    async with booted(memory, opened, tmp_path / "home") as machine:
        await begin(machine, b"monday")
        lost = await lose_contents(memory)
        monkeypatch.setattr(learning, "LOOK_EVERY_S", 0.0)
        backup = machine.catalogue.backups[b"monday"]
        await machine.catalogue.seal(backup)
        assert backup.is_sealed
        assert backup.root.incomplete == lost


async def test_a_pack_that_is_back_is_no_loss(tmp_path: Path) -> None:
    """Who puts a lost pack back, from an older version, say, has a complete backup again."""
    memory, opened = await new_repository()
    async with booted(memory, opened, tmp_path / "home") as machine:
        await begin(machine, b"monday", names_count=1500)
        kept = {key: (await memory.get(key)).data for key in await data_packs(memory)}
        lost = await lose_contents(memory)
        await learn(machine, b"monday")
        await machine.sync(b"monday")
        assert machine.catalogue.backups[b"monday"].root.incomplete == lost
        for key, data in kept.items():
            await memory.put(key, data)
    async with booted(memory, opened, tmp_path / "home") as machine:
        await machine.write_file(b"monday", b"more", data=OTHER)
        await machine.sync(b"monday")
        assert machine.catalogue.backups[b"monday"].root.incomplete == ()
    await check_whole(memory, opened, tmp_path / "reader")


async def test_nothing_is_linked_that_is_known_to_be_lost(tmp_path: Path) -> None:
    """A link from a file whose pack is lost answers EXDEV, so that rsync copies it."""
    memory, opened = await new_repository()
    async with booted(memory, opened, tmp_path / "home") as machine:
        await begin(machine, b"monday")
        await machine.catalogue.seal(machine.catalogue.backups[b"monday"])
        await machine.make_backup(b"tuesday")
        await lose_contents(memory)
        await learn(machine, b"monday")
        with pytest.raises(FileSystemError) as caught:
            await machine.link((b"monday", b"file"), (b"tuesday", b"file"))
        assert caught.value.errno_code == errno.EXDEV
