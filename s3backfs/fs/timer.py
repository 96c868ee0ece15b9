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


@dataclass(slots=True)
class _Rest:
    """Since when a backup has been left alone, as far as the ticks tell, and how long it should be.

    Changes only count: the clock is not read at each of them.
    """

    wanted_s: float
    since_s: float = 0.0
    change_count: int = -1

    def look(self, backup: Backup, now_s: float) -> float:
        """Return for how long nothing has changed."""
        if backup.change_count != self.change_count:
            self.change_count, self.since_s = backup.change_count, now_s
        return now_s - self.since_s


async def run_checkpoints(catalogue: Catalogue, *, idle_s: float, longest_s: float) -> None:
    """Look after every open backup until cancelled.

    The rest that is waited for doubles up to `longest_s` while changes trickle in, and falls back
    when a backup was left alone for so long.
    """
    rests: dict[bytes, _Rest] = {}
    while True:
        await trio.sleep(min(TICK_S, idle_s))
        for backup in catalogue.own_open():
            rest = rests.setdefault(backup.id, _Rest(idle_s))
            rested_s = rest.look(backup, trio.current_time())
            if rested_s > longest_s:
                rest.wanted_s = idle_s
            if not _is_due(backup, is_rested=rested_s >= rest.wanted_s, longest_s=longest_s):
                continue
            rest.wanted_s = min(rest.wanted_s * 2, longest_s)
            try:
                await backup.checkpoint()
            except S3backfsError as error:
                log.error("checkpoint of backup %s failed: %s", printable(backup.name), error)


def _is_due(backup: Backup, *, is_rested: bool, longest_s: float) -> bool:
    if not backup.has_changes:
        return False
    return (
        is_rested
        or trio.current_time() - backup.last_checkpoint_s >= longest_s
        or backup.names.changed_count >= MANY_CHANGES
    )
