"""Which packs a prune copies."""

from __future__ import annotations

from s3backfs.format.refs import Kind
from s3backfs.maintenance.poverty import PackUse, choose_older, choose_poor


def use(number: int, live_bytes: int, *, length_bytes: int = 1000, epoch: int = 0) -> PackUse:
    return PackUse(bytes([number]) * 16, Kind.DATA, length_bytes, live_bytes, epoch)


def numbers(uses: list[PackUse]) -> list[int]:
    return [each.pack_id[0] for each in uses]


def test_the_poorest_first_until_little_is_unused() -> None:
    """The poorest packs are chosen until the rest has no more of no use than allowed."""
    uses = [use(1, 900), use(2, 100), use(3, 600), use(4, 1000)]
    assert numbers(choose_poor(uses, 0.125, None, 4000)) == [2]
    assert numbers(choose_poor(uses, 0.05, None, 4000)) == [2, 3]
    assert numbers(choose_poor(uses, 0.0, None, 4000)) == [2, 3, 1]


def test_older_epochs_first() -> None:
    """All packs under older keys are chosen, those under the oldest first, however full."""
    uses = [use(1, 1000, epoch=1), use(2, 1000), use(3, 1000, epoch=2), use(4, 10)]
    assert numbers(choose_older(uses, 2, None)) == [2, 4, 1]
    assert choose_older(uses, 0, None) == []


def test_a_large_pack_does_not_stand_in_the_way() -> None:
    """What does not fit into the bound is passed over, and the rest is not."""
    uses = [use(1, 900), use(2, 300), use(3, 200), use(4, 10)]
    assert numbers(choose_older(uses, 1, 500)) == [2, 3]
    assert numbers(choose_poor(uses, 0.0, 500, 4000)) == [4, 3]
