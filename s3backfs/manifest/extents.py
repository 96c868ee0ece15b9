"""Plan what becomes of the extents of a file when it is written, cut, punched and read.

Pure: nothing here reads or stores content. A map takes O(log n + k) for a change that touches k
extents.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from s3backfs.manifest.entry import MAX_FILE_BYTES, Content, Extent

Segment: TypeAlias = Extent
"""A stretch of a read plan; a content of None reads as zeros."""

WINDOW_BYTES = 2**20
WINDOW_MAX_EXTENTS = 64
SMALL_APPEND_BYTES = 2**16
SMALL_APPENDS_MIN = 16


@dataclass(frozen=True, slots=True)
class Window:
    """A range of a file."""

    file_offset: int
    length: int

    @property
    def end(self) -> int:
        return self.file_offset + self.length


class ExtentMap:
    """The extents of one file, sorted, without overlap, neighbours of one content joined.

    With `is_overlay` the map lies over a stored extent tree: what it covers masks the tree, and
    holes are kept as extents without content. Else holes are just not there.
    """

    __slots__ = ("_extents", "_starts", "is_overlay")

    def __init__(self, extents: Iterable[Extent] = (), *, is_overlay: bool = False) -> None:
        self._extents: list[Extent] = list(extents)
        self._starts: list[int] = [extent.file_offset for extent in self._extents]
        self.is_overlay = is_overlay

    def __len__(self) -> int:
        return len(self._extents)

    def __iter__(self) -> Iterator[Extent]:
        return iter(self._extents)

    def extents(self) -> tuple[Extent, ...]:
        """Return the extents as an entry keeps them."""
        return tuple(self._extents)

    def allocated_bytes(self) -> int:
        return sum(extent.length for extent in self._extents if extent.content is not None)

    @property
    def end(self) -> int:
        """The first offset behind all extents."""
        return self._extents[-1].end if self._extents else 0

    def write(self, file_offset: int, length: int, content: Content, content_offset: int) -> None:
        """Let a range lead to `content`, whatever it led to before."""
        if length:
            self._replace(Extent(file_offset, length, content, content_offset))

    def punch(self, file_offset: int, length: int) -> None:
        """Make a hole."""
        if length:
            self._replace(Extent(file_offset, length, None, 0))

    def truncate(self, size: int) -> None:
        """Forget what lies at `size` and behind it; an overlay masks the tree there for good."""
        self.punch(size, MAX_FILE_BYTES - size)

    def overlapping(self, lo: int, hi: int) -> list[Extent]:
        """Return the extents that have a byte in [lo, hi), whole."""
        if lo >= hi:
            return []
        first, last = self._touched(lo, hi)
        return self._extents[first:last]

    def plan_read(
        self, file_offset: int, length: int, size: int, base: Sequence[Extent] = ()
    ) -> list[Segment]:
        """Say where each byte of a range comes from, in order, up to the end of the file.

        `base` are the extents of the tree below an overlay that touch the range (see `gaps`).
        """
        lo, hi = file_offset, min(file_offset + length, size)
        if lo >= hi:
            return []
        return coalesce(_with_holes(overlaid(self, base, lo, hi), lo, hi))

    def gaps(self, lo: int, hi: int) -> list[Window]:
        """Return the parts of [lo, hi) that no extent covers, so that the tree below decides."""
        gaps, position = [], lo
        for extent in self.overlapping(lo, hi):
            if extent.file_offset > position:
                gaps.append(Window(position, extent.file_offset - position))
            position = extent.end
        if position < hi:
            gaps.append(Window(position, hi - position))
        return gaps

    def windows(self) -> list[Window]:
        """Return the ranges that are covered without a gap, as large as possible."""
        windows: list[Window] = []
        for extent in self._extents:
            if windows and windows[-1].end == extent.file_offset:
                first = windows.pop().file_offset
            else:
                first = extent.file_offset
            windows.append(Window(first, extent.end - first))
        return windows

    def _touched(self, lo: int, hi: int) -> tuple[int, int]:
        """Return the slice of the list whose extents have a byte in [lo, hi)."""
        first = bisect_right(self._starts, lo)
        if first and self._extents[first - 1].end > lo:
            first -= 1
        return first, bisect_left(self._starts, hi, first)

    def _replace(self, new: Extent) -> None:
        first, last = self._touched(new.file_offset, new.end)
        kept: list[Extent] = []
        if first < last:
            kept = [self._extents[first], self._extents[last - 1]]
        # Neighbours that only touch come in too: they may continue in the same content.
        if first and self._extents[first - 1].end == new.file_offset:
            first -= 1
            kept.insert(0, self._extents[first])
        if last < len(self._extents) and self._extents[last].file_offset == new.end:
            kept.append(self._extents[last])
            last += 1
        before = [clipped(e, e.file_offset, new.file_offset) for e in kept[:1]]
        after = [clipped(e, new.end, e.end) for e in kept[-1:]]
        middle = [new] if new.content is not None or self.is_overlay else []
        changed = coalesce(e for e in [*before, *middle, *after] if e.length > 0)
        self._extents[first:last] = changed
        self._starts[first:last] = [extent.file_offset for extent in changed]


def clipped(extent: Extent, lo: int, hi: int) -> Extent:
    """Cut an extent down to [lo, hi); the length is 0 or less where they do not meet."""
    if lo <= extent.file_offset and extent.end <= hi:
        return extent
    start = max(extent.file_offset, lo)
    shift = start - extent.file_offset if extent.content is not None else 0
    return Extent(start, min(extent.end, hi) - start, extent.content, extent.content_offset + shift)


def coalesce(extents: Iterable[Extent]) -> list[Extent]:
    """Join neighbours that continue in one content (or one hole)."""
    joined: list[Extent] = []
    for extent in extents:
        if joined and _continues(joined[-1], extent):
            first = joined.pop()
            extent = Extent(
                first.file_offset,
                first.length + extent.length,
                first.content,
                first.content_offset,
            )
        joined.append(extent)
    return joined


def _continues(left: Extent, right: Extent) -> bool:
    if left.end != right.file_offset:
        return False
    if left.content is None or right.content is None:
        return left.content is right.content
    return left.content_offset + left.length == right.content_offset and (
        left.content is right.content or left.content == right.content
    )


def _with_holes(extents: Iterable[Extent], lo: int, hi: int) -> Iterator[Extent]:
    position = lo
    for extent in extents:
        if extent.file_offset > position:
            yield Extent(position, extent.file_offset - position, None, 0)
        yield extent
        position = extent.end
    if position < hi:
        yield Extent(position, hi - position, None, 0)


def overlaid(
    overlay: ExtentMap, base: Iterable[Extent], lo: int = 0, hi: int = MAX_FILE_BYTES
) -> list[Extent]:
    """Lay an overlay over base extents, within [lo, hi).

    What the overlay masks is gone from the base, and its holes are gaps again.
    """
    found = overlay.overlapping(lo, hi)
    parts = [clipped(extent, lo, hi) for extent in found if extent.content is not None]
    for extent in base:
        gaps = overlay.gaps(max(extent.file_offset, lo), min(extent.end, hi))
        parts.extend(clipped(extent, gap.file_offset, gap.end) for gap in gaps)
    return coalesce(sorted(parts, key=_file_offset))


def _file_offset(extent: Extent) -> int:
    return extent.file_offset


def plan_defragment(extents: Sequence[Extent]) -> list[Window]:
    """Choose ranges that are to be read and written again as one chunk each.

    They are aligned windows of 1 MiB that hold more than 64 extents, and a tail of the file that
    grew by many small appends. A tail is taken only as far as what it joins is no larger than what
    came after it, so that a byte is written again a logarithmic number of times at most. Sorted;
    no two ranges overlap.
    """
    windows = _crowded_windows(extents)
    tail = _appended_tail(extents)
    if tail is not None and (not windows or windows[-1].end <= tail.file_offset):
        windows.append(tail)
    return windows


def _crowded_windows(extents: Sequence[Extent]) -> list[Window]:
    counts: dict[int, int] = {}
    for extent in extents:
        if extent.content is not None and extent.length < WINDOW_BYTES:
            window = extent.file_offset // WINDOW_BYTES
            counts[window] = counts.get(window, 0) + 1
    end = extents[-1].end if extents else 0
    crowded = sorted(window for window, count in counts.items() if count > WINDOW_MAX_EXTENTS)
    offsets = [window * WINDOW_BYTES for window in crowded]
    return [Window(offset, min(WINDOW_BYTES, end - offset)) for offset in offsets]


def _appended_tail(extents: Sequence[Extent]) -> Window | None:
    joined_bytes, count = 0, 0
    for extent in reversed(extents):
        is_neighbour = count == 0 or extent.end == extents[-count].file_offset
        is_small = extent.length < SMALL_APPEND_BYTES and extent.content is not None
        is_worth = count < SMALL_APPENDS_MIN // 2 or extent.length <= joined_bytes
        if not (is_neighbour and is_small and is_worth):
            break
        joined_bytes += extent.length
        count += 1
        if joined_bytes >= WINDOW_BYTES:
            break
    if count < SMALL_APPENDS_MIN:
        return None
    return Window(extents[-count].file_offset, joined_bytes)
