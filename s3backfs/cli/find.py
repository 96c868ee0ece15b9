"""The verb `find`."""

from __future__ import annotations

import os
import re
from fnmatch import translate
from typing import TYPE_CHECKING, Any

import click

from s3backfs.cli.finding import VERSION_HEADERS, moment_option, version_as_json, version_row
from s3backfs.cli.keeping import run_reading, split_url
from s3backfs.cli.options import store_config, store_options
from s3backfs.cli.progress import quiet_option
from s3backfs.cli.terminal import print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from s3backfs.backup.versions import Version
    from s3backfs.reporting import Report
    from s3backfs.repository.repository import Repository


@click.command
@click.argument("words", nargs=-1, metavar="URL PATTERN")
@click.option(
    "--newer", callback=moment_option, metavar="TIME",
    help="Only what was modified since: 2026-11-21, 2026-11-21T06:00, or 30d ago.",
)  # fmt: skip
@click.option("--in", "backups", multiple=True, metavar="NAME", help="Only in these; a pattern.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@quiet_option
@store_options
def find(
    words: tuple[str, ...],
    newer: int | None,
    backups: tuple[str, ...],
    as_json: bool,
    **params: Any,
) -> int:
    """Find paths by a shell pattern in all backups, and say which versions there are.

    A pattern with a slash is held against whole paths (`*` stands for slashes too), another one
    against names. What backups share is looked through once. Exit code 1 says that nothing was
    found.

    \b
    Examples:
      s3backfs find s3://bucket/prefix '*.conf'
      s3backfs find s3://bucket/prefix 'etc/*/default' --newer 30d --in 'web1-*'
    """
    url, patterns = split_url(words, "URL and PATTERN")
    if len(patterns) != 1:
        raise click.UsageError("give one PATTERN, in quotes")
    is_wanted = path_test(os.fsencode(patterns[0]))

    async def act(repository: Repository, report: Report) -> list[Version]:
        from s3backfs.maintenance.finding_paths import find_paths
        from s3backfs.maintenance.shelf import load_shelf

        shelf = await load_shelf(repository.store, repository.keyring)
        return await find_paths(repository, shelf.choose(backups), is_wanted, newer, report)

    versions = run_reading(url, store_config(params), act)
    if as_json:
        print_json([version_as_json(version) for version in versions])
    else:
        print_table(VERSION_HEADERS, [version_row(version) for version in versions])
    return 0 if versions else 1


def path_test(pattern: bytes) -> Callable[[bytes], bool]:
    """Make of a pattern what tells whether a path fits."""
    is_whole = b"/" in pattern
    text = pattern.strip(b"/") if is_whole else pattern
    matcher = re.compile(translate(text.decode("latin-1")).encode("latin-1"), re.DOTALL)
    if is_whole:
        return lambda path: matcher.match(path) is not None
    return lambda path: path != b"." and matcher.match(path.rpartition(b"/")[2]) is not None
