"""Several machines and one open backup, on stores that enforce conditions and on others."""

from __future__ import annotations

import errno
import random
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from s3backfs.backup.finding import list_backups
from s3backfs.errors import (
    FileSystemError,
    ObjectMissingError,
    OwnershipLostError,
    S3backfsError,
    UnavailableError,
)
from s3backfs.repository.opening import CreateOptions, OpenedRepository, create_repository
from s3backfs.store.around import WrappedStore
from s3backfs.store.base import Store
from s3backfs.store.local import LocalStore
from s3backfs.store.memory import MemoryStore
from s3backfs.store.s3 import S3Store
from s3backfs.store.s3_client import S3Settings
from tests.crash.journal import Journal
from tests.crash.machine import Machine, booted
from tests.servers import Server, moto_server, rclone_server
from tests.store.faults import Fault, Faults

pytestmark = pytest.mark.anyio

NAME = b"monday"


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with rclone_server(tmp_path_factory.mktemp("rclone") / "data") as server:
        yield server


@pytest.fixture(scope="module")
def moto() -> Iterator[Server]:
    with moto_server() as server:
        yield server


@pytest.fixture(params=["memory", "careless memory", "local", "moto", "rclone"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Stores of each kind; `careless memory` and rclone ignore conditions."""
    match request.param:
        case "memory" | "careless memory":
            return MemoryStore(enforce_conditions=request.param == "memory")
        case "local":
            (tmp_path / "store").mkdir()
            return LocalStore(tmp_path / "store")
        case name:
            server: Server = request.getfixturevalue(name)
            for key, value in server.environment.items():
                monkeypatch.setenv(key, value)
            bucket = server.make_bucket(f"owners-{uuid.uuid4().hex}")
            return S3Store(S3Settings(bucket, "a/prefix"))


@dataclass
class Place:
    """One repository, and homes for machines that use it."""

    store: Store
    opened: OpenedRepository
    home: Path

    @asynccontextmanager
    async def machine(
        self, name: str, *, store: Store | None = None, take_over: bool = False
    ) -> AsyncIterator[Machine]:
        home = self.home / name
        used = store or self.store
        async with booted(used, self.opened, home, take_over=take_over) as machine:
            yield machine


async def new_place(store: Store, home: Path) -> Place:
    options = CreateOptions(is_encrypted=False, chunk_bytes=64 << 10, pack_bytes=1 << 20)
    return Place(store, await create_repository(store, options, None), home)


async def visible(place: Place) -> dict[bytes, dict[bytes, bytes]]:
    """What a machine that writes nothing sees: the files of each backup."""
    found = {}
    home = place.home / uuid.uuid4().hex
    async with booted(place.store, place.opened, home, is_read_only=True) as machine:
        for name in await machine.names():
            picture = await machine.picture(name)
            found[name] = {path[0]: seen.content for path, seen in picture.items()}
    return found


async def test_a_take_over_goes_on_from_the_last_checkpoint(store: Store, tmp_path: Path) -> None:
    """Who takes a backup over has all that was acknowledged, and the loser gets ESTALE."""
    place = await new_place(store, tmp_path)
    async with place.machine("first") as first:
        await first.make_backup(NAME)
        await first.write_file(NAME, b"one", data=b"1" * 5000)
        await first.sync(NAME)
        async with place.machine("second", take_over=True) as second:
            await second.write_file(NAME, b"two", data=b"2" * 5000)
            await second.sync(NAME)
            await first.write_file(NAME, b"lost", data=b"lost")
            with pytest.raises(OwnershipLostError):
                await first.sync(NAME)
            with pytest.raises(FileSystemError) as caught:
                await first.write_file(NAME, b"lost too", data=b"lost")
            assert caught.value.errno_code == errno.ESTALE
            with pytest.raises(OwnershipLostError):
                await first.sync(NAME)
            await second.write_file(NAME, b"three", data=b"3")
            await second.sync(NAME)
        assert first.catalogue.lost()
    expected = {b"one": b"1" * 5000, b"two": b"2" * 5000, b"three": b"3"}
    assert await visible(place) == {NAME: expected}


async def test_the_loser_can_not_seal(store: Store, tmp_path: Path) -> None:
    """A seal by a writer that has lost the backup fails, and hides nothing of the winner's."""
    place = await new_place(store, tmp_path)
    async with place.machine("first") as first:
        await first.make_backup(NAME)
        await first.sync(NAME)
        async with place.machine("second", take_over=True) as second:
            await second.write_file(NAME, b"two", data=b"2")
            await second.sync(NAME)
            with pytest.raises(OwnershipLostError):
                await first.catalogue.seal(first.catalogue.backups[NAME])
            await second.catalogue.seal(second.catalogue.backups[NAME])
    assert await visible(place) == {NAME: {b"two": b"2"}}


async def test_one_name_has_one_owner(store: Store, tmp_path: Path) -> None:
    """Of machines that make a backup of one name at once at most one succeeds."""
    place = await new_place(store, tmp_path)
    made: list[str] = []
    refused: list[int] = []

    async def make(machine: Machine, who: str) -> None:
        try:
            await machine.make_backup(NAME)
        except FileSystemError as error:
            refused.append(error.errno_code)
        else:
            made.append(who)

    async with (
        place.machine("first") as first,
        place.machine("second") as second,
        place.machine("third") as third,
    ):
        async with trio.open_nursery() as nursery:
            for machine in (first, second, third):
                nursery.start_soon(make, machine, str(id(machine)))
        assert len(made) == 1
        assert refused == [errno.EEXIST] * 2
        await third.catalogue.refresh(is_forced=True)
        assert await third.names() == [NAME]


async def test_an_owner_that_is_alive_keeps_its_backup(store: Store, tmp_path: Path) -> None:
    """While the lease holds others get EROFS; when its writer has ended it, they go on."""
    place = await new_place(store, tmp_path)
    async with place.machine("first") as first:
        await first.make_backup(NAME)
        await first.sync(NAME)
        async with place.machine("second") as second:
            with pytest.raises(FileSystemError) as caught:
                await second.write_file(NAME, b"two", data=b"2")
            assert caught.value.errno_code == errno.EROFS
        await first.repository.end_lease()
        async with place.machine("third") as third:
            await third.write_file(NAME, b"three", data=b"3")
            await third.sync(NAME)
    assert await visible(place) == {NAME: {b"three": b"3"}}


@pytest.mark.parametrize("is_careful", [True, False])
async def test_a_lease_runs_out_by_the_stores_clock(is_careful: bool, tmp_path: Path) -> None:
    """A writer that is not heard of loses its backup after the lease's time at the store."""
    now_ns = 10**18
    store = MemoryStore(clock=lambda: now_ns, enforce_conditions=is_careful)
    place = await new_place(store, tmp_path)
    async with place.machine("first") as first:
        await first.make_backup(NAME)
        await first.sync(NAME)
    now_ns += 599 * 10**9
    async with place.machine("second") as second:
        with pytest.raises(FileSystemError):
            await second.write_file(NAME, b"two", data=b"2")
    now_ns += 2 * 10**9
    async with place.machine("third") as third:
        await third.write_file(NAME, b"three", data=b"3")
        await third.sync(NAME)
    assert await visible(place) == {NAME: {b"three": b"3"}}


@pytest.mark.parametrize("is_careful", [True, False])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_unanswered_root_is_ones_own(is_careful: bool, when: str, tmp_path: Path) -> None:
    """A root whose answer was lost is taken for one's own at the next checkpoint."""
    memory = MemoryStore(enforce_conditions=is_careful)
    place = await new_place(memory, tmp_path)
    faults = Faults(Fault("put", "open/", skip=1, times=2, when=when))  # type: ignore[arg-type]
    async with place.machine("first", store=WrappedStore(memory, faults)) as first:
        await first.make_backup(NAME)
        for number in range(2):
            await first.write_file(NAME, b"%d" % number, data=b"data")
            with suppress(UnavailableError):
                await first.sync(NAME)
        assert faults.is_used_up
        await first.write_file(NAME, b"last", data=b"data")
        await first.sync(NAME)
        assert await visible(place) == {NAME: dict.fromkeys([b"0", b"1", b"last"], b"data")}


@pytest.mark.parametrize("is_careful", [True, False])
@pytest.mark.parametrize("verb", ["put", "delete"])
async def test_an_interrupted_seal_is_a_seal(is_careful: bool, verb: str, tmp_path: Path) -> None:
    """Once it is decided everybody sees the sealed backup, and the next mount completes it."""
    memory = MemoryStore(enforce_conditions=is_careful)
    place = await new_place(memory, tmp_path)
    prefix = "backups/" if verb == "put" else "open/"
    faults = Faults(Fault(verb, prefix, times=99))  # type: ignore[arg-type]
    async with place.machine("first", store=WrappedStore(memory, faults)) as first:
        await first.make_backup(NAME)
        await first.write_file(NAME, b"one", data=b"1")
        try:
            await first.catalogue.seal(first.catalogue.backups[NAME])
        except S3backfsError:
            assert verb == "put"
    async with place.machine("other") as other:
        assert other.catalogue.backups[NAME].is_sealed
        with pytest.raises(FileSystemError):
            await other.write_file(NAME, b"two", data=b"2")
    async with place.machine("first"):
        pass
    await memory.head("backups/monday")
    if verb == "put":
        with pytest.raises(ObjectMissingError):
            await memory.head("open/monday")
    assert await visible(place) == {NAME: {b"one": b"1"}}


@pytest.mark.parametrize("is_careful", [True, False])
@pytest.mark.parametrize("seed", range(12))
async def test_nothing_acknowledged_is_lost_to_a_take_over(
    seed: int, is_careful: bool, tmp_path: Path
) -> None:
    """However checkpoints and a take-over meet, what either acknowledged is in the end there."""
    randomness = random.Random(seed)
    memory = MemoryStore()
    place = await new_place(memory, tmp_path)
    journal = Journal(memory.objects, randomness, enforce_conditions=is_careful)
    place.store = journal
    acknowledged: set[bytes] = set()
    refused: list[int] = []

    async def write(machine: Machine, letter: bytes) -> None:
        for number in range(6):
            name = b"%s%d" % (letter, number)
            try:
                await machine.write_file(NAME, name, data=name)
                await machine.sync(NAME)
            except S3backfsError as error:
                refused.append(error.errno_code)
                return
            acknowledged.add(name)

    async def take_over() -> None:
        for _ in range(randomness.randrange(60)):
            await trio.lowlevel.checkpoint()
        async with place.machine("second") as second:
            try:
                await second.catalogue.take_over(second.catalogue.backups[NAME])
            except S3backfsError:
                return
            await write(second, b"second")

    async with place.machine("first") as first:
        await first.make_backup(NAME)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, first, b"first")
            nursery.start_soon(take_over)
    found = await visible(place)
    assert acknowledged <= set(found[NAME])
    assert set(refused) <= {errno.ESTALE}


@pytest.mark.parametrize("is_careful", [True, False])
async def test_an_interrupted_reopening_can_be_repeated(is_careful: bool, tmp_path: Path) -> None:
    """An open root that a crash has left beside the sealed one is in nobody's way."""
    memory = MemoryStore(enforce_conditions=is_careful)
    place = await new_place(memory, tmp_path)
    faults = Faults(Fault("delete", "backups/", times=99))
    async with place.machine("first", store=WrappedStore(memory, faults)) as first:
        await first.make_backup(NAME)
        await first.write_file(NAME, b"one", data=b"1")
        await first.catalogue.seal(first.catalogue.backups[NAME])
        with pytest.raises(UnavailableError):
            await first.catalogue.reopen(first.catalogue.backups[NAME])
    for who in (b"first", b"other"):
        async with place.machine(who.decode()) as machine:
            assert machine.catalogue.backups[NAME].is_sealed
            await machine.catalogue.reopen(machine.catalogue.backups[NAME])
            await machine.write_file(NAME, who, data=who)
            await machine.catalogue.seal(machine.catalogue.backups[NAME])
    assert await visible(place) == {NAME: {b"one": b"1", b"first": b"first", b"other": b"other"}}


@pytest.mark.parametrize("is_careful", [True, False])
async def test_a_late_root_of_a_removed_backup(is_careful: bool, tmp_path: Path) -> None:
    """A root that lands after its backup was removed brings nothing back and blocks nobody."""
    memory = MemoryStore(enforce_conditions=is_careful)
    place = await new_place(memory, tmp_path)
    key = f"open/{NAME.decode()}"
    async with place.machine("first") as first:
        await first.make_backup(NAME)
        late = [(await memory.get(key)).data]
        await first.write_file(NAME, b"one", data=b"1")
        await first.sync(NAME)
        late.append((await memory.get(key)).data)
        await first.remove(NAME, b"one")
        await first.sync(NAME)
        await first.fs.root.remove(NAME)
    for data in late:
        await memory.put(key, data)
        async with place.machine("second", take_over=True) as second:
            assert await second.names() == []
            assert await list_backups(second.repository.store, second.repository.keyring) == []
    async with place.machine("third") as third:
        await third.make_backup(NAME)
        await third.write_file(NAME, b"new", data=b"new")
        await third.sync(NAME)
    assert await visible(place) == {NAME: {b"new": b"new"}}


@pytest.mark.parametrize("is_careful", [True, False])
@pytest.mark.parametrize("what", ["rename", "remove"])
@pytest.mark.parametrize("seed", range(12))
async def test_a_take_over_while_the_owner_renames_or_removes(
    seed: int, what: str, is_careful: bool, tmp_path: Path
) -> None:
    """However they meet, what the new owner has acknowledged is there in the end, once."""
    randomness = random.Random(seed)
    memory = MemoryStore()
    place = await new_place(memory, tmp_path)
    journal = Journal(memory.objects, randomness, enforce_conditions=is_careful)
    place.store = journal
    acknowledged: list[bytes] = []

    async def leave(machine: Machine) -> None:
        for _ in range(randomness.randrange(30)):
            await trio.lowlevel.checkpoint()
        with suppress(S3backfsError):
            if what == "rename":
                await machine.fs.root.rename(NAME, b"tuesday", 0)
            else:
                await machine.fs.root.remove(NAME)

    async def take_over(machine: Machine) -> None:
        for _ in range(randomness.randrange(30)):
            await trio.lowlevel.checkpoint()
        with suppress(S3backfsError):
            await machine.catalogue.take_over(machine.catalogue.backups[NAME])
            await machine.write_file(NAME, b"new", data=b"new")
            await machine.sync(NAME)
            acknowledged.append(b"new")

    async with place.machine("first") as first, place.machine("second") as second:
        await first.make_backup(NAME)
        await second.catalogue.refresh(is_forced=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave, first)
            nursery.start_soon(take_over, second)
    found = await visible(place)
    assert len(found) <= 1
    for files in found.values():
        assert set(acknowledged) <= set(files)
    assert found or not acknowledged
