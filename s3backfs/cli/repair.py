"""The verb `repair` and what it repairs."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from s3backfs.cli.options import store_config, store_options, url_argument
from s3backfs.cli.passphrase import prompt_passphrase, take_passphrase
from s3backfs.cli.terminal import print_json, reporting
from s3backfs.config import StoreConfig
from s3backfs.errors import IntegrityError
from s3backfs.store.location import parse_url

if TYPE_CHECKING:
    from s3backfs.maintenance.reindexing import ReindexResult


@click.group
def repair() -> None:
    """Mend what `s3backfs check` has found; mounts may write and read meanwhile.

    \b
    Examples:
      s3backfs repair index s3://bucket/prefix
    """


@repair.command("index")
@url_argument
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
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
            f"{result.added_packs} packs added to the index, "
            f"{result.removed_segments} segments removed or joined"
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
