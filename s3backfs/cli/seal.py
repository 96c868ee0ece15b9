"""The verbs `seal` and `reopen`: from an open backup to a finished one, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from s3backfs.cli.mountpoints import list_mounts, locate_backup
from s3backfs.cli.terminal import note
from s3backfs.control import call_mount, wire_name
from s3backfs.errors import IncompleteError

_backup_argument = click.argument(
    "path", metavar="MOUNTPOINT/NAME", type=click.Path(path_type=Path)
)


@click.command()
@_backup_argument
@click.option("--force", is_flag=True, help="Also after a program got an error by writing to it.")
def seal(path: Path, force: bool) -> None:
    """Finish an open backup: store the rest of it and make it immutable.

    A backup is not complete if a program that wrote to it got an error, even if S3 is back: run
    the copy again, then seal with --force.

    \b
    Examples:
      s3backfs seal /mnt/backups/web1-monday
    """
    result = _ask(path, "seal", force=force)
    if result.get("incomplete"):
        note(f"sealed as incomplete: {result.get('error', '')}")
        raise SystemExit(IncompleteError.exit_code)


@click.command()
@_backup_argument
def reopen(path: Path) -> None:
    """Make a sealed backup writable again, for this mount.

    \b
    Examples:
      s3backfs reopen /mnt/backups/web1-monday
    """
    _ask(path, "reopen")


def _ask(path: Path, verb: str, **options: bool) -> dict[str, Any]:
    mount, name = locate_backup(path, list_mounts())
    args = {"name": wire_name(name), **options}
    return call_mount(mount.mountpoint, verb, args, note, owner_uid=mount.owner_uid)
