"""The verb `init`."""

from __future__ import annotations

from typing import Any

import click

from s3backfs.cli.new_key import KeyChoice, make_new_key
from s3backfs.cli.options import (
    COMPRESSION,
    KMS_VARIABLE,
    SIZE,
    store_config,
    store_options,
    url_argument,
)
from s3backfs.cli.passphrase import prompt_passphrase, take_passphrase
from s3backfs.cli.terminal import note
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
@click.option("--raw-key", is_flag=True, help="What is given is a key: 64 hexadecimal digits.")
@click.option("--kms-key", metavar="ARN", help="Let a key of AWS KMS open it, not a passphrase.")
@store_options
def init(url: str, **params: Any) -> None:
    """Make a repository at URL.

    URL is s3://BUCKET/PREFIX or file:///DIRECTORY. The bucket must exist, and nothing may lie
    below the prefix. Keep the passphrase: without it nothing can be read again.

    \b
    Examples:
      s3backfs init s3://bucket/prefix
      s3backfs init s3://bucket --kms-key arn:aws:kms:eu-west-1:111122223333:key/KEY
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
    choice = KeyChoice(is_raw=params["raw_key"], kms_key=params["kms_key"])
    known = _passphrase(config, choice)
    repository_id = _create(config, choice, known)
    click.echo(f"made repository {repository_id} at {config.url}")
    if choice.kms_key:
        note(f"to open it, set {KMS_VARIABLE}={choice.kms_key}")


def _passphrase(config: CreateConfig, choice: KeyChoice) -> Secret | None:
    known = take_passphrase()
    if config.is_encrypted:
        return known if known or choice.kms_key else prompt_passphrase(is_new=True)
    if known is not None or choice.is_raw or choice.kms_key:
        raise ConfigurationError(
            "--encryption none takes no passphrase and no key; unset it in the environment"
        )
    return None


def _create(config: CreateConfig, choice: KeyChoice, known: Secret | None) -> str:
    import trio  # slow to import

    from s3backfs.cli.stores import create

    async def make_and_create() -> str:
        if not config.is_encrypted:
            return await create(config, None)
        new = await make_new_key(choice, config.store, lambda: known or prompt_passphrase())
        return await create(config, new)

    return trio.run(make_and_create)
