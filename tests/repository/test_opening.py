"""Making and opening a repository."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import trio

from s3backfs.errors import (
    IntegrityError,
    RepositoryExistsError,
    RepositoryMissingError,
    S3backfsError,
    UnavailableError,
    UnsupportedFormatError,
    WrongKeyError,
)
from s3backfs.format.frame import Encryption
from s3backfs.format.slots import Cost
from s3backfs.repository.opening import (
    CreateOptions,
    OpenedRepository,
    create_repository,
    open_repository,
)
from s3backfs.store.around import Request, WrappedStore
from s3backfs.store.base import Store
from s3backfs.store.memory import MemoryStore
from s3backfs.store.retrying import Retrying
from tests.store.faults import Fault, Faults
from tests.store.recording import Recording

T = TypeVar("T")

pytestmark = pytest.mark.anyio

CHEAP = CreateOptions(cost=Cost(lanes=1, memory_kib=8, passes=1))
CLEAR = CreateOptions(is_encrypted=False)


def secret() -> bytes:
    return b"secret"


def not_asked() -> bytes:
    raise AssertionError("the passphrase was asked for")


async def made(options: CreateOptions = CHEAP) -> tuple[MemoryStore, OpenedRepository]:
    store = MemoryStore()
    passphrase = b"secret" if options.is_encrypted else None
    return store, await create_repository(store, options, passphrase)


async def test_create_and_open() -> None:
    """A repository that was made opens with its passphrase, with the same keys and parameters."""
    store, created = await made()
    opened = await open_repository(store, secret)
    assert opened.parameters == created.parameters
    assert opened.keyring.repository_id == created.keyring.repository_id
    assert opened.keyring.chunk_id(b"a") == created.keyring.chunk_id(b"a")
    assert sorted(key.split("/")[0] for key in store.objects) == ["keys", "repository.json"]


async def test_options_are_kept() -> None:
    """What was chosen when the repository was made is what everybody reads."""
    options = CreateOptions(
        is_encrypted=False, compression_level=None, chunk_bytes=65536, pack_bytes=2**23
    )
    store, _ = await made(options)
    parameters = (await open_repository(store, None)).parameters
    assert parameters.encryption is Encryption.NONE
    assert parameters.compression_level is None
    assert (parameters.chunk_bytes, parameters.pack_bytes) == (65536, 2**23)
    assert parameters.created_s > 1_700_000_000


async def test_without_encryption() -> None:
    """A repository without encryption needs no passphrase, and is refused where one is set."""
    store, created = await made(CLEAR)
    opened = await open_repository(store, not_asked)
    assert opened.keyring.repository_id == created.keyring.repository_id
    with pytest.raises(WrongKeyError, match="not encrypted"):
        await open_repository(store, not_asked, must_be_encrypted=True)
    assert list(store.objects) == ["repository.json"]


async def test_passphrase_must_fit_the_mode() -> None:
    """No encrypted repository is made without a passphrase, nor the other way round."""
    for options, passphrase in [(CHEAP, None), (CHEAP, b""), (CLEAR, b"secret")]:
        store = MemoryStore()
        with pytest.raises(ValueError, match="passphrase"):
            await create_repository(store, options, passphrase)
        assert not store.objects


async def test_wrong_and_missing_passphrase() -> None:
    """A wrong passphrase and none are both WrongKeyError, with texts of their own."""
    store, _ = await made()
    with pytest.raises(WrongKeyError, match="wrong"):
        await open_repository(store, lambda: b"Secret")
    with pytest.raises(WrongKeyError, match="needs a passphrase"):
        await open_repository(store, None)


async def test_missing() -> None:
    """Where there is no repository the text says how to make one, and nobody is asked."""
    with pytest.raises(RepositoryMissingError, match="s3backfs init memory:"):
        await open_repository(MemoryStore(), not_asked)
    store, _ = await made()
    await store.delete(["repository.json"])
    with pytest.raises(RepositoryMissingError, match="interrupted"):
        await open_repository(store, not_asked)


async def test_newer_format() -> None:
    """A repository of a newer format is told from a damaged one, before anybody is asked."""
    store, _ = await made()
    data = store.objects["repository.json"].replace(b'"format":1', b'"format":2')
    store.damage("repository.json", data)
    with pytest.raises(UnsupportedFormatError, match="format 2"):
        await open_repository(store, not_asked)


async def test_damage() -> None:
    """Damage in repository.json or in the only slot names the object."""
    for prefix in ("repository.json", "keys/"):
        store, _ = await made()
        key = next(key for key in store.objects if key.startswith(prefix))
        for data in (b"", store.objects[key][:-2], store.objects[key].replace(b":", b";")):
            store.damage(key, data)
            with pytest.raises(IntegrityError) as caught:
                await open_repository(store, secret)
            assert caught.value.key == key


async def test_swapped_repository_json() -> None:
    """A repository.json of another repository does not open with this one's slots."""
    store, _ = await made()
    other, _ = await made()
    store.damage("repository.json", other.objects["repository.json"])
    with pytest.raises(IntegrityError):
        await open_repository(store, secret)


async def test_lost_slots() -> None:
    """An encrypted repository without key slots says that its key is lost."""
    store, _ = await made()
    await store.delete([key for key in store.objects if key.startswith("keys/")])
    with pytest.raises(IntegrityError, match="no key slot"):
        await open_repository(store, secret)


async def test_opening_costs_two_round_trips() -> None:
    """Opening is one listing and two GETs."""
    store, _ = await made()
    recording = Recording(store)
    await open_repository(WrappedStore(store, recording), secret)
    assert (recording.count("list"), recording.count("get")) == (1, 2)
    assert len(recording.requests) == 3


# -- places that are taken, and crashes --------------------------------------------------------


async def test_no_second_repository() -> None:
    """Making a repository where there is one changes nothing."""
    store, _ = await made()
    before = store.objects
    with pytest.raises(RepositoryExistsError, match="already"):
        await create_repository(store, CHEAP, b"secret")
    assert store.objects == before


@pytest.mark.parametrize("key", ["data/x", "keys/readme", "keys.txt", "photo.jpg", "zoo"])
async def test_foreign_objects(key: str) -> None:
    """Making a repository over anything foreign is refused, names it, and changes nothing."""
    store = MemoryStore({key: b"precious"})
    with pytest.raises(RepositoryExistsError, match=key):
        await create_repository(store, CHEAP, b"secret")
    assert store.objects == {key: b"precious"}


async def test_damaged_slot_of_a_repository() -> None:
    """A repository with a damaged slot is still a repository to who wants to make one."""
    store, _ = await made()
    slot = next(key for key in store.objects if key.startswith("keys/"))
    store.damage(slot, b"?")
    with pytest.raises(RepositoryExistsError, match="there is a repository already"):
        await create_repository(store, CHEAP, b"secret")


async def test_interrupted_creation() -> None:
    """After a crash between slot and repository.json the next try succeeds and cleans up."""
    store = MemoryStore()
    cut = WrappedStore(store, Faults(Fault("put", "repository.json")))
    with pytest.raises(UnavailableError):
        await create_repository(cut, CHEAP, b"first")
    assert len(store.objects) == 1
    await create_repository(store, CHEAP, b"secret")
    assert len(store.objects) == 2
    await open_repository(store, secret)


async def test_lost_answer() -> None:
    """A lost answer to the last PUT, sent again, is success: the bytes are ours."""
    store = MemoryStore()
    faults = Faults(Fault("put", "repository.json", when="after"))
    retrying = WrappedStore(WrappedStore(store, faults), Retrying(60))
    created = await create_repository(retrying, CHEAP, b"secret")
    opened = await open_repository(store, secret)
    assert opened.keyring.repository_id == created.keyring.repository_id


@pytest.mark.parametrize("enforce_conditions", [True, False])
async def test_two_at_once(enforce_conditions: bool) -> None:
    """Of two that make a repository at once, exactly the one that is there succeeds."""
    store = MemoryStore(enforce_conditions=enforce_conditions)
    barrier = _Meeting(2)
    results: dict[bytes, OpenedRepository | S3backfsError] = {}

    async def create(passphrase: bytes) -> None:
        try:
            results[passphrase] = await create_repository(
                WrappedStore(store, barrier), CHEAP, passphrase
            )
        except RepositoryExistsError as error:
            results[passphrase] = error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(create, b"first")
        nursery.start_soon(create, b"second")
    winners = [key for key, made in results.items() if isinstance(made, OpenedRepository)]
    assert len(winners) == 1
    await open_repository(store, lambda: winners[0])


class _Meeting:
    """A policy that lets nobody read repository.json back before all have written it."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self._met = trio.Event()

    async def __call__(self, request: Request, act: Callable[[], Awaitable[T]]) -> T:
        if request.key != "repository.json":
            return await act()
        if request.verb == "get":
            await self._met.wait()
        try:
            return await act()
        finally:
            if request.verb == "put":
                self._missing -= 1
                if not self._missing:
                    self._met.set()


async def test_hostile_lengths() -> None:
    """An endless repository.json is read up to what one can have, and refused."""
    store: Store = MemoryStore({"repository.json": b" " * 10_000_000})
    with pytest.raises(IntegrityError, match="longer"):
        await open_repository(store, not_asked)
