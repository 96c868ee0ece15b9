"""Checkpoints that run by themselves: after rest, and now and then during a long write."""

from __future__ import annotations

import logging

import trio

from s3backfs.backup.backup import Backup, printable
from s3backfs.backup.catalogue import Catalogue
from s3backfs.errors import S3backfsError

log = logging.getLogger(__name__)

TICK_S = 1.0
MANY_CHANGES = 50_000
"""So many changed names in memory are a reason of their own."""


async def run_checkpoints(catalogue: Catalogue, *, idle_s: float, longest_s: float) -> None:
    """Look after every open backup until cancelled.

    The rest that is waited for doubles up to `longest_s` while changes trickle in, and falls back
    when a backup was left alone for so long.
    """
    rests: dict[bytes, float] = {}
    while True:
        await trio.sleep(min(TICK_S, idle_s))
        for backup in catalogue.own_open():
            rest_s = rests.get(backup.id, idle_s)
            if not _is_due(backup, rest_s, longest_s):
                if trio.current_time() - backup.last_change_s > longest_s:
                    rests.pop(backup.id, None)
                continue
            rests[backup.id] = min(rest_s * 2, longest_s)
            try:
                await backup.checkpoint()
            except S3backfsError as error:
                log.error("checkpoint of backup %s failed: %s", printable(backup.name), error)


def _is_due(backup: Backup, rest_s: float, longest_s: float) -> bool:
    if not backup.has_changes:
        return False
    now_s = trio.current_time()
    return (
        now_s - backup.last_change_s >= rest_s
        or now_s - backup.last_checkpoint_s >= longest_s
        or backup.names.changed_count >= MANY_CHANGES
    )
