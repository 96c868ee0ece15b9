"""The verb `check`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from s3backfs.cli.options import DURATION, store_config, store_options, url_argument
from s3backfs.cli.passphrase import prompt_passphrase, take_passphrase
from s3backfs.cli.progress import quiet_option, reporting
from s3backfs.cli.terminal import format_bytes, plural, print_json, printable
from s3backfs.config import StoreConfig, parse_size
from s3backfs.control import wire_name
from s3backfs.errors import ConfigurationError, IntegrityError, UnsupportedFormatError
from s3backfs.store.location import parse_url

if TYPE_CHECKING:
    from s3backfs.maintenance.checking import CheckOptions
    from s3backfs.maintenance.findings import CheckResult, Damage

PATHS_SHOWN = 20
PATHS_MAX_COUNT = 1000
"""So many names of each backup are kept; the rest is counted."""
_DAY_S = 24 * 3600


def parse_amount(value: str) -> tuple[float, int | None]:
    """Read `5%` or `10GB`: a share, or a number of bytes."""
    try:
        if value.endswith("%"):
            share = float(value[:-1]) / 100
            if 0 <= share <= 1:
                return share, None
        else:
            return 0.0, parse_size(value)
    except (ValueError, ConfigurationError):
        pass
    raise click.BadParameter("--read-data takes a share like 5% or a size like 10GB")


def name_all(words: Sequence[str]) -> list[str]:
    """Give `--read-data` its value where the next word is none, but a URL or a name."""
    named = []
    for word, following in zip(words, (*words, "")[1:], strict=True):
        is_bare = word == "--read-data" and not _is_amount(following)
        named.append(f"{word}=100%" if is_bare else word)
    return named


def _is_amount(word: str) -> bool:
    try:
        parse_amount(word)
    except click.BadParameter:
        return False
    return True


class _Check(click.Command):
    """A command with an option whose value may be left out in front of an argument."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, name_all(args))


@click.command(cls=_Check)
@url_argument
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--read-data", default="0%", metavar="[SHARE|SIZE]",
    help="Read contents too: all, or a share like 5%, or so much; what was not read for longest.",
)  # fmt: skip
@click.option(
    "--since", type=DURATION, default="0s",
    help="Do not read again what was read within this time: to go on after an interruption.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@quiet_option
@store_options
def check(url: str, names: tuple[str, ...], as_json: bool, **params: Any) -> int:
    """Look whether all that backups need is there, and is what was written.

    Structure is always looked at; contents with --read-data. What was read is noted in the
    repository, so that 3% each day covers everything in about a month. It can be interrupted and
    repeated. Exit code 0 says that all is sound, 20 that damage was found, any other that not all
    could be checked: 13 for a wrong passphrase, 14 where a newer program has written, 30 to 37 for
    the store (34: it refuses, 36: it is away), 130 for an interruption.

    \b
    Examples:
      s3backfs check s3://bucket/prefix
      s3backfs check s3://bucket/prefix --read-data=3%
      s3backfs check s3://bucket/prefix web1-monday --read-data --since 1d
    """
    from s3backfs.maintenance.checking import CheckOptions

    share, max_bytes = parse_amount(params["read_data"])
    options = CheckOptions(
        names=tuple(os.fsencode(name) for name in names),
        read_share=share,
        read_max_bytes=max_bytes,
        since_s=params["since"],
    )
    result = _run(parse_url(url).url, store_config(params), options)
    if as_json:
        print_json(_as_json(result))
    else:
        _print(result)
    return _exit_code(result)


def _exit_code(result: CheckResult) -> int:
    """Tell what is damaged from what only a newer program can check."""
    if any(not damage.is_newer for damage in result.damages):
        return IntegrityError.exit_code
    return UnsupportedFormatError.exit_code if result.damages else 0


def _run(url: str, store: StoreConfig, options: CheckOptions) -> CheckResult:
    import trio  # slow to import

    return trio.run(partial(_check, url, store, options))


async def _check(url: str, store: StoreConfig, options: CheckOptions) -> CheckResult:
    from s3backfs.cli.maintaining import opened_for_check
    from s3backfs.maintenance.checking import Check

    with reporting() as report:
        async with opened_for_check(url, store, take_passphrase(), prompt_passphrase) as repository:
            return await Check(repository, options, report).run()


def _as_json(result: CheckResult) -> dict[str, Any]:
    value = asdict(result)
    for damage in value["damages"]:
        damage["pack_id"] = damage["pack_id"].hex()
    for affected in value["affected"]:
        affected["backup"] = wire_name(affected["backup"])
        affected["paths"] = [wire_name(os.fsencode(path)) for path in affected["paths"]]
    return value


def _print(result: CheckResult) -> None:
    for line in damage_lines(result.damages):
        click.echo(line)
    for affected in result.affected:
        click.echo(
            f"backup {printable(affected.backup)}: {plural(affected.paths_count, 'name')} affected"
        )
        for path in affected.paths[:PATHS_SHOWN]:
            click.echo(f"  {printable(path)}")
        if affected.paths_count > PATHS_SHOWN:
            more_count = affected.paths_count - PATHS_SHOWN
            click.echo(f"  ... and {more_count} more (--json lists up to {PATHS_MAX_COUNT})")
    for remedy in dict.fromkeys(damage.remedy for damage in result.damages):
        click.echo(f"remedy: {remedy}")
    for text in result.notes:
        click.echo(f"note: {text}")
    _print_sums(result)


def damage_lines(damages: Iterable[Damage]) -> Iterator[str]:
    """Write one line for all that is wrong with an object in the same way: a pack may be gone."""
    alike: dict[tuple[str, ...], list[Damage]] = {}
    for damage in damages:
        how = "unknown" if damage.is_newer else "damaged"
        alike.setdefault((how, damage.what, damage.key, damage.message), []).append(damage)
    for (how, what, key, message), found in alike.items():
        first = min(damage.offset for damage in found)
        if len(found) > 1:
            yield f"{how}: {len(found)} {what}s of {key}, the first at byte {first}: {message}"
        else:
            where = f"{key} at byte {first}" if first else key
            yield f"{how} {what}: {where}: {message}"


def _print_sums(result: CheckResult) -> None:
    click.echo(
        f"{plural(result.roots, 'backup')}, {plural(result.nodes, 'node')}, "
        f"{plural(result.packs, 'pack')} ({format_bytes(result.packs_bytes)}), "
        f"of which {result.read_packs} ({format_bytes(result.read_bytes)}) were read"
    )
    if result.oldest_unproven_s is not None:
        click.echo(f"oldest unproven byte: {result.oldest_unproven_s // _DAY_S} days")
    newer_count = sum(damage.is_newer for damage in result.damages)
    if newer_count:
        click.echo(f"of a newer format, not checked: {newer_count}")
    damages_count = len(result.damages) - newer_count
    if damages_count or not newer_count:
        click.echo(f"{plural(damages_count, 'damage')} found" if damages_count else "sound")
