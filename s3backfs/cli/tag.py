"""The verb `tag`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from s3backfs.cli.keeping import run_on_store, split_url
from s3backfs.cli.options import store_config, store_options
from s3backfs.cli.terminal import print_json, print_table, printable
from s3backfs.control import wire_name

if TYPE_CHECKING:
    from s3backfs.format.keys import Keyring
    from s3backfs.reporting import Report
    from s3backfs.store.base import Store

Tags = dict[bytes, dict[str, str]]

NOTE = "note"
"""The tag that holds what people say of a backup."""


@click.command
@click.argument("words", nargs=-1, metavar="URL [NAME [TAG[=VALUE]]...]")
@click.option("--remove", multiple=True, metavar="TAG", help="Take a tag away.")
@click.option("--note", "text", metavar="TEXT", help="Set the tag `note`.")
@click.option("--json", "as_json", is_flag=True, help="Print the tags as JSON.")
@store_options
def tag(
    words: tuple[str, ...], remove: tuple[str, ...], text: str | None, as_json: bool, **params: Any
) -> int:
    """Show, set and remove the tags of a backup; without NAME show those of all.

    Open and sealed backups have tags, and keep them when they are renamed, forgotten and brought
    back. `s3backfs forget --keep-tag` keeps what has one. A backup with the tag `locked` cannot be
    forgotten or deleted. In a mount they are extended attributes, user.s3backfs.tag.NAME.

    \b
    Examples:
      s3backfs tag s3://bucket/prefix web1-monday locked release=2.4
      s3backfs tag s3://bucket/prefix web1-monday --note "before the upgrade"
      s3backfs tag s3://bucket/prefix web1-monday --remove locked
      s3backfs tag s3://bucket/prefix
    """
    url, rest = split_url(words, "URL")
    pairs = [(name, value) for name, _, value in (word.partition("=") for word in rest[1:])]
    if text is not None:
        pairs.append((NOTE, text))
    if (pairs or remove) and not rest:
        raise click.UsageError("give the NAME of a backup")

    async def act(store: Store, keyring: Keyring, _report: Report) -> Tags:
        return await _tag(store, keyring, rest[:1], pairs, remove)

    is_change = bool(pairs or remove)
    tags = run_on_store(url, store_config(params), act, may_write=is_change)
    if as_json:
        print_json({wire_name(name): each for name, each in tags.items()})
    else:
        rows = [
            (printable(name), printable(key), printable(value))
            for name, each in tags.items()
            for key, value in each.items()
        ]
        print_table(("backup", "tag", "value"), rows)
    return 0


async def _tag(
    store: Store,
    keyring: Keyring,
    names: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    removed: Sequence[str],
) -> Tags:
    """Change tags where that is asked for, and say which there are."""
    from s3backfs.backup.tags import check_tag, load_tags_of, remove_tag, set_tag
    from s3backfs.maintenance.shelf import load_shelf

    for name, value in [*pairs, *((name, "") for name in removed)]:
        check_tag(name, value)
    shelf = await load_shelf(store, keyring)
    if not names:
        return {each.name: each.tags for each in shelf.backups if each.tags}
    root = shelf.backup(os.fsencode(names[0])).root
    for name, value in pairs:
        await set_tag(store, keyring, root, name, value)
    for name in removed:
        await remove_tag(store, keyring, root, name)
    return {root.name: await load_tags_of(store, keyring, root)}
