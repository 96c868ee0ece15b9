"""Reading from packs that were compacted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3backfs.errors import IntegrityError
from s3backfs.format.lease import Moved, MovedRange, encode_moved
from s3backfs.format.refs import Kind, Ref
from s3backfs.repository.moved import plan_moved
from s3backfs.repository.reader import PackGoneError
from tests.repository.packs import Bench, PackMaker, new_bench, noise
from tests.repository.test_reader import reading

pytestmark = pytest.mark.anyio


async def move(bench: Bench, source: PackMaker, ranges: list[MovedRange]) -> None:
    """Store a moved table, and remove the pack."""
    key = f"moved/{source.pack_id.hex()}"
    moved = Moved(
        repository_id=bench.keyring.repository_id, pack_id=source.pack_id, ranges=tuple(ranges)
    )
    await bench.memory.put(key, encode_moved(bench.keyring, key, moved))
    await bench.memory.delete([source.key])


async def target_in(bench: Bench, number: int, plain: bytes, kind: Kind = Kind.DATA) -> Ref:
    pack = PackMaker(bench.keyring, kind, number)
    pack.add(noise(100, number))
    ref = pack.add(plain)
    await pack.store(bench.memory)
    return ref


async def test_live_slices_are_found_where_they_went() -> None:
    """A range that spans two moved slices is put together; dead ones are gone."""
    bench = new_bench()
    source = PackMaker(bench.keyring, number=9)
    plains = [noise(1000, seed) for seed in range(3)]
    refs = source.add_bundle(plains)
    first = await target_in(bench, 1, plains[0])
    second = await target_in(bench, 2, plains[1])
    await move(bench, source, [MovedRange(0, 0, 1000, first), MovedRange(0, 1000, 1000, second)])
    async with reading(bench) as reader:
        assert await reader.read(refs[0], 10, 20) == plains[0][10:30]
        assert await reader.read(refs[1], 0, 1000) == plains[1]
        with pytest.raises(PackGoneError):
            await reader.read(refs[2], 0, 1)
        bench.watching.forget()
        await reader.read(refs[1], 5, 5)
    assert not bench.watching.gets("moved/")


async def test_a_moved_node() -> None:
    """Nodes move as chunks do, bases of patches among them."""
    bench = new_bench()
    base_plain = noise(20_000)
    source = PackMaker(bench.keyring, Kind.META, 9)
    base = source.add(base_plain)
    patch = PackMaker(bench.keyring, Kind.META, 8)
    ref = patch.add(base_plain + b"more", base=(base, base_plain))
    await patch.store(bench.memory)
    target = await target_in(bench, 1, base_plain, Kind.META)
    await move(bench, source, [MovedRange(0, 0, 20_000, target)])
    async with reading(bench) as reader:
        assert await reader.read_node(ref, bytes) == base_plain + b"more"
        assert await reader.read_node(base, bytes) == base_plain


async def test_a_pack_that_is_gone_without_a_trace(caplog: pytest.LogCaptureFixture) -> None:
    """It is damage that names the pack, logged once."""
    bench = new_bench()
    source = PackMaker(bench.keyring, number=9)
    ref = source.add(noise(1000))
    async with reading(bench) as reader:
        for _ in range(2):
            with pytest.raises(IntegrityError, match=r"data/0909.*the pack is gone"):
                await reader.read(ref, 0, 1)
    assert len(caplog.records) == 1


async def test_chains_are_followed_and_read_anew_when_they_were_collapsed() -> None:
    """A known table whose target is gone is read again: a later compaction has rewritten it."""
    bench = new_bench()
    plain = noise(1000)
    packs = [PackMaker(bench.keyring, number=number) for number in (5, 6, 7)]
    refs = [pack.add(plain) for pack in packs]
    await packs[2].store(bench.memory)
    await move(bench, packs[0], [MovedRange(0, 0, 1000, refs[1])])
    await move(bench, packs[1], [MovedRange(0, 0, 1000, refs[2])])
    async with reading(bench, memory_bytes=100) as reader:
        assert await reader.read(refs[0], 0, 1000) == plain
        last = await target_in(bench, 8, plain)
        await bench.memory.delete([packs[2].key, f"moved/{packs[1].pack_id.hex()}"])
        await move(bench, packs[0], [MovedRange(0, 0, 1000, last)])
        assert await reader.read(refs[0], 0, 1000) == plain


async def test_a_circle_of_tables_ends() -> None:
    """Tables that point at each other are damage after 8 hops, not an endless walk."""
    bench = new_bench()
    packs = [PackMaker(bench.keyring, number=number) for number in (5, 6)]
    refs = [pack.add(noise(1000)) for pack in packs]
    await move(bench, packs[0], [MovedRange(0, 0, 1000, refs[1])])
    await move(bench, packs[1], [MovedRange(0, 0, 1000, refs[0])])
    async with reading(bench) as reader:
        with pytest.raises(IntegrityError):
            await reader.read(refs[0], 0, 1)
    assert len(bench.watching.requests) < 50


async def test_a_table_of_another_pack_is_not_believed() -> None:
    """A table that stands under another pack's key does not open."""
    bench = new_bench()
    source = PackMaker(bench.keyring, number=9)
    ref = source.add(noise(1000))
    other = PackMaker(bench.keyring, number=8)
    target = await target_in(bench, 1, noise(1000))
    await move(bench, other, [MovedRange(0, 0, 1000, target)])
    await bench.memory.copy(f"moved/{other.pack_id.hex()}", f"moved/{source.pack_id.hex()}")
    async with reading(bench) as reader:
        with pytest.raises(IntegrityError, match="moved/0909"):
            await reader.read(ref, 0, 1)


ranges_of_two_chunks = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 20), st.integers(1, 30)), max_size=8
)


@given(ranges_of_two_chunks, st.integers(0, 1), st.integers(0, 120), st.integers(0, 60))
def test_a_plan_covers_just_the_range_or_there_is_none(
    drawn: list[tuple[int, int, int]], chunk: int, offset: int, length: int
) -> None:
    """Parts follow each other in the old chunk without gap or overlap, as in a map of its bytes."""
    target = Ref(
        pack_id=bytes(16),
        epoch=0,
        pack_offset=0,
        frame_length=1,
        chunk_length=2**31,
        slice_offset=0,
        slice_length=2**31,
        id=bytes(16),
    )
    ranges, places = [], {}
    position = {0: 0, 1: 0}
    for number, gap, span in sorted(drawn, key=lambda row: row[0]):
        start = position[number] + gap
        ranges.append(MovedRange(number, start, span, target))
        places.update({(number, start + step): step for step in range(span)})
        position[number] = start + span
    parts = plan_moved(ranges, chunk, offset, length)
    wanted = [places.get((chunk, byte)) for byte in range(offset, offset + length)]
    if None in wanted:
        assert parts is None
    else:
        assert parts is not None
        assert [p.offset + step for p in parts for step in range(p.length)] == wanted
