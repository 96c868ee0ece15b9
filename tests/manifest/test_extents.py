"""Planning of extents, against a bytearray."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from s3backfs.manifest.entry import MAX_FILE_BYTES, Extent
from s3backfs.manifest.extents import (
    WINDOW_BYTES,
    WINDOW_MAX_EXTENTS,
    ExtentMap,
    clipped,
    coalesce,
    overlaid,
    plan_defragment,
)
from s3backfs.repository.piece import Piece
from tests.manifest.trees import chunk

SIZE = 400
TIB = 2**40

offsets = st.integers(0, SIZE)
lengths = st.integers(0, 120)


def filled(seed: int, length: int) -> bytes:
    return bytes((seed * 31 + n * 7) % 255 + 1 for n in range(length))


def rendered(segments: Iterable[Extent], scale: int = 1, shift: int = 0) -> bytes:
    """Return the bytes that a read plan stands for; pieces hold one byte for `scale`."""
    result = bytearray()
    for segment in segments:
        length = segment.length // scale
        if segment.content is None:
            result += bytes(length)
            continue
        assert isinstance(segment.content, Piece)
        assert segment.content.data is not None
        first = segment.content_offset // scale
        result += segment.content.data[first : first + length]
    return bytes(result)


class FileModel(RuleBasedStateMachine):
    """A plain map, and an overlay on what the plain map was once, are both a bytearray.

    Offsets are scaled, so that the same runs happen in small files and in files of 16 TiB.
    """

    @initialize(scale=st.sampled_from([1, 4096, 16 * TIB // SIZE]))
    def begin(self, scale: int) -> None:
        self.scale = scale
        self.data = bytearray()
        self.plain = ExtentMap()
        self.base: list[Extent] = []
        self.overlay: ExtentMap | None = None
        self.count = 0

    def maps(self) -> list[ExtentMap]:
        return [self.plain] if self.overlay is None else [self.plain, self.overlay]

    @rule(offset=offsets, length=lengths, skip=st.integers(0, 20))
    def write(self, offset: int, length: int, skip: int) -> None:
        """Write from the middle of a piece, at any offset."""
        self.count += 1
        data = filled(self.count, skip + length)
        piece = Piece(data)
        for extents in self.maps():
            extents.write(offset * self.scale, length * self.scale, piece, skip * self.scale)
        if length:
            self.data.extend(bytes(max(0, offset + length - len(self.data))))
            self.data[offset : offset + length] = data[skip:]

    @rule(offset=offsets, length=lengths)
    def punch(self, offset: int, length: int) -> None:
        """Make a hole."""
        for extents in self.maps():
            extents.punch(offset * self.scale, length * self.scale)
        length = max(0, min(length, len(self.data) - offset))
        self.data[offset : offset + length] = bytes(length)

    @rule(size=offsets)
    def truncate(self, size: int) -> None:
        """Cut off, or grow by a hole."""
        for extents in self.maps():
            extents.truncate(size * self.scale)
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))

    @rule()
    def checkpoint(self) -> None:
        """Make the present extents the tree below a new, empty overlay."""
        self.base = list(self.plain)
        self.overlay = ExtentMap(is_overlay=True)

    @rule(offset=offsets, length=lengths)
    def read(self, offset: int, length: int) -> None:
        """Any range reads as the bytearray does, through either map."""
        lo, hi, size = (n * self.scale for n in (offset, offset + length, len(self.data)))
        expected = bytes(self.data[offset : offset + length])
        plan = self.plain.plan_read(lo, hi - lo, size)
        assert rendered(plan, self.scale) == expected
        if self.overlay is not None:
            touching = [extent for extent in self.base if extent.end > lo]
            plan = self.overlay.plan_read(lo, hi - lo, size, touching)
            assert rendered(plan, self.scale) == expected
        assert all(one.end == two.file_offset for one, two in itertools.pairwise(plan))

    @invariant()
    def whole(self) -> None:
        """The whole file is right, and merging the overlay gives what the plain map has."""
        size = len(self.data) * self.scale
        assert rendered(self.plain.plan_read(0, size, size), self.scale) == self.data
        if self.overlay is not None:
            merged = ExtentMap(overlaid(self.overlay, self.base))
            assert rendered(merged.plan_read(0, size, size), self.scale) == self.data
            assert merged.end <= size

    @invariant()
    def tidy(self) -> None:
        """Extents are sorted, apart, not empty, and neighbours of one content are joined."""
        for extents in self.maps():
            found = list(extents)
            assert all(e.length > 0 for e in found)
            assert all(a.end <= b.file_offset for a, b in itertools.pairwise(found))
            assert coalesce(found) == found
            assert [e.file_offset for e in found] == extents._starts
        assert all(extent.content is not None for extent in self.plain)


TestFileModel = FileModel.TestCase
TestFileModel.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def test_gaps_are_what_no_extent_covers() -> None:
    """Holes of an overlay are covered; only what it says nothing about is a gap."""
    overlay = ExtentMap(is_overlay=True)
    overlay.write(100, 50, chunk(1), 0)
    overlay.punch(200, 50)
    assert [(gap.file_offset, gap.end) for gap in overlay.gaps(0, 300)] == [
        (0, 100),
        (150, 200),
        (250, 300),
    ]
    assert [(w.file_offset, w.end) for w in overlay.windows()] == [(100, 150), (200, 250)]


def test_truncation_masks_for_good() -> None:
    """What an overlay cut off stays cut off when the file grows again."""
    overlay = ExtentMap(is_overlay=True)
    overlay.truncate(10)
    base = [Extent(0, 100, chunk(1), 0)]
    assert overlay.plan_read(0, 100, 100, base) == [
        Extent(0, 10, chunk(1), 0),
        Extent(10, 90, None, 0),
    ]
    assert overlay.end == MAX_FILE_BYTES


def test_many_small_appends_join_in_one_piece() -> None:
    """Writes that go on in one piece are one extent."""
    extents, piece = ExtentMap(), Piece(bytes(1000))
    for n in range(1000):
        extents.write(n, 1, piece, n)
    assert extents.extents() == (Extent(0, 1000, piece, 0),)


@given(st.lists(st.tuples(st.integers(0, 3 * WINDOW_BYTES), st.integers(1, 9000)), max_size=400))
@settings(max_examples=50, deadline=None)
def test_defragmented_windows_are_apart(writes: list[tuple[int, int]]) -> None:
    """Windows are sorted, do not overlap, lie in the file, and no window stays crowded."""
    extents = ExtentMap()
    for offset, length in writes:
        extents.write(offset, length, Piece(bytes(length)), 0)
    windows = plan_defragment(extents.extents())
    assert all(a.end <= b.file_offset for a, b in itertools.pairwise(windows))
    for window in windows:
        assert 0 < window.length <= WINDOW_BYTES
        assert window.end <= extents.end
        extents.write(window.file_offset, window.length, Piece(bytes(window.length)), 0)
    for first in range(0, 4 * WINDOW_BYTES, WINDOW_BYTES):
        found = extents.overlapping(first, first + WINDOW_BYTES)
        small = [e for e in found if e.file_offset >= first and e.length < WINDOW_BYTES]
        assert len(small) <= WINDOW_MAX_EXTENTS


def test_appends_are_written_again_few_times() -> None:
    """A log of 8,192 appends stays at 64 extents at most; a byte moves 12 times at most."""
    extents, end, moved = ExtentMap(), 0, 0
    for _ in range(8192):
        extents.write(end, 128, Piece(bytes(128)), 0)
        end += 128
        for window in plan_defragment(extents.extents()):
            extents.write(window.file_offset, window.length, Piece(bytes(window.length)), 0)
            moved += window.length
    assert len(extents) <= WINDOW_MAX_EXTENTS
    assert moved <= 12 * end


def test_clipping_moves_into_the_content() -> None:
    """What is cut off in front moves the offset in the content; a hole has none."""
    assert clipped(Extent(10, 10, chunk(1), 3), 14, 100) == Extent(14, 6, chunk(1), 7)
    assert clipped(Extent(10, 10, None, 0), 14, 16) == Extent(14, 2, None, 0)
