"""Which packs are worth copying: pure planning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from s3backfs.format.refs import Kind

LEAST_UNUSED = 0.02
"""A pack's own table is not worth copying it."""

SMALL_SHARE = 8
"""A pack below this part of a whole one is small."""

MANY_SMALL = 16
"""So many small packs are worth joining."""


@dataclass(frozen=True, slots=True)
class PackUse:
    """How much of a pack is needed."""

    pack_id: bytes
    kind: Kind
    length_bytes: int
    live_bytes: int
    epoch: int = 0

    @property
    def unused_bytes(self) -> int:
        """What copying it would free."""
        return max(0, self.length_bytes - self.live_bytes)

    @property
    def unused(self) -> float:
        """The part of it that nothing needs."""
        return self.unused_bytes / max(1, self.length_bytes)


def choose_older(
    uses: Iterable[PackUse], epoch: int, max_repack_bytes: int | None
) -> list[PackUse]:
    """Choose packs under the keys of epochs before `epoch`, those under the oldest first."""
    older = [use for use in uses if use.epoch < epoch]
    return _within(sorted(older, key=lambda use: (use.epoch, use.pack_id)), max_repack_bytes)


def choose_poor(
    uses: Sequence[PackUse],
    max_unused: float,
    max_repack_bytes: int | None,
    pack_bytes: int,
) -> list[PackUse]:
    """Choose packs to copy, the poorest first.

    What is left has at most the share `max_unused` of unused bytes, unless the bytes to be copied
    would be more than `max_repack_bytes`. Many small packs are chosen as well.
    """
    allowed_bytes = int(max_unused * sum(use.length_bytes for use in uses))
    unused_bytes = sum(use.unused_bytes for use in uses)
    chosen: list[PackUse] = []
    poor = [use for use in uses if use.unused >= LEAST_UNUSED]
    for use in sorted(poor, key=lambda use: (-use.unused, use.pack_id)):
        if unused_bytes <= allowed_bytes:
            break
        chosen.append(use)
        unused_bytes -= use.unused_bytes
    known = {use.pack_id for use in chosen}
    chosen += [use for use in _many_small(uses, pack_bytes) if use.pack_id not in known]
    return _within(chosen, max_repack_bytes)


def _many_small(uses: Iterable[PackUse], pack_bytes: int) -> list[PackUse]:
    small: dict[Kind, list[PackUse]] = {}
    for use in uses:
        if use.length_bytes * SMALL_SHARE < pack_bytes:
            small.setdefault(use.kind, []).append(use)
    return [use for same in small.values() if len(same) >= MANY_SMALL for use in same]


def _within(chosen: Iterable[PackUse], max_repack_bytes: int | None) -> list[PackUse]:
    """Take what fits; a pack that is too large must not stand in the way of others."""
    within, copied_bytes = [], 0
    for use in chosen:
        if max_repack_bytes is None or copied_bytes + use.live_bytes <= max_repack_bytes:
            copied_bytes += use.live_bytes
            within.append(use)
    return within
