"""Read a whole repository with the program, without a kernel, and describe what is in it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from s3backfs.backup.backup import Backup
from s3backfs.backup.catalogue import Catalogue
from s3backfs.backup.content_tree import ExtentReader
from s3backfs.backup.live import LiveNodes
from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.manifest.entry import Entry, extra_of, is_link_name
from s3backfs.manifest.keys import LINK_PREFIX, split_key
from s3backfs.repository.opening import open_repository
from s3backfs.repository.repository import RepositoryOptions, open_for_mount
from s3backfs.store.local import LocalStore
from tests.golden.golden import PASSPHRASE
from tests.golden.source import TYPES, Description


@asynccontextmanager
async def opened(
    directory: Path, scratch: Path, passphrase: bytes = PASSPHRASE
) -> AsyncIterator[Catalogue]:
    """Hold a repository open as a read-only mount does."""
    options = RepositoryOptions(
        scratch / "state", scratch / "cache", 1 << 24, 1 << 26, is_read_only=True, level=None
    )
    store = LocalStore(directory)
    ready = await open_repository(store, lambda: passphrase)
    async with open_for_mount(store, ready, options) as repository:
        live = LiveNodes(repository.keyring)
        catalogue = Catalogue(RepositoryNodes(repository), live, is_read_only=True)
        await catalogue.refresh(is_forced=True)
        yield catalogue


async def entries(backup: Backup) -> list[tuple[str, Entry, Entry]]:
    """Every path with what its name holds and what it means, as the manifest sorts them."""
    found = []
    async for key, entry in backup.items(b"", b"\xff" * 300):
        if not key.startswith(LINK_PREFIX):
            record = await backup.find(LINK_PREFIX + link) if (link := link_of(entry)) else None
            loaded = record or await backup.find(key)
            assert loaded is not None
            found.append((path_of(key), entry, loaded))
    return found


def link_of(entry: Entry) -> bytes | None:
    return extra_of(entry).link_id if is_link_name(entry) else None


def path_of(key: bytes) -> str:
    prefix, name = split_key(key)
    return os.fsdecode(prefix.replace(b"\0", b"/") + name)


async def content(backup: Backup, entry: Entry) -> bytes:
    """The bytes of a file, holes and all."""
    if entry.inline is not None:
        return entry.inline
    extents, tree = entry.extents, extra_of(entry).extent_tree
    if tree is not None:
        extents = tuple(await ExtentReader(backup.nodes, tree).touching(0, entry.size))
    whole = bytearray(entry.size)
    for extent in extents:
        assert extent.content is not None
        piece = await backup.repository.read(extent.content, extent.content_offset, extent.length)
        whole[extent.file_offset : extent.end] = piece
    return bytes(whole)


async def describe(backup: Backup) -> dict[str, Description]:
    """Describe a backup in the words of `source.describe`."""
    first: dict[bytes, str] = {}
    told = {}
    for path, named, entry in sorted(await entries(backup), key=sort_key):
        told[path] = await describe_one(backup, entry)
        if link := link_of(named):
            told[path]["links"] = extra_of(entry).nlink
            told[path]["same_as"] = first.setdefault(link, path)
    return told


def sort_key(row: tuple[str, Entry, Entry]) -> list[str]:
    return row[0].split("/") if row[0] else []


async def describe_one(backup: Backup, entry: Entry) -> Description:
    kind = TYPES[stat.S_IFMT(entry.mode)]
    extra = extra_of(entry)
    told: dict[str, Any] = {
        "type": kind,
        "mode": f"{stat.S_IMODE(entry.mode):04o}",
        "mtime_ns": entry.mtime_ns,
    }
    if (entry.uid, entry.gid) != (0, 0):
        told["owner"] = [entry.uid, entry.gid]
    if kind == "file":
        digest = hashlib.sha256(await content(backup, entry)).hexdigest()
        told |= {"size": entry.size, "sha256": digest}
    if kind == "symlink":
        told["target"] = os.fsdecode(entry.inline or b"")
    if kind == "device":
        told["device"] = [os.major(extra.rdev), os.minor(extra.rdev)]
    if extra.xattrs:
        told["xattrs"] = {
            os.fsdecode(name): value.hex() for name, value in sorted(extra.xattrs.items())
        }
    return told
