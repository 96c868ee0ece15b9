"""The verb `init`."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from s3backfs.cli.options import COMPRESSION, SIZE, store_config, store_options, url_argument
from s3backfs.cli.passphrase import prompt_passphrase, take_passphrase
from s3backfs.config import CreateConfig, Secret
from s3backfs.errors import ConfigurationError
from s3backfs.store.location import parse_url


@click.command()
@url_argument
@click.option(
    "--encryption", type=click.Choice(["aes256-gcm", "none"]), default="aes256-gcm",
    show_default=True, help="none: whoever reads the bucket reads the backups.",
)  # fmt: skip
@click.option(
    "--compression", type=COMPRESSION, default="zstd", show_default=True,
    help="zstd[:LEVEL] or none.",
)  # fmt: skip
@click.option(
    "--chunk-size", type=SIZE, default="1MiB", show_default=True, help="Average size of chunks."
)
@click.option(
    "--pack-size", type=SIZE, default="64MiB", show_default=True, help="Size of S3 objects."
)
@store_options
def init(url: str, **params: Any) -> None:
    """Make a repository at URL.

    URL is s3://BUCKET/PREFIX or file:///DIRECTORY. The bucket must exist, and nothing may lie
    below the prefix. Keep the passphrase: without it nothing can be read again.

    \b
    Examples:
      s3backfs init s3://bucket/prefix
      s3backfs init file:///srv/nas/backups --compression zstd:9
      AWS_ENDPOINT_URL=https://s3.example.org s3backfs init s3://bucket
    """
    store = store_config(params)
    config = CreateConfig(
        url=parse_url(url).url,
        store=store,
        is_encrypted=params["encryption"] != "none",
        compression=params["compression"],
        chunk_bytes=params["chunk_size"],
        pack_bytes=params["pack_size"],
    )
    repository_id = _create(config, _passphrase(config))
    click.echo(f"made repository {repository_id} at {config.url}")


def _passphrase(config: CreateConfig) -> Secret | None:
    known = take_passphrase()
    if config.is_encrypted:
        return known or prompt_passphrase(is_new=True)
    if known is not None:
        raise ConfigurationError(
            "--encryption none takes no passphrase; unset it in the environment"
        )
    return None


def _create(config: CreateConfig, passphrase: Secret | None) -> str:
    import trio  # slow to import

    from s3backfs.cli.stores import create

    return trio.run(partial(create, config, passphrase))
