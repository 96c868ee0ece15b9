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
    taken = {wanted}
    first, end = wanted.offset, wanted.end
    near = [hint for hint in hints if hint.pack_id == wanted.pack_id and hint.kind == wanted.kind]
    for hint in sorted(near, key=lambda frame: frame.offset):
        if hint.offset < first:
            continue
        if not _fits(hint.offset - end, max(end, hint.end) - first, limits):
            break
        taken.add(hint)
        end = max(end, hint.end)
    for hint in sorted(near, key=lambda frame: frame.end, reverse=True):
        if hint.offset >= first:
            continue
        if not _fits(first - hint.end, max(end, hint.end) - hint.offset, limits):
            break
        taken.add(hint)
        first, end = hint.offset, max(end, hint.end)
    frames = tuple(sorted(taken, key=lambda frame: (frame.offset, frame.end)))
    return Fetch(first, end - first, frames)


def _fits(gap_bytes: int, total_bytes: int, limits: FetchLimits) -> bool:
    return gap_bytes <= limits.gap_bytes and total_bytes <= limits.total_bytes
