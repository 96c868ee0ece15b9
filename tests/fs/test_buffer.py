"""The write buffer, against a bytearray."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from s3backfs.fs.buffer import CROWD_BYTES, Crowd, Segment, WriteBuffer, copy_over, plan_parts
from tests.fs.strategies import examples

SIZE = 120

offsets = st.integers(0, SIZE)
pieces = st.binary(min_size=1, max_size=30)
changes = st.lists(
    st.one_of(
        st.tuples(st.just("write"), offsets, pieces),
        st.tuples(st.just("under"), offsets, pieces),
        st.tuples(st.just("cut"), offsets, st.just(b"")),
        st.tuples(st.just("take"), st.just(0), st.just(b"")),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=examples(200, 20_000))
@given(changes=changes)
def test_buffer_is_a_sparse_bytearray(changes: list[tuple[str, int, bytes]]) -> None:
    """Later writes win, what is put under loses, and segments neither overlap nor touch."""
    buffer, expected = WriteBuffer(), [None] * (SIZE + 40)
    for kind, offset, data in changes:
        _apply(buffer, expected, kind, offset, data)
        ends = [segment.end for segment in buffer.segments]
        starts = [segment.start for segment in buffer.segments]
        assert all(start > end for start, end in zip(starts[1:], ends, strict=False))
        assert _bytes(buffer) == expected
        assert buffer.size_bytes == sum(value is not None for value in expected)
        assert len(buffer) == len(buffer.segments)


def _apply(
    buffer: WriteBuffer, expected: list[int | None], kind: str, offset: int, data: bytes
) -> None:
    if kind == "write":
        buffer.write(offset, data)
        expected[offset : offset + len(data)] = data
    elif kind == "under":
        buffer.put_under([Segment(offset, bytearray(data))])
        for place, value in enumerate(data, offset):
            expected[place] = value if expected[place] is None else expected[place]
    elif kind == "cut":
        buffer.truncate(offset)
        expected[offset:] = [None] * (len(expected) - offset)
    else:
        buffer.take()
        expected[:] = [None] * len(expected)


def _bytes(buffer: WriteBuffer) -> list[int | None]:
    found: list[int | None] = [None] * (SIZE + 40)
    for segment in buffer.segments:
        found[segment.start : segment.end] = segment.data
    return found


@settings(deadline=None, max_examples=examples(200, 20_000))
@given(
    writes=st.lists(st.tuples(offsets, pieces), max_size=10),
    offset=offsets,
    length=st.integers(1, 60),
)
def test_copying_takes_what_lies_in_the_range(
    writes: list[tuple[int, bytes]], offset: int, length: int
) -> None:
    """Segments cover their part of a target and leave the rest of it alone."""
    buffer, expected = WriteBuffer(), bytearray(b"\xee" * (SIZE + 100))
    for start, data in writes:
        buffer.write(start, data)
        expected[start : start + len(data)] = data
    target = bytearray(b"\xee" * length)
    copy_over(buffer.segments, offset, target)
    assert target == expected[offset : offset + length]


def test_crowds_cover_their_segments() -> None:
    """Four small segments in one window are one part; what stands alone stays by itself."""
    buffer = WriteBuffer()
    for offset in (0, 100, 200, 300, CROWD_BYTES, CROWD_BYTES * 3):
        buffer.write(offset, b"x" * 10)
    segments = buffer.segments
    assert plan_parts(segments) == [Crowd(0, 310), *segments[4:]]
