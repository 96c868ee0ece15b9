"""Reading chunks and nodes out of packs."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from s3backfs.errors import IntegrityError, StoreError, UnavailableError
from s3backfs.format.frame import Encryption
from s3backfs.format.refs import Kind, Ref
from s3backfs.repository.cache import DiskCache
from s3backfs.repository.fetching import FetchLimits
from s3backfs.repository.frames import InFlight, NothingInFlight
from s3backfs.repository.reader import Caches, Reader, ReaderLimits
from tests.repository.packs import Bench, PackMaker, new_bench, noise

pytestmark = pytest.mark.anyio

MIB = 1 << 20


@asynccontextmanager
async def reading(
    bench: Bench,
    *,
    memory_bytes: int = 64 * MIB,
    disk: DiskCache | None = None,
    inflight: InFlight | None = None,
    limits: ReaderLimits | None = None,
) -> AsyncIterator[Reader]:
    caches = Caches.within(memory_bytes, disk)
    inflight = inflight or NothingInFlight()
    limits = limits or ReaderLimits()
    async with Reader(bench.store, bench.keyring, caches, inflight, limits) as reader:
        yield reader


async def stored(
    bench: Bench, *plains: bytes, kind: Kind = Kind.DATA, number: int = 1
) -> list[Ref]:
    pack = PackMaker(bench.keyring, kind, number)
    refs = [pack.add(plain) for plain in plains]
    await pack.store(bench.memory)
    return refs


def texts(count: int, length: int = 50_000) -> list[bytes]:
    return [noise(length, seed) for seed in range(count)]


def tell_length(plain: bytes) -> int:
    return len(plain)


@pytest.mark.parametrize("encryption", list(Encryption))
async def test_a_range_of_a_chunk(encryption: Encryption) -> None:
    """Any range of a content comes back, with and without encryption, by one GET of its frame."""
    bench = new_bench(encryption)
    plains = [b"", b"tiny", noise(100_000), b"text " * 100_000]
    refs = await stored(bench, *plains)
    async with reading(bench) as reader:
        for ref, plain in zip(refs, plains, strict=True):
            assert await reader.read(ref, 0, len(plain)) == plain
            assert (
                await reader.read(ref, len(plain) // 3, len(plain) // 2)
                == (plain[len(plain) // 3 :][: len(plain) // 2])
            )
            assert await reader.read_chunk(ref) == plain
    gets = bench.watching.gets("data/")
    assert [get.wanted_bytes for get in gets] == [ref.frame_length for ref in refs]


async def test_slices_of_a_bundle_share_one_get() -> None:
    """Many small contents of one chunk cost one request."""
    bench = new_bench()
    plains = [noise(1000, seed) for seed in range(100)]
    pack = PackMaker(bench.keyring)
    pack.add(noise(5000))
    refs = pack.add_bundle(plains)
    await pack.store(bench.memory)
    async with reading(bench) as reader:
        for ref, plain in zip(refs, plains, strict=True):
            assert await reader.read(ref, 10, 990) == plain[10:]
    assert len(bench.watching.gets()) == 1


async def test_hinted_neighbours_come_along() -> None:
    """Chunks that lie near each other and are read ahead cost one GET."""
    bench = new_bench()
    plains = texts(20)
    refs = await stored(bench, *plains)
    async with reading(bench) as reader:
        reader.prefetch(refs)
        for ref, plain in zip(refs, plains, strict=True):
            assert await reader.read(ref, 0, len(plain)) == plain
    assert len(bench.watching.gets()) == 1


async def test_reading_ahead_has_several_gets_in_flight() -> None:
    """Two packs, and two far ends of one, are fetched at the same time without anyone waiting."""
    bench = new_bench()
    bench.watching.gate = trio.Event()
    pack = PackMaker(bench.keyring)
    first = pack.add(noise(20_000, 1))
    pack.gap(MIB)
    second = pack.add(noise(20_000, 2))
    await pack.store(bench.memory)
    (third,) = await stored(bench, noise(20_000, 3), number=2)
    async with reading(bench) as reader:
        reader.prefetch([first, second, third])
        await trio.testing.wait_all_tasks_blocked()
        assert len(bench.watching.gets()) == 3
        bench.watching.gate.set()
        assert await reader.read(third, 0, 20_000) == noise(20_000, 3)
    assert len(bench.watching.gets()) == 3


async def test_reading_ahead_is_bounded() -> None:
    """What is above the limit is not read ahead, and still comes along when it is near."""
    bench = new_bench()
    plains = texts(20)
    refs = await stored(bench, *plains)
    bench.watching.gate = trio.Event()
    async with reading(bench, limits=ReaderLimits(ahead_bytes=1)) as reader:
        reader.prefetch(refs)
        await trio.testing.wait_all_tasks_blocked()
        assert not bench.watching.gets()
        bench.watching.gate.set()
        for ref, plain in zip(refs, plains, strict=True):
            assert await reader.read(ref, 0, len(plain)) == plain
    assert len(bench.watching.gets()) == 1


async def test_what_is_fetched_ahead_waits_as_it_is_stored() -> None:
    """Frames fetched for later cost no GET when they are read, and are not opened before."""
    bench = new_bench()
    plains = texts(20)
    refs = await stored(bench, *plains)
    limits = ReaderLimits(spare_bytes=64 * MIB)
    async with reading(bench, limits=limits) as reader:
        reader.fetch_ahead(refs)
        await trio.testing.wait_all_tasks_blocked()
        assert len(bench.watching.gets()) == 1
        assert all(reader.peek(ref) is None for ref in refs)
        for ref, plain in zip(refs, plains, strict=True):
            assert await reader.read(ref, 0, len(plain)) == plain
    assert len(bench.watching.gets()) == 1


async def test_fetching_ahead_is_bounded_until_it_is_used() -> None:
    """Two GETs of 2 MiB have room among 12 MiB; the third is made when some of that was read."""
    bench = new_bench()
    packs = [await stored(bench, noise(2 * MIB, number), number=number) for number in range(3)]
    refs = [ref for (ref,) in packs]
    limits = ReaderLimits(spare_bytes=12 * MIB, fetch=FetchLimits(total_bytes=2 * MIB))
    async with reading(bench, limits=limits) as reader:
        reader.fetch_ahead(refs)
        await trio.testing.wait_all_tasks_blocked()
        assert len(bench.watching.gets()) == 2
        reader.fetch_ahead(refs)
        await trio.testing.wait_all_tasks_blocked()
        assert len(bench.watching.gets()) == 2
        await reader.read(refs[0], 0, 1)
        reader.fetch_ahead(refs[1:])
        await trio.testing.wait_all_tasks_blocked()
        assert len(bench.watching.gets()) == 3


async def test_little_memory_has_no_room_for_what_is_fetched_ahead() -> None:
    """Where one GET would push out what the last one brought, none is made; the rest is hints."""
    bench = new_bench()
    refs = await stored(bench, *texts(20))
    async with reading(bench, limits=ReaderLimits(spare_bytes=8 * MIB)) as reader:
        reader.fetch_ahead(refs)
        await trio.testing.wait_all_tasks_blocked()
        assert not bench.watching.gets()
        assert reader.is_expected(refs[-1])


async def test_two_readers_of_one_chunk_share_one_get() -> None:
    """While a chunk is under way nobody asks for it again."""
    bench = new_bench()
    (ref,) = await stored(bench, noise(100_000))
    results: list[bytes] = []
    bench.watching.gate = trio.Event()
    async with reading(bench) as reader, trio.open_nursery() as nursery:

        async def read() -> None:
            results.append(bytes(await reader.read(ref, 5, 100)))

        for _ in range(5):
            nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        bench.watching.gate.set()
    assert results == [noise(100_000)[5:105]] * 5
    assert len(bench.watching.gets()) == 1


async def test_a_failed_get_reaches_all_who_wait_and_is_forgotten() -> None:
    """Each waiter gets the error as its own; the next read asks the store again."""
    bench = new_bench()
    (ref,) = await stored(bench, noise(100_000))
    bench.watching.errors = [UnavailableError("away", key="data/x")]
    bench.watching.gate = trio.Event()
    errors: list[StoreError] = []
    async with reading(bench) as reader:

        async def read() -> None:
            with pytest.raises(UnavailableError) as caught:
                await reader.read(ref, 0, 10)
            errors.append(caught.value)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            bench.watching.gate.set()
        assert len({id(error) for error in errors}) == 3
        assert {(str(error), error.key) for error in errors} == {("data/x: away", "data/x")}
        assert await reader.read(ref, 0, 10) == noise(100_000)[:10]


async def test_a_cancelled_reader_does_not_disturb_the_others() -> None:
    """The GET goes on for whoever else waits."""
    bench = new_bench()
    (ref,) = await stored(bench, noise(100_000))
    bench.watching.gate = trio.Event()
    async with reading(bench) as reader, trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def impatient() -> None:
            with scope:
                await reader.read(ref, 0, 10)

        async def patient() -> None:
            assert await reader.read(ref, 0, 10) == noise(100_000)[:10]

        nursery.start_soon(impatient)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(patient)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        bench.watching.gate.set()
    assert len(bench.watching.gets()) == 1


async def test_closing_ends_what_is_under_way() -> None:
    """Leaving the reader cancels its GETs; an error of the body leaves as it is."""
    bench = new_bench()
    refs = await stored(bench, *texts(3))
    bench.watching.gate = trio.Event()

    async def fail() -> None:
        async with reading(bench) as reader:
            reader.prefetch(refs)
            await trio.testing.wait_all_tasks_blocked()
            raise ValueError("of the body")

    with pytest.raises(ValueError, match="of the body"):
        await fail()


async def test_damage_hits_one_frame_only(caplog: pytest.LogCaptureFixture) -> None:
    """A flipped bit is an error that names pack and offset, logged once; neighbours read."""
    bench = new_bench()
    plains = texts(3)
    refs = await stored(bench, *plains)
    (key,) = bench.memory.objects
    data = bytearray(bench.memory.objects[key])
    data[refs[1].pack_offset + 100] ^= 1
    bench.memory.damage(key, bytes(data))
    async with reading(bench) as reader:
        reader.prefetch(refs)
        for _ in range(3):
            with pytest.raises(IntegrityError) as caught:
                await reader.read(refs[1], 0, 10)
            assert (caught.value.key, caught.value.offset) == (key, refs[1].pack_offset)
        assert await reader.read(refs[0], 0, 10) == plains[0][:10]
        assert await reader.read(refs[2], 0, 10) == plains[2][:10]
    assert [record.getMessage() for record in caplog.records] == [str(caught.value)]


async def test_a_truncated_pack() -> None:
    """Frames behind the end of the object are damage; those before it read."""
    bench = new_bench()
    plains = texts(2)
    refs = await stored(bench, *plains)
    (key,) = bench.memory.objects
    bench.memory.damage(key, bench.memory.objects[key][: refs[1].pack_offset + 10])
    async with reading(bench) as reader:
        reader.prefetch(refs)
        with pytest.raises(IntegrityError, match=f"{key} at byte {refs[1].pack_offset}"):
            await reader.read(refs[1], 0, 10)
        assert await reader.read(refs[0], 0, 10) == plains[0][:10]


async def test_a_forged_reference_costs_no_memory() -> None:
    """Absurd lengths, ranges outside of the content and unknown epochs are damage, not requests."""
    bench = new_bench()
    (ref,) = await stored(bench, noise(1000))
    forged = [
        msgspec.structs.replace(ref, frame_length=2**32 - 1),
        msgspec.structs.replace(ref, chunk_length=2**32 - 1),
        msgspec.structs.replace(ref, slice_length=2000),
        msgspec.structs.replace(ref, frame_length=0),
    ]
    async with reading(bench) as reader:
        reader.prefetch([forged[0], forged[1], forged[3]])
        for each in forged:
            with pytest.raises(IntegrityError):
                await reader.read(each, 0, 1)
        assert not bench.watching.gets()
        for change in ({"epoch": 9}, {"chunk_length": 1001}, {"pack_offset": 1}):
            with pytest.raises(IntegrityError):
                await reader.read(msgspec.structs.replace(ref, **change), 0, 1)


async def test_a_pack_that_is_not_stored_yet_is_read_from_memory() -> None:
    """Frames of a pack in flight cost no request."""
    bench = new_bench()
    pack = PackMaker(bench.keyring)
    refs = [pack.add(plain) for plain in (b"tiny", noise(100_000))]

    class OnePack:
        def peek(self, pack_id: bytes, pack_offset: int, frame_length: int) -> memoryview | None:
            if pack_id != pack.pack_id:
                return None
            return memoryview(pack.data)[pack_offset : pack_offset + frame_length]

    async with reading(bench, inflight=OnePack()) as reader:
        reader.prefetch(refs)
        assert await reader.read(refs[0], 0, 4) == b"tiny"
        assert await reader.read(refs[1], 0, 100_000) == noise(100_000)
    assert not bench.watching.requests


async def test_chunks_are_kept_within_the_memory_limit() -> None:
    """A chunk that was pushed out is fetched again; one that was not is not."""
    bench = new_bench()
    refs = await stored(bench, *texts(4))
    limits = ReaderLimits(spare_bytes=0)
    async with reading(bench, memory_bytes=160_000, limits=limits) as reader:
        for ref in refs:
            await reader.read(ref, 0, 1)
        bench.watching.forget()
        await reader.read(refs[3], 0, 1)
        assert not bench.watching.gets()
        await reader.read(refs[0], 0, 1)
        assert len(bench.watching.gets()) == 1


# -- nodes -----------------------------------------------------------------------------------


async def test_a_node_is_decoded_once() -> None:
    """A decoded node comes from memory, and readers at the same time share one decoding."""
    bench = new_bench()
    (ref,) = await stored(bench, noise(40_000), kind=Kind.META)
    calls: list[int] = []

    def decode(plain: bytes) -> int:
        calls.append(len(plain))
        return len(plain)

    async with reading(bench) as reader:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(reader.read_node, ref, decode)
        assert await reader.read_node(ref, decode) == 40_000
    assert calls == [40_000]
    assert len(bench.watching.gets("meta/")) == 1


async def test_a_patch_and_its_base_near_it_are_one_get() -> None:
    """A node that is a patch is whole again when it is read, by one request."""
    bench = new_bench()
    base_plain = noise(60_000)
    plain = base_plain[:30_000] + b"changed" + base_plain[30_000:]
    pack = PackMaker(bench.keyring, Kind.META)
    base = pack.add(base_plain)
    ref = pack.add(plain, base=(base, base_plain))
    await pack.store(bench.memory)
    assert ref.frame_length < 2000
    async with reading(bench) as reader:
        assert await reader.read_node(ref, bytes) == plain
        assert await reader.read_node_bytes(ref) == plain
        assert await reader.read_node(base, bytes) == base_plain
    assert len(bench.watching.gets()) <= 2


async def test_a_patch_and_its_far_base_are_fetched_at_once() -> None:
    """Two GETs that do not wait for each other."""
    bench = new_bench()
    base_plain = noise(60_000)
    (base,) = await stored(bench, base_plain, kind=Kind.META, number=2)
    pack = PackMaker(bench.keyring, Kind.META)
    ref = pack.add(base_plain + b"more", base=(base, base_plain))
    await pack.store(bench.memory)
    bench.watching.gate = trio.Event()
    async with reading(bench) as reader, trio.open_nursery() as nursery:
        nursery.start_soon(reader.read_node, ref, bytes)
        await trio.testing.wait_all_tasks_blocked()
        assert len(bench.watching.gets()) == 2
        bench.watching.gate.set()


async def test_hinted_nodes_come_along() -> None:
    """The leaves below one inner node cost one GET when they were hinted at."""
    bench = new_bench()
    refs = await stored(bench, *texts(20, 5000), kind=Kind.META)
    async with reading(bench) as reader:
        reader.prefetch_nodes(refs)
        for ref in refs:
            assert await reader.read_node(ref, tell_length) == 5000
    assert len(bench.watching.gets()) == 1


async def test_what_is_no_node_is_damage(caplog: pytest.LogCaptureFixture) -> None:
    """An error of the decoder gets the place of the node, and is not kept."""
    bench = new_bench()
    (ref,) = await stored(bench, b"no node", kind=Kind.META)

    def decode(_: bytes) -> int:
        raise IntegrityError("this is no node")

    async with reading(bench) as reader:
        with pytest.raises(IntegrityError, match=r"^meta/.* at byte 0: this is no node"):
            await reader.read_node(ref, decode)
        assert await reader.read_node(ref, tell_length) == 7
    assert len(caplog.records) == 1


async def test_nodes_are_read_from_the_disk_cache(tmp_path: Path) -> None:
    """Another mount with the same cache directory needs no GET for nodes, and gets no chunks."""
    bench = new_bench()
    refs = await stored(bench, *texts(3, 20_000), kind=Kind.META)
    (chunk,) = await stored(bench, noise(20_000))
    for _ in range(2):
        async with reading(bench, disk=DiskCache(tmp_path / "frames", MIB)) as reader:
            for ref in refs:
                assert await reader.read_node(ref, tell_length) == 20_000
            await reader.read(chunk, 0, 1)
    assert len(bench.watching.gets("meta/")) == 3
    assert len(bench.watching.gets("data/")) == 2


async def test_a_damaged_cache_file_is_fetched_anew(tmp_path: Path) -> None:
    """What the local disk has spoilt is no error, and is right again afterwards."""
    bench = new_bench()
    plain = noise(20_000)
    (ref,) = await stored(bench, plain, kind=Kind.META)
    for step in range(3):
        async with reading(bench, disk=DiskCache(tmp_path / "frames", MIB)) as reader:
            assert await reader.read_node(ref, bytes) == plain
        if step == 0:
            for path in (tmp_path / "frames").rglob("*"):
                if path.is_file():
                    path.write_bytes(bytes(path.stat().st_size))
    assert len(bench.watching.gets()) == 2


@pytest.mark.parametrize("seed", range(8))
async def test_any_mixture_of_readers(seed: int, tmp_path: Path) -> None:
    """Readers, read-ahead, evictions, cancelled waits and failed GETs never give wrong bytes."""
    chance = random.Random(seed)
    bench = new_bench()
    plains = [noise(chance.choice([10, 3000, 40_000]), number) for number in range(40)]
    chunks = [*await stored(bench, *plains[:20]), *await stored(bench, *plains[20:], number=2)]
    nodes = await stored(bench, *plains, kind=Kind.META, number=3)
    disk = DiskCache(tmp_path / "frames", 300_000)
    limits = ReaderLimits(spare_bytes=50_000)

    async def work(reader: Reader, number: int) -> None:
        with trio.CancelScope() as scope, suppress(UnavailableError):
            if chance.random() < 0.2:
                scope.cancel()
            elif chance.random() < 0.2:
                bench.watching.errors.append(UnavailableError("away"))
            if chance.random() < 0.5:
                reader.prefetch(chance.sample(chunks, 10))
                reader.prefetch_nodes(chance.sample(nodes, 10))
            if chance.random() < 0.5:
                assert await reader.read(chunks[number], 1, 9) == plains[number][1:10]
            else:
                assert await reader.read_node(nodes[number], bytes) == plains[number]

    async with reading(bench, memory_bytes=200_000, disk=disk, limits=limits) as reader:
        for _ in range(30):
            async with trio.open_nursery() as nursery:
                for number in chance.sample(range(40), 8):
                    nursery.start_soon(work, reader, number)


async def test_a_cancelled_mount_leaves_the_reader() -> None:
    """Cancellation from outside ends a wait inside the reader, and the reader."""
    bench = new_bench()
    (ref,) = await stored(bench, noise(1000))
    bench.watching.gate = trio.Event()
    with trio.CancelScope() as scope:
        async with reading(bench) as reader, trio.open_nursery() as nursery:
            nursery.start_soon(reader.read, ref, 0, 1)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
