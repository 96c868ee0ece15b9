"""How far ahead of a reader is fetched and opened."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from s3backfs.fs.read_order import FETCHED_BYTES, OPENED_BYTES, ReadOrder

MIB = 1 << 20


@given(
    size_mib=st.integers(2, 400),
    step_kib=st.sampled_from([4, 128, 256, 1024]),
    stop=st.floats(0.0, 1.0),
)
def test_a_reader_in_order(size_mib: int, step_kib: int, stop: float) -> None:
    """All in front of it is asked for once, in order, never further than the windows reach."""
    order, size = ReadOrder(), size_mib * MIB
    fetched_to = opened_to = 0
    for reads, offset in enumerate(range(0, int(size * stop), step_kib * 1024)):
        ahead = order.plan_ahead(offset, step_kib * 1024, size)
        if ahead is not None:
            if ahead.fetched:
                assert ahead.fetched.start == max(fetched_to, offset)
                fetched_to = ahead.fetched.stop
            if ahead.opened:
                assert ahead.opened.start == max(opened_to, offset)
                opened_to = ahead.opened.stop
        assert fetched_to <= min(size, offset + FETCHED_BYTES)
        assert opened_to <= min(size, offset + OPENED_BYTES)
        if reads >= 3:
            assert fetched_to >= min(size, offset + FETCHED_BYTES // 2)
            assert opened_to >= min(size, offset + OPENED_BYTES // 2)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=50, unique=True))
def test_reads_here_and_there(places: list[int]) -> None:
    """Nothing is read ahead of reads that are far from each other."""
    order = ReadOrder()
    for place in places:
        # Multiples of 3 MiB: none is near to the one before.
        assert order.plan_ahead((place + 1) * 3 * MIB, 4096, 2000 * MIB) is None


def test_small_files_are_not_its_business() -> None:
    """Who reads small files is read ahead of by directory."""
    order = ReadOrder()
    assert all(order.plan_ahead(offset, 4096, MIB) is None for offset in range(0, MIB, 4096))
