"""Planning of GETs."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from s3backfs.format.refs import Kind
from s3backfs.repository.fetching import FetchLimits, Frame, plan_fetch

LIMITS = FetchLimits(gap_bytes=50, total_bytes=1000)


def frame(offset: int, length: int, pack: int = 1, kind: Kind = Kind.DATA) -> Frame:
    return Frame(kind, bytes([pack]) * 16, 0, offset, length, length)


@st.composite
def packs_of_frames(draw: st.DrawFn) -> list[Frame]:
    """Frames of two packs, without overlap, in any order."""
    frames = []
    for pack in (1, 2):
        offset = 0
        for gap, length in draw(st.lists(st.tuples(st.integers(0, 120), st.integers(1, 400)))):
            frames.append(frame(offset + gap, length, pack))
            offset += gap + length
    return draw(st.permutations(frames))


anywhere = st.builds(frame, st.integers(0, 3000), st.integers(1, 1500), st.integers(1, 2))


@given(anywhere)
def test_a_frame_without_hints_is_fetched_alone(wanted: Frame) -> None:
    """A random single read fetches its frame and nothing else, however long it is."""
    fetch = plan_fetch(wanted, (), LIMITS)
    assert (fetch.offset, fetch.length, fetch.frames) == (wanted.offset, wanted.length, (wanted,))


@given(anywhere, st.lists(anywhere))
def test_a_plan_brings_what_is_wanted_and_keeps_to_the_limits(
    wanted: Frame, hints: list[Frame]
) -> None:
    """Whatever is hinted, even overlapping nonsense: all frames lie in the range, none is twice."""
    fetch = plan_fetch(wanted, hints, LIMITS)
    assert wanted in fetch.frames
    assert len(set(fetch.frames)) == len(fetch.frames)
    assert set(fetch.frames) <= {wanted, *hints}
    end = fetch.offset + fetch.length
    assert all(fetch.offset <= f.offset and f.end <= end for f in fetch.frames)
    assert all(f.pack_id == wanted.pack_id for f in fetch.frames)
    assert fetch.length <= max(LIMITS.total_bytes, wanted.length)
    assert min(f.offset for f in fetch.frames) == fetch.offset
    assert max(f.end for f in fetch.frames) == end


@given(packs_of_frames())
def test_gaps_are_small(frames: list[Frame]) -> None:
    """Unless enough of the whole is wanted no GET reads over more than the gap limit."""
    if not frames:
        return
    strict = replace(LIMITS, wanted_share=2.0)
    fetched = plan_fetch(frames[0], frames, strict).frames
    for left, right in pairwise(fetched):
        assert right.offset - left.end <= strict.gap_bytes


@given(packs_of_frames())
def test_a_near_neighbour_is_left_out_only_for_the_total(frames: list[Frame]) -> None:
    """A plan cannot grow by its next frame on either side without breaking a limit."""
    if not frames:
        return
    wanted = frames[0]
    fetch = plan_fetch(wanted, frames, LIMITS)
    end = fetch.offset + fetch.length
    others = [f for f in frames if f.pack_id == wanted.pack_id and f not in fetch.frames]
    behind = min((f for f in others if f.offset >= end), key=lambda f: f.offset, default=None)
    before = max((f for f in others if f.end <= fetch.offset), key=lambda f: f.end, default=None)
    if behind is not None and behind.offset - end <= LIMITS.gap_bytes:
        assert behind.end - wanted.offset > LIMITS.total_bytes
    if before is not None and fetch.offset - before.end <= LIMITS.gap_bytes:
        assert end - before.offset > LIMITS.total_bytes


@given(packs_of_frames())
def test_every_frame_is_fetched_once(frames: list[Frame]) -> None:
    """Planning until nothing is left fetches each frame exactly once."""
    left, seen = list(frames), list[Frame]()
    while left:
        fetch = plan_fetch(left[0], left, LIMITS)
        seen.extend(fetch.frames)
        left = [f for f in left if f not in fetch.frames]
    assert sorted(seen, key=repr) == sorted(frames, key=repr)


def test_the_kind_of_pack_counts() -> None:
    """Equal pack ids of two kinds are two objects."""
    wanted, other = frame(0, 10), frame(10, 10, kind=Kind.META)
    assert plan_fetch(wanted, [other], LIMITS).frames == (wanted,)
