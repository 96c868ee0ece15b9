"""Many small backups in one repository, without a kernel: `... tests.bench.backups URL COUNT`.

Credentials, passphrase and folders come from the environment, as for a mount.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio

from s3backfs.repository.opening import open_repository
from s3backfs.store.location import parse_url
from s3backfs.store.open import open_store
from tests.crash.machine import booted

_FILES_COUNT = 5


def backup_name(number: int) -> bytes:
    """The name of one of them."""
    return b"night-%06d" % number


async def make_backups(url: str, count: int) -> None:
    """Make and seal them; each has one file of its own, the others are those of all."""
    store = open_store(parse_url(url), endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    try:
        opened = await open_repository(store, lambda: os.environb[b"S3BACKFS_PASSPHRASE"])
        async with booted(store, opened, Path(os.environ["HOME"], "library")) as machine:
            for number in range(count):
                name = backup_name(number)
                await machine.make_backup(name)
                await machine.write_file(name, b"own", data=b"%d\n" % number * 300)
                for other in range(_FILES_COUNT - 1):
                    await machine.write_file(name, b"all%d" % other, data=bytes([other]) * 3000)
                await machine.sync(name)
                (backup,) = machine.catalogue.own_open()
                await machine.catalogue.seal(backup)
            await machine.repository.end_lease()
    finally:
        await store.aclose()


if __name__ == "__main__":
    trio.run(make_backups, sys.argv[1], int(sys.argv[2]))
