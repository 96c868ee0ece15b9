"""The trash: forgotten backups, and bringing them back.

Prune removes what is older than its grace, by the store's clock, and then looks at all roots. So
who brings a backup back keeps prune from beginning, as two prunes keep each other.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from s3backfs.backup.finding import list_roots
from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.backup.removals import removal_key
from s3backfs.backup.roots import SEALED_PREFIX
from s3backfs.backup.trash import TRASH_PREFIX
from s3backfs.errors import (
    ConfigurationError,
    IntegrityError,
    ObjectMissingError,
    PreconditionFailedError,
    RepositoryExistsError,
    S3backfsError,
    UnsupportedFormatError,
)
from s3backfs.format.keys import Keyring
from s3backfs.format.root import Root
from s3backfs.maintenance.agreement import Agreement
from s3backfs.maintenance.survey import decode_trashed
from s3backfs.reporting import Report
from s3backfs.repository.repository import Repository
from s3backfs.store.base import IfAbsent, Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trashed:
    """A forgotten root; `forgotten_ns` by the store's clock. Damaged ones have an error instead."""

    name: bytes
    key: str
    forgotten_ns: int
    root: Root | None
    data: bytes = b""
    error: S3backfsError | None = None


async def list_trash(store: Store, keyring: Keyring) -> list[Trashed]:
    """Read all that is in the trash, what was forgotten last first.

    Raises:
        StoreError: the store would not list or give.
    """
    found = []
    async for page in store.list(TRASH_PREFIX):
        for listed in page:
            trashed = await _load(store, keyring, listed.key, listed.modified_ns)
            if trashed is not None:
                found.append(trashed)
    return sorted(found, key=lambda each: (each.forgotten_ns, each.key), reverse=True)


async def _load(store: Store, keyring: Keyring, key: str, modified_ns: int) -> Trashed | None:
    try:
        name = keyring.decode_name(key.rpartition("/")[2])
    except IntegrityError:
        log.warning("%s is not a root of this repository", key)
        return None
    try:
        data = (await store.get(key)).data
        return Trashed(name, key, modified_ns, decode_trashed(keyring, key, data), data)
    except ObjectMissingError:
        return None
    except (IntegrityError, UnsupportedFormatError) as error:
        return Trashed(name, key, modified_ns, None, error=error)


def choose(trash: Sequence[Trashed], names: Sequence[bytes]) -> list[Trashed]:
    """Of each name what was forgotten last; without names, of all.

    Raises:
        ConfigurationError: a name is not in the trash.
    """
    newest: dict[bytes, Trashed] = {}
    for each in trash:
        newest.setdefault(each.name, each)
    for name in names:
        if name not in newest:
            shown = name.decode("utf-8", "backslashreplace")
            raise ConfigurationError(
                f"{shown!r} is not in the trash; `s3backfs unforget --list` shows it"
            )
    return [newest[name] for name in (dict.fromkeys(names) if names else newest)]


async def unforget(
    repository: Repository, names: Sequence[bytes], report: Report
) -> tuple[list[bytes], dict[bytes, S3backfsError]]:
    """Bring back the backups named, or all, and say which came and why others did not.

    Raises:
        RepositoryBusyError: a prune is at work.
        ConfigurationError: a name is not in the trash; none has come back.
    """
    agreement = Agreement(repository)
    await agreement.begin()
    back: list[bytes] = []
    failed: dict[bytes, S3backfsError] = {}
    try:
        for trashed in choose(await list_trash(repository.store, repository.keyring), names):
            report("bringing back " + trashed.name.decode("utf-8", "backslashreplace"))
            try:
                await bring_back(repository, trashed)
                back.append(trashed.name)
            except S3backfsError as error:
                failed[trashed.name] = error
    finally:
        await agreement.end()
    return back, failed


async def bring_back(repository: Repository, trashed: Trashed) -> None:
    """Make a forgotten backup one of the sealed ones again, while no prune is at work.

    Raises:
        LeaseLapsedError: this process was away for so long that a prune may have begun.
        RepositoryExistsError: its name is taken.
        IntegrityError: its root or the top of its tree cannot be read; it stays in the trash.
        ObjectMissingError: prune has removed it meanwhile.
    """
    store, keyring = repository.store, repository.keyring
    if trashed.root is None:
        raise trashed.error or IntegrityError("the root is damaged", key=trashed.key)
    await _check_reads(repository, trashed.root)
    await _check_free(store, keyring, trashed)
    key = SEALED_PREFIX + keyring.encode_name(trashed.name)
    if repository.lease is not None:
        repository.lease.check()
    try:
        await store.put(key, trashed.data, condition=IfAbsent())
    except PreconditionFailedError:
        raise _taken(trashed) from None
    if (await store.get(key)).data != trashed.data:
        raise _taken(trashed)
    await _check_was_there(store, trashed)
    note = removal_key(trashed.root.owner.nonce)
    await store.delete([*await _copies(store, keyring, trashed), note])


async def _check_reads(repository: Repository, root: Root) -> None:
    """Read the first node that is not in the root itself."""
    if root.top is None:
        return
    nodes = RepositoryNodes(repository).entries
    node = await nodes.load_top(root.top)
    if root.top.ref is None and node.height:
        await nodes.load(node.value(0), node.height - 1)


async def _check_free(store: Store, keyring: Keyring, trashed: Trashed) -> None:
    if trashed.name in await list_roots(store, keyring):
        raise _taken(trashed)


def _taken(trashed: Trashed) -> RepositoryExistsError:
    shown = trashed.name.decode("utf-8", "backslashreplace")
    return RepositoryExistsError(f"there is a backup {shown!r}: rename or delete it first")


async def _check_was_there(store: Store, trashed: Trashed) -> None:
    """What left the trash before its root stood among the sealed ones may have been pruned."""
    try:
        await store.head(trashed.key)
    except ObjectMissingError:
        text = "left the trash while it was brought back; run `s3backfs check` for this backup"
        raise ObjectMissingError(text, key=trashed.key) from None


async def _copies(store: Store, keyring: Keyring, trashed: Trashed) -> list[str]:
    """The keys of this very root: two that forgot it at once leave two."""
    trash = await list_trash(store, keyring)
    return [each.key for each in trash if each.data == trashed.data and each.name == trashed.name]
