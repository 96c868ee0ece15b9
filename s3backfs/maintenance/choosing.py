"""Choosing the packs that a prune copies: poor ones, and those under the keys of older epochs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from s3backfs.maintenance.compaction import uncopied
from s3backfs.maintenance.marks import Marks, live_bytes
from s3backfs.maintenance.poverty import PackUse, choose_older, choose_poor
from s3backfs.maintenance.survey import PackListed
from s3backfs.repository.moved import MovedTables
from s3backfs.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class Limits:
    """What a prune was asked for; `pack_bytes` is the length of a whole pack."""

    max_unused: float
    max_repack_bytes: int | None
    pack_bytes: int
    rewrap: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """The packs that are to be condemned though they are needed."""

    copied: tuple[PackListed, ...]
    """Those that a run which ended early has copied, but not condemned."""
    to_copy: tuple[PackListed, ...]

    @property
    def packs(self) -> tuple[PackListed, ...]:
        return self.copied + self.to_copy


async def measure_live(
    repository: Repository,
    marks: Marks,
    needed: Collection[bytes],
    moved_packs: Collection[bytes],
    present: Collection[bytes],
) -> dict[bytes, int]:
    """How many bytes of packs are needed there; 0 where all that is needed is elsewhere as well.

    `moved_packs` have tables of where their contents went; `present` are there and stay.

    Raises:
        S3backfsError: a table cannot be read.
    """
    tables = MovedTables(repository.store, repository.keyring)
    found = {}
    for pack_id in needed:
        if pack_id in moved_packs:
            found[pack_id] = live_bytes(await uncopied(tables, marks, pack_id, present))
        else:
            found[pack_id] = live_bytes(marks.ranges(pack_id))
    return found


def choose_packs(
    marks: Marks,
    candidates: Mapping[bytes, PackListed],
    live: Mapping[bytes, int],
    epoch: int,
    limits: Limits,
) -> Choice:
    """Choose among packs that are needed; `epoch` is that of the newest key."""
    copied = {each for each in candidates if not live[each]}
    epochs = marks.epochs()
    uses = [
        PackUse(pack_id, pack.kind, pack.length_bytes, live[pack_id], epochs[pack_id])
        for pack_id, pack in candidates.items()
        if pack_id not in copied
    ]
    chosen = _choose(uses, epoch, limits)
    return Choice(
        tuple(candidates[each] for each in sorted(copied)),
        tuple(candidates[use.pack_id] for use in chosen),
    )


def _choose(uses: list[PackUse], epoch: int, limits: Limits) -> list[PackUse]:
    left_bytes = limits.max_repack_bytes
    older = choose_older(uses, epoch, left_bytes) if limits.rewrap else []
    if left_bytes is not None:
        left_bytes -= sum(use.live_bytes for use in older)
    known = {use.pack_id for use in older}
    rest = [use for use in uses if use.pack_id not in known]
    return older + choose_poor(rest, limits.max_unused, left_bytes, limits.pack_bytes)


def older_packs(marks: Marks, epoch: int) -> set[bytes]:
    """The packs met by a look that are under the key of an epoch before this one."""
    return {pack_id for pack_id, found in marks.epochs().items() if found < epoch}
