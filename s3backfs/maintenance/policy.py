"""Retention: which backups stay, and why. Values in, decisions out.

In each group the newest of every hour, day, week, month or year that has backups is kept, as many
as the policy says; while there are fewer, the oldest is kept too. A backup stays if any rule keeps
it. Incomplete backups follow the same rules, and never take the place of complete ones; neither do
those that claim a past which the store does not bear out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeAlias

Group: TypeAlias = tuple[str, ...]

GROUP_KEYS = ("host", "prefix")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sealed backup as the policy sees it; `sealed` has a time zone, by which days are told."""

    name: bytes
    host: str
    sealed: datetime
    tags: Mapping[str, str] = field(default_factory=dict)
    is_complete: bool = True
    is_locked: bool = False
    is_borne_out: bool = True
    """Whether the store got it when it says that it was sealed."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How many of what to keep in each group; what is 0 or None keeps nothing."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: timedelta | None = None
    """As old as this, counted from the newest of the group: where backups stopped none go."""
    tags: tuple[str, ...] = ()
    """`NAME` or `NAME=VALUE`."""
    min_keep: int = 1
    """Groups of which fewer complete backups would be left stay whole."""

    @property
    def is_empty(self) -> bool:
        """Whether no rule keeps anything."""
        counts = (self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly)
        return not (any(counts) or self.within or self.tags)

    @property
    def keeps_only_tags(self) -> bool:
        """Whether tags are the only rule."""
        return bool(self.tags) and replace(self, tags=()).is_empty

    def has_tag(self, candidate: Candidate) -> bool:
        """Whether a backup has one of the tags that keep."""
        return any(_has_tag(candidate, wanted) for wanted in self.tags)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a backup: without reasons to stay, it goes."""

    candidate: Candidate
    group: Group
    reasons: tuple[str, ...]

    @property
    def goes(self) -> bool:
        """Whether it is to be forgotten."""
        return not self.reasons


_ZERO = timedelta(0)

Bucket: TypeAlias = Callable[[datetime], tuple[int, ...]]

_BUCKETS: tuple[tuple[str, Bucket], ...] = (
    # The offset tells the hours apart that a change of clocks repeats.
    ("hourly", lambda t: (t.year, t.month, t.day, t.hour, int((t.utcoffset() or _ZERO).seconds))),
    ("daily", lambda t: (t.year, t.month, t.day)),
    ("weekly", lambda t: tuple(t.isocalendar())[:2]),
    ("monthly", lambda t: (t.year, t.month)),
    ("yearly", lambda t: (t.year,)),
)


def decide(
    candidates: Iterable[Candidate], policy: Policy, group_by: Sequence[str] = GROUP_KEYS
) -> list[Decision]:
    """Say of each backup whether it stays; sorted by group, the newest first.

    Raises:
        ValueError: an empty policy would let everything go.
    """
    if policy.is_empty:
        raise ValueError("an empty policy keeps nothing")
    groups: dict[Group, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(group_of(candidate, group_by), []).append(candidate)
    return [
        decision
        for group, members in sorted(groups.items())
        for decision in _decide_group(group, members, policy)
    ]


def group_of(candidate: Candidate, group_by: Sequence[str]) -> Group:
    """The group that a backup is in."""
    values = {"host": candidate.host, "prefix": name_prefix(candidate.name)}
    return tuple(values[key] for key in group_by)


def _decide_group(group: Group, members: list[Candidate], policy: Policy) -> list[Decision]:
    ordered = sorted(members, key=lambda each: (each.sealed, each.name), reverse=True)
    reasons: dict[bytes, list[str]] = {each.name: [] for each in ordered}
    complete = [each for each in ordered if each.is_complete]
    borne_out = [each for each in complete if each.is_borne_out]
    for sequence in (borne_out, complete, ordered):
        for candidate, reason in _kept(sequence, policy):
            if reason not in reasons[candidate.name]:
                reasons[candidate.name].append(reason)
    left_count = sum(bool(reasons[each.name]) for each in complete)
    for each in ordered if left_count < policy.min_keep else ():
        if not reasons[each.name]:
            reasons[each.name].append("min-keep")
    return [Decision(each, group, tuple(reasons[each.name])) for each in ordered]


def _kept(ordered: Sequence[Candidate], policy: Policy) -> Iterable[tuple[Candidate, str]]:
    """Who stays and why, of one sequence with the newest first."""
    if not ordered:
        return
    yield ordered[0], "newest"
    for number, candidate in enumerate(ordered):
        if candidate.is_locked:
            yield candidate, "locked"
        if number < policy.last:
            yield candidate, "last"
        if policy.within is not None and ordered[0].sealed - candidate.sealed <= policy.within:
            yield candidate, "within"
        if policy.has_tag(candidate):
            yield candidate, "tag"
    for rule, bucket in _BUCKETS:
        for candidate in _newest_of_each(ordered, bucket, getattr(policy, rule)):
            yield candidate, rule


def _newest_of_each(
    ordered: Sequence[Candidate], bucket: Bucket, count: int
) -> Iterable[Candidate]:
    last: tuple[int, ...] | None = None
    for number, candidate in enumerate(ordered):
        if count <= 0:
            return
        found = bucket(candidate.sealed)
        if found != last or number == len(ordered) - 1:
            yield candidate
            count -= 1
        last = found


def _has_tag(candidate: Candidate, wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in candidate.tags and (not equals or candidate.tags[name] == value)


# -- names -----------------------------------------------------------------------------------

_DAYS = "monday tuesday wednesday thursday friday saturday sunday"
_MONTHS = "january february march april may june july august september october november december"
_WORDS = "|".join(
    sorted({form for word in f"{_DAYS} {_MONTHS}".split() for form in (word, word[:3])})
)
_SUFFIX = re.compile(
    r"[-_.@+ :]*(?:"
    r"(?<![0-9])(?:19|20)[0-9]{2}[-_.]?[wW][0-9]{2}"
    r"|(?<![0-9])(?:19|20)[0-9]{2}[-_.]?(?:0[1-9]|1[0-2])(?:[-_.]?[0-3][0-9])?"
    r"(?:[-_.@+ :tT]*[0-9hHmMsSzZ:.+-]+)?"
    rf"|(?<![a-zA-Z])(?:{_WORDS})"
    r"|(?<![0-9])[0-9]{6,}|(?<=\.)[0-9]+"
    r")\Z",
    re.IGNORECASE,
)


def name_prefix(name: bytes) -> str:
    """What the backups of one series have in common: a name without its date or weekday.

    `web1-2026-11-21T0600`, `web1-monday` and `web1.0` all belong to `web1`. Other numbers count as
    part of the name: series that are taken for one would push each other's backups out.
    """
    text = name.decode("utf-8", "surrogateescape")
    return _SUFFIX.sub("", text, count=1)


# -- limits ----------------------------------------------------------------------------------

CLOCK_STEP_NS = 1_000_000_000
"""Stores tell whole seconds."""


def exceeds_share(decisions: Sequence[Decision], max_share: float) -> bool:
    """Whether more would go at once than is allowed without force."""
    going_count = sum(decision.goes for decision in decisions)
    return going_count > len(decisions) * max_share


LATE_NS = 3600 * 1_000_000_000
"""So much later than it was sealed a backup may come to the store; S3 refuses wrong clocks."""


def is_borne_out(sealed_ns: int, modified_ns: int) -> bool:
    """Whether the store got a backup when it says that it was sealed; 0: the store does not tell.

    A backdated one could take the place of any good one. What was renamed, brought back or copied
    to another bucket looks the same: it follows the rules, among all.
    """
    return not modified_ns or modified_ns - sealed_ns <= LATE_NS


def trusted_time_ns(sealed_ns: int, modified_ns: int, now_ns: int) -> int:
    """When a backup was sealed: what its writer says, but no later than the store knew of it.

    A time of 0 means that the store does not tell. A date in the future, faked or by a wrong
    clock, cannot push good backups out.
    """
    bounds = [each + CLOCK_STEP_NS for each in (modified_ns, now_ns) if each > 0]
    return min([sealed_ns, *bounds])
