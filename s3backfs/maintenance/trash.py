"""The trash: forgotten backups, and bringing them back.

Prune removes what is older than its grace, by the store's clock, and then looks at all roots. So
who brings a backup back keeps prune from beginning, as two prunes keep each other.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

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

ID_CHARS = 8


@dataclass(frozen=True, slots=True)
class Trashed:
    """A forgotten root; `forgotten_ns` by the store's clock. Damaged ones have an error instead."""

    name: bytes
    key: str
    forgotten_ns: int
    root: Root | None
    data: bytes = b""
    error: S3backfsError | None = None

    @property
    def id(self) -> str:
        """What tells it from others of its name."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:ID_CHARS]


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


def choose(
    trash: Sequence[Trashed], names: Sequence[bytes], ids: Sequence[str] = ()
) -> list[Trashed]:
    """Those with some ids, and of each name what was forgotten last; without both, of all names.

    Raises:
        ConfigurationError: a name or an id is not in the trash, or an id is that of several.
    """
    by_id = [_with_id(trash, each) for each in dict.fromkeys(ids)]
    if ids and not names:
        return by_id
    newest: dict[bytes, Trashed] = {}
    for each in trash:
        newest.setdefault(each.name, each)
    for name in names:
        if name not in newest:
            shown = name.decode("utf-8", "backslashreplace")
            raise ConfigurationError(
                f"{shown!r} is not in the trash; `s3backfs unforget --list` shows it"
            )
    return by_id + [newest[name] for name in (dict.fromkeys(names) if names else newest)]


def _with_id(trash: Sequence[Trashed], wanted: str) -> Trashed:
    found = [each for each in trash if wanted and each.id.startswith(wanted.lower())]
    if len(found) != 1:
        what = "is that of several" if found else "is not in the trash"
        raise ConfigurationError(f"id {wanted!r} {what}; `s3backfs unforget --list` shows all")
    return found[0]


@dataclass(slots=True)
class Returned:
    """What came back, what did not and why, and how many more of the same names there are."""

    back: list[bytes] = field(default_factory=list)
    failed: dict[bytes, S3backfsError] = field(default_factory=dict)
    others: dict[bytes, int] = field(default_factory=dict)
    """By name: other backups that bore it and stay in the trash."""


async def unforget(
    repository: Repository, names: Sequence[bytes], report: Report, ids: Sequence[str] = ()
) -> Returned:
    """Bring back the backups chosen, see `choose`.

    Raises:
        RepositoryBusyError: a prune is at work.
        ConfigurationError: a name or id is not in the trash; none has come back.
    """
    agreement = Agreement(repository)
    await agreement.begin()
    result = Returned()
    try:
        trash = await list_trash(repository.store, repository.keyring)
        chosen = choose(trash, names, ids)
        for number, trashed in enumerate(chosen):
            shown = trashed.name.decode("utf-8", "backslashreplace")
            report(f"bringing back {shown}", number, len(chosen))
            try:
                await bring_back(repository, trashed)
                result.back.append(trashed.name)
            except S3backfsError as error:
                result.failed[trashed.name] = error
            result.others |= _others(trash, trashed)
    finally:
        await agreement.end()
    return result


def _others(trash: Sequence[Trashed], chosen: Trashed) -> dict[bytes, int]:
    """How many other backups of this name are there; copies of the same one do not count."""
    others = {each.data or each.key for each in trash if each.name == chosen.name}
    count = len(others - {chosen.data or chosen.key})
    return {chosen.name: count} if count else {}


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
    return RepositoryExistsError(
        f"there is another backup {shown!r} by now: rename it in a mount (mv), or delete it, first"
    )


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
