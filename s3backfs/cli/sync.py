"""The verb `sync`."""

from __future__ import annotations

from pathlib import Path

import click

from s3backfs.cli.mountpoints import find_mount
from s3backfs.cli.terminal import note
from s3backfs.control import call_mount


@click.command()
@click.argument("mountpoint", type=click.Path(path_type=Path))
def sync(mountpoint: Path) -> None:
    """Wait until everything written so far is in S3.

    The open backups stay open. `sync FILE` and fsync(2) do the same for one backup; sync(2) and
    `sync -f` do not reach a FUSE file system.

    \b
    Examples:
      s3backfs sync /mnt/backups
    """
    mount = find_mount(mountpoint)
    owner_uid = mount.owner_uid if mount else None
    call_mount(mountpoint, "sync", {}, note, owner_uid=owner_uid)
