"""Forgetting backups by policy, or by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from s3backfs.backup.removals import newest_ns
from s3backfs.backup.trash import move_to_trash
from s3backfs.errors import ConfigurationError, LockedError
from s3backfs.format.keys import Keyring
from s3backfs.maintenance.policy import Candidate, Decision, Policy, decide, exceeds_share
from s3backfs.maintenance.shelf import Shelf, Shelved, chosen
from s3backfs.reporting import Report
from s3backfs.store.base import Store

MAX_SHARE = 0.5
"""More than this of the backups looked at goes only by force."""


@dataclass(frozen=True, slots=True)
class ForgetPlan:
    """What stays and why, and what goes; open and damaged backups are not looked at, and stay."""

    decisions: tuple[Decision, ...]
    going: tuple[Shelved, ...]
    is_refused: bool
    left_out: dict[bytes, str] = field(default_factory=dict)
    """Backups that stay whatever the policy says, and why."""


def plan_forget(
    shelf: Shelf,
    patterns: Sequence[str],
    policy: Policy,
    group_by: Sequence[str],
    max_share: float = MAX_SHARE,
) -> ForgetPlan:
    """Decide over the sealed backups whose names fit.

    Raises:
        ConfigurationError: a pattern fits no backup; or only tags keep anything, and no backup
            has one of them.
    """
    shelf.check_patterns(patterns)
    sealed = chosen(shelf.sealed, patterns)
    candidates = [_candidate(each) for each in sealed]
    if sealed and policy.keeps_only_tags and not any(map(policy.has_tag, candidates)):
        raise ConfigurationError(
            f"nothing would be kept: no backup has the tag {' or '.join(policy.tags)}"
        )
    decisions = decide(candidates, policy, group_by)
    names = {decision.candidate.name for decision in decisions if decision.goes}
    left_out = {each.name: "open" for each in shelf.backups if not each.held.is_in_place}
    left_out |= dict.fromkeys(shelf.damaged, "damaged")
    return ForgetPlan(
        tuple(decisions),
        tuple(each for each in sealed if each.name in names),
        exceeds_share(decisions, max_share),
        dict(sorted(left_out.items())),
    )


def _candidate(each: Shelved) -> Candidate:
    return Candidate(
        name=each.name,
        host=each.root.host,
        sealed=each.moment,
        tags=each.tags,
        is_complete=not each.root.incomplete,
        is_locked=each.is_locked,
        is_borne_out=each.is_borne_out,
    )


def choose_named(shelf: Shelf, names: Sequence[bytes]) -> list[Shelved]:
    """The sealed backups of these names.

    Raises:
        ConfigurationError: there is none of a name, or it is open.
        LockedError: its tags say that it stays.
    """
    backups = [shelf.backup(name) for name in dict.fromkeys(names)]
    for each in backups:
        shown = repr(each.name.decode("utf-8", "backslashreplace"))
        if not each.held.is_in_place:
            raise ConfigurationError(f"{shown} is open: seal it, or remove it in its mount")
        if each.is_locked:
            raise LockedError(f"{shown} is locked; `s3backfs tag --remove locked` unlocks it")
    return backups


async def forget(
    store: Store, keyring: Keyring, shelf: Shelf, going: Sequence[Shelved], report: Report
) -> list[bytes]:
    """Move backups to the trash one by one; return the names of those that were locked meanwhile.

    Raises:
        S3backfsError: one could not be moved; those before it are in the trash.
    """
    spared, newest_sealed_ns = [], newest_ns(each.root for each in shelf.sealed)
    for number, each in enumerate(going):
        report(f"forgetting {number + 1} of {len(going)}", number, len(going))
        try:
            nonce = each.root.owner.nonce
            await move_to_trash(store, keyring, each.held.key, nonce, newest_sealed_ns)
        except LockedError:
            spared.append(each.name)
    return spared
