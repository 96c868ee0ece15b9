"""Checkpoints that run by themselves: after rest, and now and then during a long write."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import trio

from s3backfs.backup.backup import Backup, printable
from s3backfs.backup.catalogue import Catalogue
from s3backfs.errors import S3backfsError

log = logging.getLogger(__name__)

TICK_S = 1.0
MANY_CHANGES = 50_000
"""So many changed names in memory are a reason of their own."""

RETRY_LONGEST_S = 30.0
"""Until a checkpoint succeeds, writers get the error that the last one ended with."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What of a backup tells whether a checkpoint is due; times are those of one clock."""

    has_changes: bool
    change_count: int
    last_checkpoint_s: float
    changed_names_count: int


class Pace:
    """When the next checkpoint of one backup is due; changes only count, no clock is read at them.

    The rest that is waited for doubles up to `longest_s` while changes trickle in, and falls back
    when the backup was left alone for so long. After a failure the pause between attempts doubles
    too, but stays short: nobody tells us that a refusal is over.
    """

    def __init__(self, idle_s: float, longest_s: float) -> None:
        self._idle_s = self._rest_s = idle_s
        self._longest_s = longest_s
        self._change_count = -1
        self._since_s = 0.0
        self._failed_s = 0.0
        self._retry_s = 0.0

    def is_due(self, signs: Signs, now_s: float) -> bool:
        """Whether it is time for a checkpoint; ask every few seconds."""
        if signs.change_count != self._change_count:
            self._change_count, self._since_s = signs.change_count, now_s
        quiet_s = now_s - self._since_s
        if not signs.has_changes:
            if quiet_s > self._longest_s:
                self._rest_s = self._idle_s
            return False
        if self._retry_s:
            return now_s - self._failed_s >= self._retry_s
        return (
            quiet_s >= self._rest_s
            or now_s - signs.last_checkpoint_s >= self._longest_s
            or signs.changed_names_count >= MANY_CHANGES
        )

    def note_stored(self) -> None:
        """A checkpoint that was due has succeeded."""
        self._retry_s = 0.0
        self._rest_s = min(self._rest_s * 2, self._longest_s)

    def note_failed(self, now_s: float) -> None:
        """A checkpoint that was due has failed."""
        self._failed_s = now_s
        self._retry_s = min(max(self._retry_s * 2, self._idle_s), RETRY_LONGEST_S)


async def run_checkpoints(catalogue: Catalogue, *, idle_s: float, longest_s: float) -> None:
    """Look after every open backup until cancelled, at the pace of each."""
    paces: dict[bytes, Pace] = {}
    while True:
        await trio.sleep(min(TICK_S, idle_s))
        for backup in catalogue.own_open():
            pace = paces.setdefault(backup.id, Pace(idle_s, longest_s))
            if not pace.is_due(_signs(backup), trio.current_time()):
                continue
            try:
                await backup.checkpoint()
            except S3backfsError as error:
                log.error("checkpoint of backup %s failed: %s", printable(backup.name), error)
                pace.note_failed(trio.current_time())
            else:
                pace.note_stored()


def _signs(backup: Backup) -> Signs:
    return Signs(
        backup.has_changes,
        backup.change_count,
        backup.last_checkpoint_s,
        backup.names.changed_count,
    )
