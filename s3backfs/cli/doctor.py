"""The verb `doctor`."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from s3backfs.cli.options import store_config, store_options, url_argument
from s3backfs.cli.terminal import format_bytes, print_json, print_table, printable
from s3backfs.config import StoreConfig
from s3backfs.store.location import LocalLocation, parse_url

if TYPE_CHECKING:
    from s3backfs.maintenance.doctor import Diagnosis

NOT_WELL_EXIT_CODE = 40
"""Something that the product does will not work, or a test object could not be removed."""


@click.command
@url_argument
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--no-speed", is_flag=True, help="Do not measure latency and throughput.")
@store_options
def doctor(url: str, as_json: bool, no_speed: bool, **params: Any) -> int:
    """Find out what the server at URL can do, and what these credentials may do there.

    Small objects are written below the prefix, and removed again; URL may be a repository or
    empty. Without --no-speed up to 100 MiB go up and down. Exit code 0 says that everything will
    work, 40 that something will not (it is told what, and what to change), any other that
    nothing could be tried.

    \b
    Examples:
      s3backfs doctor s3://bucket/prefix
      s3backfs doctor s3://bucket --endpoint-url https://s3.example.org --json
    """
    import trio  # slow to import

    diagnosis = trio.run(
        partial(_examine, parse_url(url).url, store_config(params), is_measured=not no_speed)
    )
    if as_json:
        print_json(asdict(diagnosis) | {"is_well": diagnosis.is_well})
    else:
        _print(diagnosis)
    return 0 if diagnosis.is_well else NOT_WELL_EXIT_CODE


async def _examine(url: str, config: StoreConfig, *, is_measured: bool) -> Diagnosis:
    from s3backfs.cli.stores import patient
    from s3backfs.configured_store import bare_store
    from s3backfs.maintenance.examining import Examination
    from s3backfs.store.local_files import leaving_no_trace

    prefix = f"leases/{secrets.token_hex(16)}/doctor/"
    async with bare_store(url, config) as store:
        location = parse_url(url)
        if isinstance(location, LocalLocation):
            with leaving_no_trace(location.directory):
                return await Examination(store, prefix, None).run(is_measured=is_measured)
        from s3backfs.store.s3 import S3Store
        from s3backfs.store.s3_capabilities import S3Trials

        # The trials of encryption ask for it themselves.
        plain = replace(config, sse="none", sse_c_key_file=None)
        async with bare_store(url, plain) as unencrypted:
            assert isinstance(unencrypted, S3Store)
            examination = Examination(
                patient(store, url),
                prefix,
                S3Trials(unencrypted, prefix, kms_key_id=(config.sse or "")[8:]),
            )
            return await examination.run(is_measured=is_measured)


def _print(diagnosis: Diagnosis) -> None:
    print_table(("", ""), _facts(diagnosis))
    click.echo()
    print_table(
        ("capability", "", ""),
        ((row.name, row.verdict.value, printable(row.detail)) for row in diagnosis.capabilities),
    )
    if diagnosis.speeds:
        click.echo()
        print_table((">connections", ">up", ">down"), _speed_rows(diagnosis))
    click.echo()
    print_table(
        ("function", "", ""),
        (
            (function.name, "works" if function.works else "will not work", function.remedy)
            for function in diagnosis.functions
        ),
    )
    for text in _hints(diagnosis):
        click.echo(text)


def _facts(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    known = {True: "a repository is here", False: "no repository is here", None: "not to be seen"}
    yield "url", printable(diagnosis.url)
    yield "repository", known[diagnosis.is_repository]
    if diagnosis.endpoint:
        yield "endpoint", printable(diagnosis.endpoint)
        yield "region", printable(diagnosis.region) or "-"
    if diagnosis.clock_skew_s is not None:
        yield "clock", f"{diagnosis.clock_skew_s:+.0f} s from the server's"
    if diagnosis.latency_ms is not None:
        yield "latency", f"{diagnosis.latency_ms:.1f} ms"


def _speed_rows(diagnosis: Diagnosis) -> Iterator[tuple[str, ...]]:
    for speed in diagnosis.speeds:
        up, down = format_bytes(speed.up_bytes_per_s), format_bytes(speed.down_bytes_per_s)
        yield str(speed.connections), f"{up}/s", f"{down}/s"


def _hints(diagnosis: Diagnosis) -> Iterator[str]:
    suggestion = diagnosis.suggestion
    if suggestion is not None:
        yield (
            f"suggested: --connections {suggestion.connections}, parts of "
            f"{format_bytes(suggestion.part_bytes)} or more"
        )
    for advice in diagnosis.advice:
        yield f"advice: {advice}"
    if diagnosis.left_behind:
        yield f"left behind: {diagnosis.left_behind}"
