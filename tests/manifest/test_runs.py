"""Where levels are cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from s3backfs.manifest.runs import plan_split

items = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 20)), min_size=1, max_size=60)


@given(items, st.integers(20, 200))
def test_parts_are_light(items: list[tuple[int, int]], limit: int) -> None:
    """Parts cover the run, and none of several keys is heavier than the limit."""
    weights, hashes = [w for w, _ in items], [h for _, h in items]
    ends = plan_split(weights, hashes, limit)
    assert ends[-1] == len(items)
    first = 0
    for end in ends:
        assert first < end
        assert end - first == 1 or sum(weights[first:end]) <= limit
        first = end


def test_the_lowest_hash_splits() -> None:
    """A heavy run is cut after its lowest hash, the first of equals, never after its last key."""
    assert plan_split([10, 10, 10, 10], [5, 3, 3, 1], 39) == [2, 4]
    assert plan_split([10, 10, 10, 10], [5, 3, 3, 1], 19) == [1, 2, 3, 4]
    assert plan_split([10, 10], [1, 1], 20) == [2]
    assert plan_split([100], [1], 20) == [1]
