"""The verb `prune`."""

from __future__ import annotations

import os
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from s3backfs.cli.options import DURATION, SIZE, store_config, store_options, url_argument
from s3backfs.cli.passphrase import prompt_passphrase, take_passphrase
from s3backfs.cli.progress import quiet_option, reporting
from s3backfs.cli.terminal import format_bytes, plural, print_json
from s3backfs.config import StoreConfig
from s3backfs.store.location import parse_url

if TYPE_CHECKING:
    from s3backfs.maintenance.prune import PruneOptions, PruneResult

PENDING_EXIT_CODE = 6
"""Others have not agreed yet, so that something is left for the next run."""


def _percentage(value: str) -> float:
    share = float(value.rstrip("%")) / 100
    if not 0 <= share <= 1:
        raise ValueError
    return share


@click.command
@url_argument
@click.option(
    "--grace", type=DURATION, default="24h", show_default=True,
    help="How long what is condemned stays, and what is in the trash; 0s: go now.",
)  # fmt: skip
@click.option(
    "--wait", type=DURATION, default="5m", show_default=True,
    help="With --grace 0s, how long to wait for mounts that are at work.",
)  # fmt: skip
@click.option(
    "--max-unused", default="5%", show_default=True, metavar="SHARE",
    help="How much of the stored bytes may be of no use before packs are rewritten.",
)  # fmt: skip
@click.option("--max-repack-bytes", type=SIZE, help="Rewrite no more than this in one run.")
@click.option(
    "--rewrap", is_flag=True,
    help="Rewrite all that is under the keys of older epochs (see s3backfs key rotate).",
)  # fmt: skip
@click.option(
    "--except", "exceptions", multiple=True, metavar="NAME",
    help="A backup that need not be readable; what only it needs is deleted.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would go; change nothing.")
@click.option("--no-delete", is_flag=True, help="Condemn only: for buckets under Object Lock.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@quiet_option
@store_options
def prune(url: str, as_json: bool, **params: Any) -> int:
    """Reclaim what no backup refers to any more; mounts may write and read meanwhile.

    The first run condemns, and a later one, when the grace is over and every mount that is at work
    has agreed, deletes; with --grace 0s one run does both. It can be stopped and repeated at any
    moment. Exit code 6 says that mounts have not agreed yet. Uploads that nobody has completed are
    aborted when they are a day old, whatever --grace says: they may be under way.

    After `key rotate`, --rewrap brings packs and index under the new key. Sealed roots, which hold
    names and small directories, and tags are never replaced: they stay under the key they were
    written with. What --max-repack-bytes leaves is for the next run; until the grace is over the
    bucket holds both. Mounts from before the rotation do not agree: mount anew.

    \b
    Examples:
      s3backfs prune s3://bucket/prefix
      s3backfs prune s3://bucket/prefix --dry-run
      s3backfs prune s3://bucket/prefix --grace 0s --max-unused 0%
      s3backfs prune s3://bucket/prefix --rewrap --max-repack-bytes 50G
    """
    store = store_config(params)
    result = _run(parse_url(url).url, store, params)
    if as_json:
        print_json(asdict(result))
    else:
        _print(result, is_dry_run=params["dry_run"])
    return PENDING_EXIT_CODE if result.waiting_for else 0


def _run(url: str, store: StoreConfig, params: dict[str, Any]) -> PruneResult:
    import trio  # slow to import

    from s3backfs.maintenance.prune import PruneOptions

    try:
        max_unused = _percentage(params["max_unused"])
    except ValueError:
        raise click.BadParameter("--max-unused is a share like 5%") from None
    options = PruneOptions(
        grace_s=params["grace"],
        wait_s=params["wait"],
        max_unused=max_unused,
        max_repack_bytes=params["max_repack_bytes"],
        rewrap=params["rewrap"],
        is_dry_run=params["dry_run"],
        no_delete=params["no_delete"],
        exceptions=tuple(os.fsencode(name) for name in params["exceptions"]),
    )
    return trio.run(partial(_prune, url, store, options))


async def _prune(url: str, store: StoreConfig, options: PruneOptions) -> PruneResult:
    from s3backfs.cli.maintaining import opened_for_maintenance
    from s3backfs.maintenance.prune import Prune

    with reporting() as report:
        async with opened_for_maintenance(
            url, store, take_passphrase(), prompt_passphrase
        ) as maintained:
            pack_bytes = maintained.parameters.pack_bytes
            return await Prune(maintained.repository, options, pack_bytes, report).run()


def _print(result: PruneResult, *, is_dry_run: bool) -> None:
    would = "would be " if is_dry_run else ""
    click.echo(
        f"{plural(result.roots, 'backup')}, {plural(result.packs, 'pack')}, "
        f"{format_bytes(result.packs_bytes)}, "
        f"of which {format_bytes(result.unused_bytes)} of no use"
    )
    click.echo(
        f"{plural(result.condemned_packs, 'pack')} {would}condemned "
        f"({format_bytes(result.condemned_bytes)}), {result.deleted_packs} deleted "
        f"({format_bytes(result.deleted_bytes)}), {result.copied_packs} rewritten"
    )
    if result.older_packs:
        click.echo(
            f"{plural(result.older_packs, 'pack')} under older keys "
            f"({format_bytes(result.older_bytes)}), "
            f"{result.rewrapped_packs} of them {would}rewritten"
        )
    if result.young_older_packs:
        click.echo(
            f"{plural(result.young_older_packs, 'pack')} younger than --grace left under older "
            "keys: run it again when they are older, or with a shorter --grace"
        )
    if result.waiting_for:
        click.echo(f"waiting for mounts on: {', '.join(result.waiting_for)}; run prune again later")
    elif result.pending_sets:
        click.echo(f"{plural(result.pending_sets, 'condemned set')} left until the grace is over")
