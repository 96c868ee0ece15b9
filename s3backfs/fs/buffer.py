"""Written bytes of one file that are not cut into chunks yet."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

CROWD_BYTES = 64 * 1024
CROWD_FROM = 4
"""So many segments that begin in one window of CROWD_BYTES are a crowd."""


class Segment:
    """A run of written bytes without a gap."""

    __slots__ = ("data", "start")

    def __init__(self, start: int, data: bytearray) -> None:
        self.start = start
        self.data = data

    @property
    def end(self) -> int:
        """The file offset behind the last byte."""
        return self.start + len(self.data)


class WriteBuffer:
    """Sorted segments that neither overlap nor touch; later writes win."""

    __slots__ = ("_segments", "_starts", "size_bytes")

    def __init__(self) -> None:
        self._segments: list[Segment] = []
        self._starts: list[int] = []
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._segments)

    @property
    def segments(self) -> list[Segment]:
        """The segments, by offset; not to be changed."""
        return self._segments

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put `data` at a file offset, over what was written there before."""
        index = bisect_right(self._starts, offset) - 1
        if index >= 0 and (segment := self._segments[index]).end >= offset:
            self.size_bytes -= len(segment.data)
            place = offset - segment.start
            segment.data[place : place + len(data)] = data
        else:
            index += 1
            segment = Segment(offset, bytearray(data))
            self._segments.insert(index, segment)
            self._starts.insert(index, offset)
        self.size_bytes += len(segment.data)
        if index + 1 < len(self._segments):
            self._absorb(index)

    def _absorb(self, index: int) -> None:
        """Join the segments that one has grown into with it."""
        segment = self._segments[index]
        last = index + 1
        while last < len(self._segments) and self._segments[last].start <= segment.end:
            following = self._segments[last]
            self.size_bytes -= len(following.data)
            rest = following.data[segment.end - following.start :]
            if following.end > segment.end:
                segment.data += rest
                self.size_bytes += len(rest)
            last += 1
        del self._segments[index + 1 : last]
        del self._starts[index + 1 : last]

    def truncate(self, size_bytes: int) -> None:
        """Drop what lies at or behind a file size."""
        while self._segments and self._segments[-1].end > size_bytes:
            segment = self._segments[-1]
            kept = max(0, size_bytes - segment.start)
            self.size_bytes -= len(segment.data) - kept
            if kept:
                del segment.data[kept:]
                return
            self._segments.pop()
            self._starts.pop()

    def take(self) -> list[Segment]:
        """Hand all segments over and be empty."""
        segments, self._segments, self._starts, self.size_bytes = self._segments, [], [], 0
        return segments

    def put_under(self, older: Sequence[Segment]) -> None:
        """Put older bytes back below what has been written since."""
        newer = self.take()
        for segment in (*older, *newer):
            self.write(segment.start, segment.data)


def copy_over(segments: Sequence[Segment], offset: int, target: bytearray) -> None:
    """Copy what sorted segments hold of the range that `target` stands for, from `offset` on."""
    end = offset + len(target)
    first = max(0, bisect_right(segments, offset, key=_start) - 1)
    for number in range(first, len(segments)):
        segment = segments[number]
        if segment.start >= end:
            return
        start, stop = max(segment.start, offset), min(segment.end, end)
        if start < stop:
            target[start - offset : stop - offset] = segment.data[
                start - segment.start : stop - segment.start
            ]


def _start(segment: Segment) -> int:
    return segment.start


@dataclass(frozen=True, slots=True)
class Crowd:
    """A range of a file with many small segments; it is written as one content, gaps included."""

    start: int
    end: int


def plan_parts(segments: Sequence[Segment]) -> list[Segment | Crowd]:
    """Find crowds among sorted segments, so that small random writes leave few extents.

    Every segment is in the answer, by itself or inside a crowd.
    """
    parts: list[Segment | Crowd] = []
    for _, group in groupby(segments, key=_window):
        together = list(group)
        if len(together) < CROWD_FROM or len(together[0].data) >= CROWD_BYTES:
            parts.extend(together)
        else:
            parts.append(Crowd(together[0].start, together[-1].end))
    return parts


def _window(segment: Segment) -> int:
    return segment.start // CROWD_BYTES
