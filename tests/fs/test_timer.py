"""When checkpoints run by themselves."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from s3backfs.fs.timer import RETRY_LONGEST_S, TICK_S, Pace, Signs

IDLE_S, LONGEST_S = 5.0, 300.0
CHANGED = Signs(has_changes=True, change_count=1, last_checkpoint_s=0.0, changed_names_count=1)


def attempts(pace: Pace, signs: Signs, *, end_s: float) -> list[float]:
    """The times of the checkpoints up to then, each of which fails."""
    found = []
    now_s = 0.0
    while now_s < end_s:
        now_s += TICK_S
        if pace.is_due(signs, now_s):
            found.append(now_s)
            pace.note_failed(now_s)
    return found


def test_refusals_are_tried_again_within_a_minute() -> None:
    """However long S3 refuses, no two attempts are 60 s apart, and few are made."""
    times = attempts(Pace(IDLE_S, LONGEST_S), CHANGED, end_s=3600.0)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert max(gaps) <= 2 * RETRY_LONGEST_S <= 60.0
    assert len(times) <= 3600 / RETRY_LONGEST_S + 5


def test_a_changing_file_does_not_put_attempts_off() -> None:
    """Writes that go on while attempts fail neither delay nor hasten the next one."""
    pace = Pace(IDLE_S, LONGEST_S)
    assert not pace.is_due(CHANGED, 0.0)
    assert pace.is_due(CHANGED, IDLE_S)
    pace.note_failed(IDLE_S)
    busy = replace(CHANGED, change_count=2, changed_names_count=10**6)
    assert not pace.is_due(busy, 2 * IDLE_S - 1.0)
    assert pace.is_due(busy, 2 * IDLE_S)


def test_the_pace_is_the_old_one_after_a_success() -> None:
    """A trickle doubles the rest, and rest brings it back, also where attempts failed before."""
    pace = Pace(IDLE_S, LONGEST_S)
    pace.note_failed(0.0)
    pace.note_stored()
    later = replace(CHANGED, change_count=2, last_checkpoint_s=100.0)
    assert not pace.is_due(later, 100.0)
    assert not pace.is_due(later, 100.0 + 2 * IDLE_S - 1.0)
    assert pace.is_due(later, 100.0 + 2 * IDLE_S)
    assert not pace.is_due(replace(later, has_changes=False), 500.0)
    again = replace(CHANGED, change_count=3, last_checkpoint_s=500.0)
    assert not pace.is_due(again, 500.0)
    assert pace.is_due(again, 500.0 + IDLE_S)


def test_nothing_changed_nothing_due() -> None:
    """A backup without changes is left alone."""
    idle = replace(CHANGED, has_changes=False)
    assert attempts(Pace(IDLE_S, LONGEST_S), idle, end_s=1000.0) == []
