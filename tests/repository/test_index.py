"""The deduplication index, its file, and how it follows the store."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3backfs.errors import UnavailableError
from s3backfs.format.keys import Keyring
from s3backfs.format.pack import PackRow, base_row
from s3backfs.format.refs import Kind, Ref
from s3backfs.format.segment import SegmentPack, encode_segment
from s3backfs.repository.index import ChunkIndex, refresh, store_segment
from s3backfs.repository.packing import pack_key
from s3backfs.store.base import Store
from tests.repository.packs import Bench, PackMaker, new_bench

LENGTH = 600_000


def name(number: int) -> bytes:
    return number.to_bytes(16, "big")


def rows(*numbers: int) -> tuple[PackRow, ...]:
    return tuple(PackRow(ix * 10, 10, 20, name(number)) for ix, number in enumerate(numbers))


def add(index: ChunkIndex, pack: int, *numbers: int) -> None:
    index.add_pack(name(pack), 0, Kind.DATA, LENGTH, rows(*numbers))


def found(index: ChunkIndex, *numbers: int) -> dict[int, int]:
    """The numbers of the contents that are found, and of their packs."""
    refs = index.lookup([name(number) for number in numbers])
    return {
        int.from_bytes(content, "big"): int.from_bytes(ref.pack_id, "big")
        for content, ref in refs.items()
    }


@pytest.fixture(params=["file", "memory"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ChunkIndex]:
    made = ChunkIndex(tmp_path / "index.sqlite" if request.param == "file" else None)
    yield made
    made.close()


# -- looking up ------------------------------------------------------------------------------


def test_what_was_added_is_found(index: ChunkIndex, keyring: Keyring) -> None:
    """Chunks and slices come back as the refs their pack's table gives; bundles do not."""
    pack = PackMaker(keyring)
    refs = [pack.add(b"one"), *pack.add_bundle([b"two", b"three"]), pack.add(b"four")]
    index.add_pack(pack.pack_id, 0, Kind.DATA, len(pack.whole()), pack.rows)
    ids = [ref.id for ref in refs]
    assert index.lookup([*ids, bytes(16), keyring.chunk_id(b"twothree")]) == dict(
        zip(ids, refs, strict=True)
    )
    assert index.lookup([]) == {}


def test_many_ids_at_once(index: ChunkIndex) -> None:
    """Batches of any length are answered whole."""
    add(index, 1, *range(1000))
    for count in (1, 2, 3, 255, 256, 257, 999, 1000):
        assert found(index, *range(count)) == dict.fromkeys(range(count), 1)


@given(st.permutations([3, 1, 2]))
def test_the_smallest_pack_id_wins(order: list[int]) -> None:
    """Of several places of a content the same one is taken, whatever came in first."""
    index = ChunkIndex(None)
    for pack in order:
        add(index, pack, 7)
    assert found(index, 7) == {7: 1}
    index.shun([name(1)])
    assert found(index, 7) == {7: 2}
    index.drop_pack(name(2))
    assert found(index, 7) == {7: 3}
    index.close()


def test_a_node_needs_its_base(index: ChunkIndex) -> None:
    """A patch is found with its base, and not at all once the base's pack is condemned."""
    base = Ref(
        pack_id=name(2),
        epoch=0,
        pack_offset=5,
        frame_length=6,
        chunk_length=7,
        slice_offset=0,
        slice_length=7,
        id=name(8),
    )
    row = PackRow(0, 100, 200, name(9), (), base_row(base))
    index.add_pack(name(1), 0, Kind.META, LENGTH, [row])
    assert index.lookup([name(9)]) == {}
    add(index, 2, 8)
    assert index.lookup([name(9)])[name(9)].base == base
    index.shun([name(2)])
    assert index.lookup([name(9)]) == {}


def test_threads_look_up_while_one_adds(index: ChunkIndex) -> None:
    """A lookup sees a pack whole or not at all."""
    partial: list[int] = []

    def look() -> None:
        for _ in range(50):
            count = len(found(index, *range(200)))
            if count % 20:
                partial.append(count)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for pack in range(10):
        add(index, pack, *range(pack * 20, pack * 20 + 20))
    for thread in threads:
        thread.join()
    assert not partial
    assert len(found(index, *range(200))) == 200


# -- following the store ---------------------------------------------------------------------


async def put_pack(store: Store, number: int, length: int = LENGTH) -> None:
    await store.put(pack_key(Kind.DATA, name(number)), bytes(length))


async def share(bench: Bench, *packs: tuple[int, list[int]]) -> None:
    """Write packs and a segment of them, as another machine would."""
    other = ChunkIndex(None)
    for pack, numbers in packs:
        await put_pack(bench.memory, pack)
        add(other, pack, *numbers)
    await store_segment(bench.memory, bench.keyring, other, [name(pack) for pack, _ in packs])
    other.close()


@pytest.mark.anyio
async def test_segments_of_other_machines(index: ChunkIndex, bench: Bench) -> None:
    """What others stored is found after a refresh, and each segment is fetched once."""
    await share(bench, (1, [10, 11]), (2, [20]))
    await share(bench, (3, [30]))
    for _ in range(2):
        await refresh(bench.store, bench.keyring, index)
        assert found(index, 10, 11, 20, 30) == {10: 1, 11: 1, 20: 2, 30: 3}
    assert len(bench.watching.gets("index/")) == 2


@pytest.mark.anyio
async def test_one_s_own_segment_is_not_fetched(index: ChunkIndex, bench: Bench) -> None:
    """What this index wrote into a segment is known, and is written once."""
    await put_pack(bench.memory, 1)
    add(index, 1, 10)
    for _ in range(2):
        await store_segment(bench.store, bench.keyring, index, [name(1)])
    await refresh(bench.store, bench.keyring, index)
    assert found(index, 10) == {10: 1}
    assert not bench.watching.gets()
    assert sum(request.verb == "put" for request in bench.watching.requests) == 1


@pytest.mark.anyio
async def test_packs_that_are_not_listed_are_not_trusted(index: ChunkIndex, bench: Bench) -> None:
    """A pack that is gone or has another length is not deduplicated against, now or ever."""
    await share(bench, (1, [10]), (2, [20]), (3, [30]))
    await bench.memory.delete([pack_key(Kind.DATA, name(2))])
    await put_pack(bench.memory, 3, LENGTH - 1)
    await refresh(bench.store, bench.keyring, index)
    assert found(index, 10, 20, 30) == {10: 1}
    await bench.memory.delete([pack_key(Kind.DATA, name(1))])
    await refresh(bench.store, bench.keyring, index)
    assert found(index, 10) == {}


@pytest.mark.anyio
async def test_a_pack_stored_during_a_listing_stays(index: ChunkIndex, bench: Bench) -> None:
    """A listing that began before a pack was stored does not make it unknown."""
    newest = index.begin_listing()
    index.note_listed([])
    add(index, 1, 10)
    index.end_listing(newest)
    assert found(index, 10) == {10: 1}


@pytest.mark.anyio
async def test_an_old_file_is_trusted_after_a_listing_only(tmp_path: Path, bench: Bench) -> None:
    """What an earlier process knew may be gone: nothing is found before this one has listed."""
    await share(bench, (1, [10]))
    first = ChunkIndex(tmp_path / "index.sqlite")
    await refresh(bench.store, bench.keyring, first)
    first.close()
    second = ChunkIndex(tmp_path / "index.sqlite")
    assert found(second, 10) == {}
    bench.watching.forget()
    await refresh(bench.store, bench.keyring, second)
    assert found(second, 10) == {10: 1}
    assert not bench.watching.gets()
    second.close()


@pytest.mark.anyio
async def test_a_bad_segment_costs_deduplication_only(
    index: ChunkIndex, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Damaged, foreign and nonsense segments are logged and left out; the others count."""
    await share(bench, (1, [10]))
    await share(bench, (2, [20]))
    damaged, _ = sorted(key for key in bench.memory.objects if key.startswith("index/"))
    data = bytearray(bench.memory.objects[damaged])
    data[-1] ^= 1
    bench.memory.damage(damaged, bytes(data))
    foreign = encode_segment(
        new_bench().keyring, "index/f", [SegmentPack(name(3), 0, Kind.DATA, LENGTH, rows(30))]
    )
    await bench.memory.put("index/f", foreign)
    await bench.memory.put("index/nonsense", b"hello")
    await bench.memory.put("data/nonsense", b"hello")
    await refresh(bench.store, bench.keyring, index)
    assert len(found(index, 10, 20)) == 1
    # The damaged one's pack, which has no table here, is the fourth.
    assert len(caplog.records) == 4


@pytest.mark.anyio
async def test_an_unreachable_store_is_one_error(index: ChunkIndex, bench: Bench) -> None:
    """The store's own error leaves, and the next refresh does what is missing."""
    await share(bench, (1, [10]))
    await share(bench, (2, [20]))
    bench.watching.errors = [UnavailableError("away"), UnavailableError("away")]
    with pytest.raises(UnavailableError):
        await refresh(bench.store, bench.keyring, index)
    await refresh(bench.store, bench.keyring, index)
    assert found(index, 10, 20) == {10: 1, 20: 2}


@pytest.mark.anyio
async def test_packs_without_a_segment_are_learned_from_their_tables(bench: Bench) -> None:
    """What a writer stored before it died is found on any machine, and comes into a segment."""
    index = ChunkIndex(None)
    pack = PackMaker(bench.keyring, Kind.DATA, 7)
    refs = [pack.add(bytes([number]) * 5000) for number in range(3)]
    await pack.store(bench.memory)
    for _ in range(2):
        await refresh(bench.store, bench.keyring, index)
        assert index.lookup([ref.id for ref in refs]) == {ref.id: ref for ref in refs}
    assert len(bench.watching.gets("data/")) == 1
    assert index.waiting_packs() == [pack.pack_id]
    await store_segment(bench.memory, bench.keyring, index, index.waiting_packs())
    assert index.waiting_packs() == []


@pytest.mark.anyio
async def test_large_segments_are_split(bench: Bench) -> None:
    """No segment is so large that taking it in needs much memory."""
    index, other = ChunkIndex(None), ChunkIndex(None)
    for pack in range(6):
        await put_pack(bench.memory, pack)
        add(other, pack, *range(pack * 50_000, (pack + 1) * 50_000))
    await store_segment(bench.memory, bench.keyring, other, [name(pack) for pack in range(6)])
    segments = [key for key in bench.memory.objects if key.startswith("index/")]
    assert 1 < len(segments) < 6
    await refresh(bench.store, bench.keyring, index)
    assert len(found(index, *range(0, 300_000, 1000))) == 300
    index.close()
    other.close()


# -- the file --------------------------------------------------------------------------------


def test_a_file_that_is_no_database_is_replaced(tmp_path: Path) -> None:
    """Garbage, an empty file, a database of something else: the index begins anew."""
    path = tmp_path / "index.sqlite"
    for garbage in (b"garbage" * 1000, b""):
        path.write_bytes(garbage)
        index = ChunkIndex(path)
        add(index, 1, 10)
        assert found(index, 10) == {10: 1}
        index.close()
        path.unlink()
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 99")
    other.close()
    index = ChunkIndex(path)
    add(index, 1, 10)
    assert found(index, 10) == {10: 1}
    index.close()
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT count(*) FROM packs").fetchone() == (1,)


@pytest.mark.anyio
@pytest.mark.parametrize("step", range(1, 40, 3))
async def test_a_damaged_file_never_gives_a_wrong_place(
    tmp_path: Path, bench: Bench, step: int
) -> None:
    """Whatever bits are flipped: a place is right or is not found, and no error leaves."""
    path = tmp_path / "index.sqlite"
    numbers = list(range(300))
    await share(bench, (1, numbers))
    index = ChunkIndex(path)
    await refresh(bench.store, bench.keyring, index)
    right = index.lookup([name(number) for number in numbers])
    assert len(right) == 300
    index.close()
    data = bytearray(path.read_bytes())
    for at in range(step * 17, len(data), 41 * step):
        data[at] ^= 1 << (at % 8)
    path.write_bytes(bytes(data))
    damaged = ChunkIndex(path)
    await refresh(bench.store, bench.keyring, damaged)
    for _ in range(2):
        answers = damaged.lookup([name(number) for number in numbers])
        assert all(right[key] == ref for key, ref in answers.items())
    await refresh(bench.store, bench.keyring, damaged)
    damaged.close()


def test_a_changed_row_is_not_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A row that SQLite cannot know to be wrong is found out by its checksum."""
    path = tmp_path / "index.sqlite"
    index = ChunkIndex(path)
    add(index, 1, 10)
    with closing(sqlite3.connect(path)) as other, other:
        (place,) = other.execute("SELECT place FROM contents").fetchone()
        other.execute("UPDATE contents SET place = ?", (b"\x01" + place[1:],))
    assert found(index, 10) == {}
    assert "checksum" in caplog.text
    add(index, 2, 10)
    assert found(index, 10) == {10: 2}
    index.close()


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    """Without a place for the file the index works in memory."""
    index = ChunkIndex(tmp_path / "missing" / "index.sqlite")
    add(index, 1, 10)
    assert found(index, 10) == {10: 1}
    index.close()


OTHER_PROCESS = """
import sys
from pathlib import Path
from s3backfs.format.pack import PackRow
from s3backfs.format.refs import Kind
from s3backfs.repository.index import ChunkIndex
index = ChunkIndex(Path(sys.argv[1]))
for pack in range(100, 150):
    ids = [n.to_bytes(16, "big") for n in range(pack * 10, pack * 10 + 10)]
    rows = [PackRow(ix * 10, 10, 20, each) for ix, each in enumerate(ids)]
    index.add_pack(pack.to_bytes(16, "big"), 0, Kind.DATA, 600_000, rows)
    assert len(index.lookup(ids)) == 10
index.close()
"""


def test_two_processes_share_a_file(tmp_path: Path) -> None:
    """Both write and read at the same time, and both see what the listing confirms."""
    path = tmp_path / "index.sqlite"
    index = ChunkIndex(path)
    other = subprocess.Popen([sys.executable, "-c", OTHER_PROCESS, str(path)])
    for pack in range(50):
        add(index, pack, *range(pack * 10, pack * 10 + 10))
        assert len(found(index, *range(pack * 10 + 10))) == pack * 10 + 10
    assert other.wait(timeout=60) == 0
    newest = index.begin_listing()
    packs = [*range(50), *range(100, 150)]
    index.note_listed([(name(pack), Kind.DATA, LENGTH) for pack in packs])
    index.end_listing(newest)
    assert len(found(index, *range(1500))) == 1000
    index.close()


def test_a_damaged_file_that_another_mount_uses_is_left_alone(tmp_path: Path) -> None:
    """The second mount goes on in memory instead of pulling the file away."""
    path = tmp_path / "index.sqlite"
    first = ChunkIndex(path)
    add(first, 1, 10)
    second = ChunkIndex(path)
    with open(path, "r+b") as file:
        file.write(b"garbage" * 10)
    third = ChunkIndex(path)
    add(third, 2, 20)
    assert found(third, 20) == {20: 2}
    assert path.read_bytes().startswith(b"garbage")
    for index in (first, second, third):
        index.close()


@pytest.fixture
def keyring(bench: Bench) -> Keyring:
    return bench.keyring


@pytest.fixture
def bench() -> Bench:
    return new_bench()
