"""Where a level of a tree is cut into nodes; it depends on the keys and values alone.

A run ends after a key whose keyed hash is below a threshold, about every 500 keys. A run that
weighs too much is split after its lowest-hash key, again and again.
Source: docs/format.md, "Cuts".
"""

from __future__ import annotations

from collections.abc import Sequence

MEAN_RUN_COUNT = 500
CUT_THRESHOLD = 2**32 // MEAN_RUN_COUNT
MAX_RUN_WEIGHT = 256 * 1024


def is_cut(key_hash: int) -> bool:
    """Tell whether a run ends after the key with this hash."""
    return key_hash < CUT_THRESHOLD


def plan_split(
    weights: Sequence[int], hashes: Sequence[int], max_weight: int = MAX_RUN_WEIGHT
) -> list[int]:
    """Return where the nodes of a run end, as indices behind their last keys, ascending.

    A part heavier than `max_weight` is split after the key with the lowest hash (the first of
    equals), never after its last key. A single key is never split.
    """
    ends: list[int] = []
    waiting = [(0, len(weights))]
    while waiting:
        first, last = waiting.pop()
        if last - first < 2 or sum(weights[first:last]) <= max_weight:
            ends.append(last)
            continue
        middle = min(range(first, last - 1), key=hashes.__getitem__) + 1
        waiting += [(middle, last), (first, middle)]
    return ends
