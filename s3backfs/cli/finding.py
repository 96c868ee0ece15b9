"""What the verbs share that show paths of backups: arguments and rows."""

from __future__ import annotations

import re
import stat
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from s3backfs.cli.terminal import format_bytes, format_time, printable
from s3backfs.config import parse_duration
from s3backfs.control import wire_name
from s3backfs.errors import ConfigurationError

if TYPE_CHECKING:
    from s3backfs.backup.versions import Version
    from s3backfs.manifest.entry import Entry

VERSION_HEADERS = ("path", ">size", "changed", ">backups", "first", "last")

_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?)?")


def parse_moment(text: str) -> int:
    """Read a time, `2026-11-21` or `2026-11-21T06:00`, or how long ago, `30d`; nanoseconds.

    Raises:
        ConfigurationError: it is neither.
    """
    if _DATE.fullmatch(text):
        try:
            return int(datetime.fromisoformat(text).timestamp()) * 10**9
        except ValueError:
            raise ConfigurationError(f"{text!r} is no date") from None
    try:
        return time.time_ns() - int(parse_duration(text) * 10**9)
    except ConfigurationError:
        raise ConfigurationError(f"{text!r} is neither a date nor a time like 30d") from None


def moment_option(_context: click.Context, _option: click.Parameter, value: Any) -> int | None:
    """Read an option that is a time, for click."""
    try:
        return None if value is None else parse_moment(value)
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from error


def version_row(version: Version) -> tuple[str, ...]:
    """One version as a row below VERSION_HEADERS."""
    return (
        printable(version.path) + type_mark(version.entry),
        format_bytes(version.entry.size),
        format_time(version.entry.mtime_ns),
        str(len(version.backups)),
        printable(version.backups[0]),
        printable(version.backups[-1]),
    )


def type_mark(entry: Entry) -> str:
    """What `ls -F` puts behind a name."""
    kinds = {stat.S_IFDIR: "/", stat.S_IFLNK: "@", stat.S_IFIFO: "|", stat.S_IFSOCK: "="}
    return kinds.get(stat.S_IFMT(entry.mode), "")


def entry_as_json(entry: Entry | None) -> dict[str, Any] | None:
    """The attributes of an entry for programs."""
    if entry is None:
        return None
    return {
        "mode": entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "mtime_ns": entry.mtime_ns,
    }


def version_as_json(version: Version) -> dict[str, Any]:
    """One version for programs; it is read at any of its backups, below the mount."""
    return {
        "path": wire_name(version.path),
        "entry": entry_as_json(version.entry),
        "backups": [wire_name(name) for name in version.backups],
    }
