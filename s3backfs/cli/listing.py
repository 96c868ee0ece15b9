"""The verb `list`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from s3backfs.cli.options import store_config, store_options, url_argument
from s3backfs.cli.passphrase import prompt_passphrase, take_passphrase
from s3backfs.cli.tag import NOTE
from s3backfs.cli.terminal import format_bytes, format_time, print_json, print_table, printable
from s3backfs.config import StoreConfig
from s3backfs.control import wire_name
from s3backfs.errors import IntegrityError
from s3backfs.store.location import parse_url

if TYPE_CHECKING:
    from s3backfs.backup.finding import BackupSummary

_IF_ANY = ("tags", "note")
_HEADERS = ("backup", "state", "created", "updated", ">files", ">size", ">stored", "host", *_IF_ANY)


@click.command("list")
@url_argument
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@store_options
def list_command(url: str, as_json: bool, **params: Any) -> int:
    """List the backups of a repository: state, times, files, size, new bytes stored, tags.

    A backup whose root is damaged is shown as such, and the exit code is 20.

    \b
    Examples:
      s3backfs list s3://bucket/prefix
      s3backfs list --json file:///srv/nas/backups | jq '.[].name'
    """
    backups = sorted(_summaries(parse_url(url).url, store_config(params)), key=lambda b: b.name)
    if as_json:
        print_json([_as_json(backup) for backup in backups])
    else:
        _print(backups)
    return IntegrityError.exit_code if any(b.state == "damaged" for b in backups) else 0


def _summaries(url: str, store: StoreConfig) -> Sequence[BackupSummary]:
    import trio  # slow to import

    from s3backfs.cli.stores import summarize

    return trio.run(partial(summarize, url, store, take_passphrase(), prompt_passphrase))


def _as_json(backup: BackupSummary) -> dict[str, Any]:
    return {
        "name": wire_name(backup.name),
        "state": backup.state,
        "created_ns": backup.created_ns,
        "updated_ns": backup.updated_ns,
        "sealed_ns": backup.sealed_ns,
        "entries": backup.entries,
        "files": backup.files,
        "size_bytes": backup.size_bytes,
        "stored_bytes": backup.stored_bytes,
        "host": backup.host,
        "incomplete": backup.is_incomplete,
        "tags": dict(backup.tags),
    }


def _print(backups: Sequence[BackupSummary]) -> None:
    """Print a table, with columns for tags and notes where there are any."""
    rows = [_row(backup) for backup in backups]
    shown = [
        number
        for number, header in enumerate(_HEADERS)
        if header not in _IF_ANY or any(row[number] for row in rows)
    ]
    print_table([_HEADERS[n] for n in shown], [[row[n] for n in shown] for row in rows])


def _row(backup: BackupSummary) -> tuple[str, ...]:
    tags = [
        f"{name}={value}" if value else name for name, value in backup.tags.items() if name != NOTE
    ]
    return (
        printable(backup.name),
        f"{backup.state}, incomplete" if backup.is_incomplete else backup.state,
        format_time(backup.created_ns),
        format_time(backup.sealed_ns or backup.updated_ns),
        str(backup.files),
        format_bytes(backup.size_bytes),
        format_bytes(backup.stored_bytes),
        printable(backup.host),
        printable(", ".join(tags)),
        printable(backup.tags.get(NOTE, "")),
    )
