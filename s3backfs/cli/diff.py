"""The verb `diff`."""

from __future__ import annotations

import os
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click

from s3backfs.cli.finding import entry_as_json, type_mark
from s3backfs.cli.keeping import run_reading, split_url
from s3backfs.cli.options import store_config, store_options
from s3backfs.cli.progress import quiet_option
from s3backfs.cli.terminal import print_json, printable
from s3backfs.control import wire_name

if TYPE_CHECKING:
    from s3backfs.maintenance.comparing import Changed
    from s3backfs.reporting import Report
    from s3backfs.repository.repository import Repository

_MARKS = {"added": "+", "removed": "-", "content": "M", "metadata": "m"}


@click.command
@click.argument("words", nargs=-1, metavar="URL OLD NEW [PATH]")
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
@quiet_option
@store_options
def diff(words: tuple[str, ...], as_json: bool, **params: Any) -> int:
    """Say what differs between two backups, or below one path of them.

    It costs what differs, not what there is. Marks: + added, - removed, M other content, m only
    other mode, owner, time or extended attributes. A file that was rewritten with the same bytes is
    the same, unless random writes have left it in other chunks.

    \b
    Examples:
      s3backfs diff s3://bucket/prefix web1-monday web1-tuesday
      s3backfs diff s3://bucket/prefix web1-monday web1-tuesday etc/nginx
    """
    url, names = split_url(words, "URL and two backups")
    if len(names) not in (2, 3):
        raise click.UsageError("give two backups, and at most one PATH")

    async def act(repository: Repository, report: Report) -> list[Changed]:
        from s3backfs.backup.paths import split_path
        from s3backfs.maintenance.comparing import Comparison
        from s3backfs.maintenance.shelf import load_shelf

        shelf = await load_shelf(repository.store, repository.keyring)
        old, new = (shelf.backup(os.fsencode(name)).root for name in names[:2])
        path = split_path(os.fsencode(names[2])) if len(names) == 3 else ()
        found = []
        async with aclosing(Comparison(repository, old, new, path).changes()) as changes:
            async for changed in changes:
                found.append(changed)
                report(f"comparing: {len(found)} differences")
        return sorted(found, key=lambda changed: changed.path.split(b"/"))

    found = run_reading(url, store_config(params), act)
    if as_json:
        print_json([_as_json(changed) for changed in found])
    else:
        for changed in found:
            entry = changed.after or changed.before
            mark = "" if entry is None else type_mark(entry)
            click.echo(f"{_MARKS[changed.change]} {printable(changed.path)}{mark}")
    return 0


def _as_json(changed: Changed) -> dict[str, Any]:
    return {
        "path": wire_name(changed.path),
        "change": str(changed.change),
        "before": entry_as_json(changed.before),
        "after": entry_as_json(changed.after),
    }
