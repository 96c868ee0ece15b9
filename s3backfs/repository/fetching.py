"""Which bytes one GET brings: a frame that is wanted now, and neighbours that are wanted next.

Pure: what is decided here is carried out in `frames`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from s3backfs.format.refs import Kind, Ref


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A frame as its references name it: where it lies, and how long it is when opened."""

    kind: Kind
    pack_id: bytes
    epoch: int
    offset: int
    length: int
    plain_length: int

    @property
    def end(self) -> int:
        """The offset behind its last byte."""
        return self.offset + self.length


def frame_of(kind: Kind, ref: Ref) -> Frame:
    """The frame that a reference into a pack of this kind leads to."""
    return Frame(kind, ref.pack_id, ref.epoch, ref.pack_offset, ref.frame_length, ref.chunk_length)


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """How far one GET may reach for what is not wanted yet."""

    gap_bytes: int = 256 * 1024
    """Reading over this much that nobody wants is cheaper than another request."""
    total_bytes: int = 8 * 1024 * 1024
    wanted_share: float = 0.5
    """A longer gap is read over too, while so much of the whole is wanted."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """One ranged GET, and the frames that are cut out of its answer, sorted by offset."""

    offset: int
    length: int
    frames: tuple[Frame, ...]


def plan_fetch(wanted: Frame, hints: Iterable[Frame], limits: FetchLimits) -> Fetch:
    """Plan the GET of `wanted` together with what lies near it of `hints`.

    It grows to the end of the pack first, then to the beginning. A wanted frame above the limits
    comes alone; without hints it always does.
    """
    near = {hint for hint in hints if hint.pack_id == wanted.pack_id and hint.kind == wanted.kind}
    near.discard(wanted)
    span = _Span(limits, wanted.offset, wanted.end, wanted.length, [wanted])
    span.grow(sorted((hint for hint in near if hint.offset >= wanted.offset), key=_offset))
    before = (hint for hint in near if hint.offset < wanted.offset)
    span.grow(sorted(before, key=_end, reverse=True))
    return Fetch(span.first, span.end - span.first, tuple(sorted(span.frames, key=_both)))


@dataclass(slots=True)
class _Span:
    """A range of a pack that grows frame by frame."""

    limits: FetchLimits
    first: int
    end: int
    wanted_bytes: int
    frames: list[Frame]

    def grow(self, candidates: Iterable[Frame]) -> None:
        """Take frames, nearest first, up to the first that does not fit.

        Beyond a long gap that one frame does not pay for, several together may.
        """
        waiting: list[Frame] = []
        first, end, wanted_bytes = self.first, self.end, self.wanted_bytes
        for frame in candidates:
            gap_bytes = max(frame.offset - end, first - frame.end)
            first, end = min(first, frame.offset), max(end, frame.end)
            if end - first > self.limits.total_bytes:
                return
            wanted_bytes += frame.length
            waiting.append(frame)
            is_dense = wanted_bytes >= (end - first) * self.limits.wanted_share
            if is_dense or (gap_bytes <= self.limits.gap_bytes and len(waiting) == 1):
                self.first, self.end, self.wanted_bytes = first, end, wanted_bytes
                self.frames.extend(waiting)
                waiting = []


def _offset(frame: Frame) -> int:
    return frame.offset


def _end(frame: Frame) -> int:
    return frame.end


def _both(frame: Frame) -> tuple[int, int]:
    return frame.offset, frame.end
