"""Retention: what stays and what goes, as pure decisions."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3backfs.maintenance.policy import (
    CLOCK_STEP_NS,
    Candidate,
    Decision,
    Policy,
    decide,
    exceeds_share,
    is_borne_out,
    name_prefix,
    trusted_time_ns,
)

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)

_hours = st.integers(min_value=0, max_value=24 * 800)


@st.composite
def candidate_lists(draw: st.DrawFn) -> list[Candidate]:
    """Backups of two hosts, some locked, tagged or incomplete."""
    return [
        Candidate(
            name=b"web.%d" % number,
            host=draw(st.sampled_from(["a", "b"])),
            sealed=NOON - timedelta(hours=draw(_hours)),
            tags=draw(st.sampled_from([{}, {"release": "2"}])),
            is_complete=draw(st.integers(0, 4)) > 0,
            is_locked=draw(st.integers(0, 9)) == 0,
            is_borne_out=draw(st.integers(0, 4)) > 0,
        )
        for number in range(draw(st.integers(0, 25)))
    ]


_count = st.integers(min_value=0, max_value=6)
policies = st.builds(
    Policy,
    last=_count,
    hourly=_count,
    daily=_count,
    weekly=_count,
    monthly=_count,
    yearly=_count,
    within=st.sampled_from([None, timedelta(days=3)]),
    tags=st.sampled_from([(), ("release",), ("release=3",)]),
    min_keep=_count,
).filter(lambda policy: not policy.is_empty)


def staying(decisions: list[Decision]) -> set[bytes]:
    return {decision.candidate.name for decision in decisions if not decision.goes}


def days(*ages: int, host: str = "a", complete: bool = True) -> list[Candidate]:
    return [
        Candidate(b"%s.%d" % (host.encode(), age), host, NOON - timedelta(days=age),
                  is_complete=complete)
        for age in ages
    ]  # fmt: skip


@given(candidate_lists(), policies)
def test_what_never_goes(candidates: list[Candidate], policy: Policy) -> None:
    """The newest of a group, the newest complete one, and locked ones stay; all are decided on."""
    decisions = decide(candidates, policy)
    assert sorted(d.candidate.name for d in decisions) == sorted(c.name for c in candidates)
    stay = staying(decisions)
    for host in {candidate.host for candidate in candidates}:
        group = [each for each in candidates if each.host == host]
        complete = [each for each in group if each.is_complete]
        for members in filter(None, (group, complete)):
            newest = max(each.sealed for each in members)
            assert stay & {each.name for each in members if each.sealed == newest}
        going = [each for each in complete if each.name not in stay]
        assert not going or len(complete) - len(going) >= policy.min_keep
    assert {each.name for each in candidates if each.is_locked} <= stay


@given(candidate_lists(), policies, st.randoms(use_true_random=False))
def test_the_order_of_a_listing_does_not_matter(
    candidates: list[Candidate], policy: Policy, randomness: random.Random
) -> None:
    """The same backups give the same decisions, however they are listed."""
    shuffled = list(candidates)
    randomness.shuffle(shuffled)
    assert decide(shuffled, policy) == decide(candidates, policy)


@given(candidate_lists(), policies)
def test_a_second_run_finds_nothing(candidates: list[Candidate], policy: Policy) -> None:
    """What one run leaves, the next one with the same policy leaves too."""
    stay = staying(decide(candidates, policy))
    left = [each for each in candidates if each.name in stay]
    assert staying(decide(left, policy)) == stay


@given(candidate_lists(), policies, st.sampled_from(["last", "daily", "weekly", "yearly"]))
def test_more_to_keep_lets_nothing_else_go(
    candidates: list[Candidate], policy: Policy, rule: str
) -> None:
    """A greater count keeps all that a smaller one keeps by rules."""
    policy = replace(policy, min_keep=0)
    greater = replace(policy, **{rule: getattr(policy, rule) + 1})
    few, many = decide(candidates, policy), decide(candidates, greater)
    oldest = {min(group, key=lambda each: (each.sealed, each.name)).name
              for group in _groups(candidates) if group}  # fmt: skip
    assert staying(few) - oldest <= staying(many)


def _groups(candidates: list[Candidate]) -> list[list[Candidate]]:
    groups = []
    for host in ("a", "b"):
        group = [each for each in candidates if each.host == host]
        groups += [group, [each for each in group if each.is_complete]]
    return groups


@given(candidate_lists(), policies)
def test_incomplete_backups_push_nothing_out(candidates: list[Candidate], policy: Policy) -> None:
    """Complete backups stay as if there were no incomplete ones."""
    complete = [each for each in candidates if each.is_complete]
    assert staying(decide(complete, replace(policy, within=None, min_keep=0))) <= staying(
        decide(candidates, replace(policy, within=None, min_keep=0))
    )


@given(candidate_lists(), policies)
def test_backdated_backups_push_nothing_out(candidates: list[Candidate], policy: Policy) -> None:
    """Backups that the store bears out stay as if there were none that claim another past."""
    policy = replace(policy, min_keep=0)
    good = [each for each in candidates if each.is_borne_out and each.is_complete]
    assert staying(decide(good, policy)) <= staying(decide(candidates, policy))


@pytest.mark.parametrize(
    ("sealed", "modified", "is_true"),
    [(5, 5, True), (5, 0, True), (9, 5, True), (5, 3605, True), (5, 3606, False)],
)
def test_what_the_store_bears_out(sealed: int, modified: int, is_true: bool) -> None:
    """A backup that came to the store more than an hour after it was sealed is backdated."""
    assert is_borne_out(sealed * 10**9, modified * 10**9) is is_true


def test_within_ages_without_end() -> None:
    """A time that reaches back before all calendars keeps everything."""
    decisions = decide(days(0, 3, 400), Policy(within=timedelta.max / 2))
    assert staying(decisions) == {b"a.0", b"a.3", b"a.400"}


def test_hours_are_told_where_clocks_are_changed() -> None:
    """The hour that comes twice in autumn is two hours, in every zone, and each is kept."""
    zone = ZoneInfo("Europe/Berlin")
    start = datetime(2026, 10, 24, 23, 30, tzinfo=UTC)
    candidates = [
        Candidate(b"a.%d" % hour, "a", (start + timedelta(hours=hour)).astimezone(zone))
        for hour in range(5)
    ]
    assert [each.sealed.hour for each in candidates] == [1, 2, 2, 3, 4]
    decisions = decide(candidates, Policy(hourly=4))
    assert [d.candidate.name for d in decisions if d.goes] == [b"a.0"]


def test_the_newest_of_each_day_week_and_month() -> None:
    """Each rule keeps the newest of its periods, and the oldest of all while it is not used up."""
    candidates = [
        Candidate(b"web.%02d%02d" % (age, part), "a", NOON - timedelta(days=age, hours=part))
        for age in range(60)
        for part in (0, 6)
    ]
    assert staying(decide(candidates, Policy(daily=3))) == {b"web.0000", b"web.0100", b"web.0200"}
    # 2026-11-21 is a Saturday; weeks begin on Mondays.
    assert staying(decide(candidates, Policy(weekly=2))) == {b"web.0000", b"web.0600"}
    assert staying(decide(candidates, Policy(monthly=2))) == {b"web.0000", b"web.2100"}
    assert staying(decide(candidates, Policy(yearly=2))) == {b"web.0000", b"web.5906"}


def test_reasons_are_told() -> None:
    """Each backup that stays says by which rules."""
    decisions = decide(days(0, 1, 2), Policy(last=2, daily=1))
    assert [decision.reasons for decision in decisions] == [
        ("newest", "last", "daily"),
        ("last",),
        (),
    ]


def test_within_counts_from_the_newest() -> None:
    """Where backups have stopped long ago, all that were recent then stay."""
    assert len(staying(decide(days(400, 401, 409), Policy(within=timedelta(days=5))))) == 2


def test_a_group_below_its_minimum_stays_whole() -> None:
    """If fewer complete backups than asked for would remain, none of the group goes."""
    candidates = [*days(0, 1, 2, host="a"), *days(0, 1, 2, 3, 4, host="b")]
    stay = staying(decide(candidates, Policy(last=2, min_keep=2)))
    assert len(stay) == 4
    incomplete = [*days(0, complete=False), *days(1, 2)]
    assert len(staying(decide(incomplete, Policy(last=1, min_keep=2)))) == 3


def test_an_empty_policy_is_refused() -> None:
    """No rule at all forgets nothing but raises."""
    with pytest.raises(ValueError, match="empty policy"):
        decide(days(0, 1), Policy())


def test_the_share_that_may_go() -> None:
    """A run is stopped where more goes than allowed, not where just so much goes."""
    decisions = decide(days(0, 1, 2, 3), Policy(last=2))
    assert not exceeds_share(decisions, 0.5)
    assert exceeds_share(decisions, 0.49)


@given(st.integers(0, 2**62), st.integers(1, 2**61), st.integers(0, 2**61))
def test_a_date_in_the_future_is_not_believed(sealed: int, modified: int, now: int) -> None:
    """No backup counts as newer than the store knew of it; a past date is taken as it is."""
    trusted = trusted_time_ns(sealed, modified, now)
    assert trusted <= modified + CLOCK_STEP_NS
    assert trusted == sealed or sealed > min(modified, now or modified)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("web1-2026-11-21T0600", "web1"),
        ("web1-2026-11-21T06:00:00Z", "web1"),
        ("home_20261121-0600", "home"),
        ("a-2026-W07", "a"),
        ("documents-monday", "documents"),
        ("market-Mar", "market"),
        ("daily.12", "daily"),
        ("x-1795240000", "x"),
        ("disk-1", "disk-1"),
        ("disk-2-2026-01-02", "disk-2"),
        ("saturn", "saturn"),
        ("2026-01-01", ""),
        ("2026-01-01-home", "2026-01-01-home"),
    ],
)
def test_series_of_names(name: str, prefix: str) -> None:
    """Dates and weekdays at the end make no series of their own; other numbers do."""
    assert name_prefix(name.encode()) == prefix
