"""The verbs `key export` and `key import`: repository.json and the key slots as one file.

Without them a repository is lost, and they are small; the file opens only by what opens a slot in
it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s3backfs.cli.keyed import run_keyed
from s3backfs.cli.options import store_config, store_options, url_argument
from s3backfs.cli.passphrase import passphrase_reader, take_passphrase
from s3backfs.cli.terminal import note
from s3backfs.config import StoreConfig, default_state_dir, make_private_dir
from s3backfs.errors import ConfigurationError
from s3backfs.store.location import parse_url

if TYPE_CHECKING:
    from s3backfs.repository.key_backup import Imported

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("export")
@url_argument
@click.option("--output", required=True, type=_FILE, metavar="FILE", help="A new file.")
@store_options
def export_keys(url: str, output: Path, **params: Any) -> None:
    """Write repository.json and the sound key slots to a file, to be kept apart from the bucket.

    The master key in it is wrapped as it is in the bucket: it takes a passphrase to use it. Export
    anew after each change of the keys.

    \b
    Examples:
      s3backfs key export s3://bucket/prefix --output /media/stick/backups.keys
    """
    from s3backfs.repository.key_backup import export_slots

    # Old keys that somebody has put back are not worth keeping.
    data = run_keyed(url, store_config(params), export_slots)
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigurationError(f"{output}: cannot be made: {error.strerror}") from error
    note(f"wrote {output}")


@click.command("import")
@url_argument
@click.option("--input", "source", required=True, type=_FILE, metavar="FILE")
@store_options
def import_keys(url: str, source: Path, **params: Any) -> None:
    """Put back what is missing of repository.json and the key slots in a file of `key export`.

    Nothing sound that is there is replaced, and nothing is put into another repository or after a
    rotation that the file does not know.

    \b
    Examples:
      s3backfs key import s3://bucket/prefix --input /media/stick/backups.keys
    """
    try:
        data = source.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{source}: cannot be read: {error.strerror}") from error
    done = _import(url, store_config(params), data)
    if done.has_restored_parameters:
        note("put back repository.json")
    note(f"put back {len(done.slot_ids)} key slots {' '.join(name[:8] for name in done.slot_ids)}")


def _import(url: str, config: StoreConfig, data: bytes) -> Imported:
    import trio  # slow to import

    from s3backfs.backup.newest_key import find_newer, has_roots
    from s3backfs.cli.stores import opened_store
    from s3backfs.key_service import unwrapper
    from s3backfs.repository.key_backup import import_slots, open_backup
    from s3backfs.repository.pins import check_place

    known = take_passphrase()

    async def open_and_import() -> Imported:
        keys = await open_backup(
            data,
            passphrase_reader(known),
            make_private_dir(default_state_dir()),
            unwrap=unwrapper(config),
        )
        async with opened_store(parse_url(url).url, config) as store:
            check_place(default_state_dir(), store, keys.opened.keyring)
            done = await import_slots(keys, store)
            if done.has_restored_parameters and not await has_roots(store):
                note(
                    f"there is no backup in {store.url}: if that is the wrong place, delete "
                    "repository.json and keys/ there, and import to the right one"
                )
            newer = await find_newer(store, keys.keyring)
            if newer is not None:
                note(f"{newer}; take an export that was made since, or mount with --read-only")
            return done

    return trio.run(open_and_import)
