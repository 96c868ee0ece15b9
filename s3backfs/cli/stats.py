"""The verb `stats`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s3backfs.cli.keeping import run_reading, split_url
from s3backfs.cli.options import store_config, store_options
from s3backfs.cli.progress import quiet_option
from s3backfs.cli.terminal import format_bytes, plural, print_json, print_table, printable
from s3backfs.control import wire_name

if TYPE_CHECKING:
    from s3backfs.maintenance.prices import Cost, PriceTable
    from s3backfs.maintenance.usage import Usage
    from s3backfs.reporting import Report
    from s3backfs.repository.repository import Repository

_DAY_S = 24 * 3600
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command
@click.argument("words", nargs=-1, metavar="URL [NAME]...")
@click.option(
    "--by", type=click.Choice(["backup", "host", "month"]), default="backup", show_default=True,
    help="What one row is.",
)  # fmt: skip
@click.option("--prices", type=_FILE, metavar="FILE", help="Take prices from this file.")
@click.option("--print-prices", is_flag=True, help="Print the table of prices, to edit it.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@quiet_option
@store_options
def stats(
    words: tuple[str, ...],
    by: str,
    prices: Path | None,
    print_prices: bool,
    as_json: bool,
    **params: Any,
) -> int:
    """Say what backups take: unique and new bytes, ratios, growth, and what a month will cost.

    Unique bytes are those that prune would free if all of a row were forgotten; new ones those that
    no older row had. The costs take the next month for one like the last 30 days, and count what
    a listing shows and the requests that stored it: not older versions of objects, nor what mounts
    renew that stay up. Restoring is one reading of everything. NAME is a pattern.

    \b
    Examples:
      s3backfs stats s3://bucket/prefix
      s3backfs stats s3://bucket/prefix --by month --json
      s3backfs stats --print-prices > prices.toml
      s3backfs stats s3://bucket/prefix --prices prices.toml
    """
    from s3backfs.maintenance.prices import PRICES_TOML, load_prices, project_costs

    if print_prices:
        click.echo(PRICES_TOML, nl=False)
        return 0
    url, names = split_url(words, "URL")
    table = load_prices(prices)

    async def act(repository: Repository, report: Report) -> Usage:
        from s3backfs.maintenance.shelf import load_shelf
        from s3backfs.maintenance.usage import GroupBy, measure

        report("reading roots")
        shelf = await load_shelf(repository.store, repository.keyring)
        return await measure(repository, shelf.choose(names), GroupBy(by), report)

    usage = run_reading(url, store_config(params), act)
    objects = usage.objects
    costs = project_costs(table, objects.total_bytes, objects.growth_bytes, objects.puts)
    if as_json:
        print_json(_as_json(usage, table, costs))
    else:
        _print(usage, by, table, costs)
    return 0


def _as_json(usage: Usage, table: PriceTable, costs: list[Cost]) -> dict[str, Any]:
    value = asdict(usage)
    for group in value["groups"]:
        group["name"] = wire_name(group["name"])
    value["currency"] = table.currency
    value["monthly_costs"] = {
        cost.storage_class: {
            "storage": cost.storage,
            "requests": cost.requests,
            "restore": cost.restore,
        }
        for cost in costs
    }
    return value


def _print(usage: Usage, by: str, table: PriceTable, costs: list[Cost]) -> None:
    rows = [
        (
            printable(group.name),
            str(group.backups_count),
            str(group.files_count),
            format_bytes(group.logical_bytes),
            format_bytes(group.unique_bytes),
            format_bytes(group.added_bytes),
        )
        for group in usage.groups
    ]
    print_table((by, ">backups", ">files", ">size", ">unique", ">new"), rows)
    objects = usage.objects
    click.echo(
        f"{format_bytes(usage.logical_bytes)} in backups, {format_bytes(usage.referenced_bytes)} "
        f"stored for them, of which {format_bytes(usage.shared_bytes)} shared; "
        f"deduplication {usage.deduplication:.2f}, compression {usage.compression:.2f}"
    )
    click.echo(
        f"{plural(objects.count, 'object')} with {format_bytes(objects.total_bytes)} in the "
        f"bucket, {format_bytes(usage.unused_bytes)} of no use to these backups; "
        f"growth {format_bytes(objects.growth_bytes)} a month"
    )
    if len(usage.epochs) > 1:
        told = (f"{plural(use.packs, 'pack')} under epoch {use.epoch}" for use in usage.epochs)
        click.echo(f"keys: {', '.join(told)} (s3backfs prune --rewrap)")
    if usage.oldest_unproven_s is not None:
        days = usage.oldest_unproven_s // _DAY_S
        click.echo(f"oldest unproven byte: {days} days (s3backfs check --read-data)")
    for cost in costs:
        click.echo(
            f"{cost.storage_class}: {cost.month:.2f} {table.currency} a month "
            f"(storage {cost.storage:.2f}, requests {cost.requests:.2f}); "
            f"restoring all {cost.restore:.2f}"
        )
