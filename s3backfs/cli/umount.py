"""The verb `umount`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from s3backfs.cli.mountpoints import find_mount, is_dead, unmount_lazily
from s3backfs.cli.terminal import format_bytes, note, print_json, print_table, printable
from s3backfs.control import call_mount
from s3backfs.errors import NotMountedError


@click.command()
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option("--keep-open", is_flag=True, help="Leave open backups open, to go on with next time.")
@click.option("--json", "as_json", is_flag=True, help="Print what was stored as JSON.")
def umount(mountpoint: Path, keep_open: bool, as_json: bool) -> int:
    """Seal the open backups, wait until all is in S3, unmount.

    The exit code is 0 only if everything is in S3. A mount where files are open is busy, and one
    whose store refuses keeps what is not stored: both stay mounted, and you can try again.
    Interrupting the command does not stop the work.

    \b
    Examples:
      s3backfs umount /mnt/backups
      s3backfs umount --keep-open /mnt/backups
    """
    mount = find_mount(mountpoint)
    try:
        result = call_mount(
            mountpoint,
            "umount",
            {"keep_open": keep_open},
            note,
            owner_uid=mount.owner_uid if mount else None,
            wait_for_exit=True,
        )
    except NotMountedError:
        if mount is None or not is_dead(mountpoint):
            raise
        unmount_lazily(mountpoint)
        raise NotMountedError(
            f"the process behind {mountpoint} was gone and the mount is now removed; "
            "open backups are as of their last checkpoint, mount again to go on with them"
        ) from None
    _print_result(result, as_json)
    return int(result.get("exit_code", 0))


def _print_result(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    backups = result.get("backups", [])
    if backups:
        print_table(("backup", "state", ">files", ">size", ">stored"), map(_row, backups))
    for warning in result.get("warnings", []):
        note(warning)


def _row(backup: dict[str, Any]) -> tuple[str, ...]:
    return (
        printable(backup["name"]),
        backup["state"],
        str(backup.get("files", "-")),
        format_bytes(backup.get("size_bytes", 0)),
        format_bytes(backup.get("stored_bytes", 0)),
    )
