"""The verb `status`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from s3backfs.cli.mountpoints import find_mount
from s3backfs.cli.terminal import format_bytes, format_time, print_json, print_table, printable
from s3backfs.control import call_mount

_AMOUNTS = (
    ("written", "written_bytes"),
    ("deduplicated", "deduplicated_bytes"),
    ("stored", "stored_bytes"),
    ("in flight", "in_flight_bytes"),
    ("read", "read_bytes"),
    ("fetched", "fetched_bytes"),
)


@click.command()
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def status(mountpoint: Path, as_json: bool) -> None:
    """Show the open backups of a mount, what moves, and what was asked of S3.

    \b
    Examples:
      s3backfs status /mnt/backups
      s3backfs status --json /mnt/backups | jq .requests
    """
    mount = find_mount(mountpoint)
    result = call_mount(mountpoint, "status", owner_uid=mount.owner_uid if mount else None)
    if as_json:
        print_json(result)
        return
    print_table(("", ""), _facts(result))
    backups = result.get("backups", [])
    if backups:
        click.echo()
        print_table(
            ("backup", "state", ">files", ">written", ">stored", "last checkpoint"),
            map(_backup_row, backups),
        )


def _facts(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Say in words what the mount process answered; what it left out is left out."""
    if "url" in result:
        yield "repository", printable(result["url"])
    rates = result.get("rates", {})
    for label, field in _AMOUNTS:
        if field in result:
            rate = rates.get(f"{field}_per_s")
            suffix = f"  ({format_bytes(rate)}/s)" if rate else ""
            yield label, format_bytes(result[field]) + suffix
    requests = result.get("requests", {})
    if requests:
        yield "requests", ", ".join(f"{kind} {count}" for kind, count in sorted(requests.items()))
    if "last_checkpoint_ns" in result:
        yield "last checkpoint", format_time(result["last_checkpoint_ns"])
    if result.get("waiting_since_ns"):
        yield "S3 is away since", format_time(result["waiting_since_ns"])
    if result.get("last_error"):
        yield "last error", printable(result["last_error"])
    if result.get("warning"):
        yield "warning", printable(result["warning"])


def _backup_row(backup: dict[str, Any]) -> tuple[str, ...]:
    return (
        printable(backup["name"]),
        backup.get("state", "open") + (", incomplete" if backup.get("incomplete") else ""),
        str(backup.get("files", "-")),
        format_bytes(backup.get("written_bytes", 0)),
        format_bytes(backup.get("stored_bytes", 0)),
        format_time(backup.get("last_checkpoint_ns")),
    )
