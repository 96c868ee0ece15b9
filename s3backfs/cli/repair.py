"""The verb `repair` and what it repairs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s3backfs.cli.options import DURATION, store_config, store_options, url_argument
from s3backfs.cli.passphrase import prompt_passphrase, take_passphrase
from s3backfs.cli.progress import quiet_option, reporting
from s3backfs.cli.prune import PENDING_EXIT_CODE
from s3backfs.cli.terminal import plural, print_json, printable
from s3backfs.config import StoreConfig
from s3backfs.errors import ConfigurationError, IntegrityError
from s3backfs.store.location import parse_url

if TYPE_CHECKING:
    from s3backfs.maintenance.mending import MendResult
    from s3backfs.maintenance.rebuilding import RebuildResult
    from s3backfs.maintenance.reindexing import ReindexResult


@click.group
def repair() -> None:
    """Mend what `s3backfs check` has found; mounts may write and read meanwhile.

    \b
    Examples:
      s3backfs repair index s3://bucket/prefix
      s3backfs repair pack data/0123456789abcdef0123456789abcdef s3://bucket/prefix --from /home
      s3backfs repair backup web1-monday s3://bucket/prefix
    """


@repair.command("index")
@url_argument
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@quiet_option
@store_options
def index(url: str, as_json: bool, **params: Any) -> int:
    """Rebuild the index from the packs themselves.

    Exit code 20 says that tables of packs cannot be read; what those hold is not deduplicated
    against.

    \b
    Examples:
      s3backfs repair index s3://bucket/prefix
    """
    result = _run(parse_url(url).url, store_config(params))
    if as_json:
        print_json(asdict(result))
    else:
        for key in result.unreadable:
            click.echo(f"{key}: its table cannot be read")
        click.echo(
            f"{plural(result.added_packs, 'pack')} added to the index, "
            f"{plural(result.removed_segments, 'segment')} removed or joined"
        )
    return IntegrityError.exit_code if result.unreadable else 0


def _run(url: str, store: StoreConfig) -> ReindexResult:
    import trio  # slow to import

    return trio.run(partial(_repair_index, url, store))


async def _repair_index(url: str, store: StoreConfig) -> ReindexResult:
    from s3backfs.cli.maintaining import opened_for_maintenance
    from s3backfs.maintenance.reindexing import repair_index

    with reporting() as report:
        async with opened_for_maintenance(
            url, store, take_passphrase(), prompt_passphrase
        ) as maintained:
            return await repair_index(maintained.repository, report)


@repair.command("pack")
@click.argument("packs", nargs=-1, required=True, metavar="PACK...")
@url_argument
@click.option(
    "--from", "places", multiple=True, metavar="DIR|URL",
    help="Where lost contents may still be: backed-up files, or a copy of the bucket.",
)  # fmt: skip
@click.option(
    "--wait", type=DURATION, default="5m", show_default=True,
    help="How long to wait for mounts that are at work.",
)  # fmt: skip
@click.option(
    "--except", "exceptions", multiple=True, metavar="NAME",
    help="A backup that need not be readable; what only it needs is not kept.",
)  # fmt: skip
@click.option("--no-delete", is_flag=True, help="Leave the packs: for buckets under Object Lock.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@quiet_option
@store_options
def pack(packs: tuple[str, ...], url: str, as_json: bool, **params: Any) -> int:
    """Copy what is readable in damaged packs, or is found elsewhere, and remove the packs.

    What is lost is looked for in the other packs, where a later backup may have stored it again,
    and then in the places given. So after the next backup it can help to run it once more.

    PACK is a key as `s3backfs check` shows it: data/<id> or meta/<id>. Exit code 20 says that
    something is lost: reading it gives EIO, and the next backup stores it again. Exit code 6 says
    that mounts have not agreed yet: run it again later.

    \b
    Examples:
      s3backfs repair pack data/0123456789abcdef0123456789abcdef s3://bucket/prefix
      s3backfs repair pack data/0123456789abcdef0123456789abcdef s3://bucket/prefix --from /home
      s3backfs repair pack data/0123456789abcdef0123456789abcdef file:///nas --from s3://copy/nas
    """
    import trio  # slow to import

    url = parse_url(url).url
    result = trio.run(partial(_repair_pack, packs, url, store_config(params), params))
    if as_json:
        print_json(asdict(result))
    else:
        _print_mended(result)
    if result.lost:
        return IntegrityError.exit_code
    return PENDING_EXIT_CODE if result.waiting_for else 0


async def _repair_pack(
    packs: Sequence[str], url: str, store: StoreConfig, params: dict[str, Any]
) -> MendResult:
    from s3backfs.cli.maintaining import opened_for_maintenance
    from s3backfs.cli.stores import opened_store
    from s3backfs.maintenance.elsewhere import BucketCopy, Elsewhere, SourceTree
    from s3backfs.maintenance.mending import MendOptions, PackRepair

    options = MendOptions(
        wait_s=params["wait"],
        no_delete=params["no_delete"],
        exceptions=tuple(os.fsencode(name) for name in params["exceptions"]),
    )
    with reporting() as report:
        async with (
            AsyncExitStack() as copies,
            opened_for_maintenance(url, store, take_passphrase(), prompt_passphrase) as maintained,
        ):
            repository = maintained.repository
            elsewhere: list[Elsewhere] = []
            for place in params["places"]:
                if "://" in place:
                    copy = await copies.enter_async_context(opened_store(place, store))
                    elsewhere.append(BucketCopy(copy, repository))
                else:
                    root = _source_directory(place)
                    elsewhere.append(SourceTree(root, repository.keyring, repository.chunk_bounds))
            return await PackRepair(repository, options, elsewhere, report).run(packs)


def _source_directory(place: str) -> Path:
    """The directory of a source.

    Raises:
        ConfigurationError: there is none.
    """
    root = Path(place)
    if not root.is_dir():
        raise ConfigurationError(f"{place}: there is no such directory")
    return root


def _print_mended(result: MendResult) -> None:
    for key in result.sound_packs:
        click.echo(f"{key}: is sound, and stays as it is")
    click.echo(
        f"{plural(result.salvaged, 'content')} salvaged, {result.recreated} found elsewhere, "
        f"{result.lost} lost"
    )
    for key in result.deleted_packs:
        click.echo(f"{key}: deleted")
    for key in result.gone_packs:
        click.echo(f"{key}: was gone; what was found is read from other packs now")
    for key in result.kept_packs:
        click.echo(f"{key}: stays, and no new backup refers to it")
    for note in result.notes:
        click.echo(note)
    if result.waiting_for:
        click.echo(f"waiting for mounts on: {', '.join(result.waiting_for)}; run it again later")


@repair.command("backup")
@click.argument("name")
@url_argument
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@quiet_option
@store_options
def backup(name: str, url: str, as_json: bool, **params: Any) -> int:
    """Make NAME-repaired of all names of a backup that can still be read; NAME itself stays.

    The new backup is marked as incomplete. Directories whose own entries are lost are made anew,
    for their owner only; contents that are lost give EIO. Exit code 20 says that something is lost.

    \b
    Examples:
      s3backfs repair backup web1-monday s3://bucket/prefix
    """
    import trio  # slow to import

    url = parse_url(url).url
    result = trio.run(partial(_repair_backup, os.fsencode(name), url, store_config(params)))
    if as_json:
        print_json(asdict(result))
    else:
        _print_rebuilt(result)
    return IntegrityError.exit_code if result.lost else 0


async def _repair_backup(name: bytes, url: str, store: StoreConfig) -> RebuildResult:
    from s3backfs.cli.maintaining import opened_for_maintenance
    from s3backfs.maintenance.rebuilding import Rebuild
    from s3backfs.maintenance.shelf import load_shelf

    with reporting() as report:
        async with opened_for_maintenance(
            url, store, take_passphrase(), prompt_passphrase
        ) as maintained:
            repository = maintained.repository
            shelf = await load_shelf(repository.store, repository.keyring)
            return await Rebuild(repository, report).run(shelf.backup(name).held)


def _print_rebuilt(result: RebuildResult) -> None:
    for path in result.lost:
        click.echo(f"not whole: {printable(path)}")
    if not result.name:
        click.echo("every name of this backup can be read; nothing was made")
        return
    click.echo(
        f"{printable(result.name)}: {plural(result.entries, 'name')}, of which "
        f"{result.lost_contents} without their contents and {result.made_directories} "
        f"directories made anew; {plural(result.lost_names, 'more name')} lost"
    )
