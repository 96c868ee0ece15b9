"""The verb `versions`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from s3backfs.cli.finding import VERSION_HEADERS, version_as_json, version_row
from s3backfs.cli.keeping import run_reading, split_url
from s3backfs.cli.options import store_config, store_options
from s3backfs.cli.progress import quiet_option
from s3backfs.cli.terminal import print_json, print_table, printable

if TYPE_CHECKING:
    from s3backfs.backup.versions import Version
    from s3backfs.reporting import Report
    from s3backfs.repository.repository import Repository


@click.command
@click.argument("words", nargs=-1, metavar="URL PATH")
@click.option("--in", "backups", multiple=True, metavar="NAME", help="Only in these; a pattern.")
@click.option("--json", "as_json", is_flag=True, help="Print the versions as JSON.")
@quiet_option
@store_options
def versions(words: tuple[str, ...], backups: tuple[str, ...], as_json: bool, **params: Any) -> int:
    """List every distinct version of one path over all backups, the oldest first.

    PATH is the path inside a backup. Versions differ in their content; each can be read in any of
    its backups. Exit code 1 says that no backup has the path.

    \b
    Examples:
      s3backfs versions s3://bucket/prefix etc/nginx/nginx.conf
      s3backfs versions s3://bucket/prefix report.odt --in 'documents-*' --json
    """
    url, paths = split_url(words, "URL and PATH")
    if len(paths) != 1:
        raise click.UsageError("give one PATH")

    async def act(repository: Repository, report: Report) -> list[Version]:
        from s3backfs.backup.paths import split_path
        from s3backfs.maintenance.finding_paths import find_versions
        from s3backfs.maintenance.shelf import load_shelf

        shelf = await load_shelf(repository.store, repository.keyring)
        path = split_path(os.fsencode(paths[0]))
        return await find_versions(repository, shelf.choose(backups), path, report)

    found = run_reading(url, store_config(params), act)
    if as_json:
        print_json([version_as_json(version) for version in found])
        return 0 if found else 1
    print_table(VERSION_HEADERS, [version_row(version) for version in found])
    for version in found:
        click.echo(f"read it at MOUNTPOINT/{printable(version.backups[-1] + b'/' + version.path)}")
    return 0 if found else 1
