"""Making a repository, and opening one: the way from a passphrase to a keyring.

The key slot is stored first and repository.json last, and only with the latter there is a
repository: what an interrupted `create_repository` leaves is a slot that belongs to nothing, and
the next one goes on over it.
Source: docs/format.md, "repository.json", "Key slots".
"""

from __future__ import annotations

import logging
import time
from base64 import b64decode
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

import trio

from s3backfs.errors import (
    DeniedError,
    IntegrityError,
    ObjectMissingError,
    PreconditionFailedError,
    RefusedError,
    RepositoryExistsError,
    RepositoryMissingError,
    S3backfsError,
    WrongKeyError,
)
from s3backfs.format.canonical import MAX_JSON_BYTES
from s3backfs.format.frame import Encryption
from s3backfs.format.holders import open_holder_slot, private_key, read_holder_slot
from s3backfs.format.keys import Keyring
from s3backfs.format.parameters import (
    REPOSITORY_KEY,
    ChunkBounds,
    Locked,
    Parameters,
    decode_parameters,
    encode_parameters,
)
from s3backfs.format.slots import MAX_SLOTS, Cost, Unlocked, slot_kind, slot_repository
from s3backfs.format.unlocking import check_secret, open_slots, slots_of
from s3backfs.repository.new_keys import NewKey, make_slot
from s3backfs.store.base import IfAbsent, Listed, Store
from s3backfs.store.together import both

log = logging.getLogger(__name__)

Unwrap: TypeAlias = Callable[[bytes], Awaitable[bytes]]
"""Asks the key management service that this machine trusts for the secret in a blob."""

KEYS_PREFIX = "keys/"


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """What a new repository shall be."""

    is_encrypted: bool = True
    compression_level: int | None = 3
    chunk_bytes: int = 1024 * 1024
    pack_bytes: int = 64 * 1024 * 1024
    cost: Cost | None = None
    """What stretching the passphrase costs; None for the default."""


@dataclass(frozen=True, slots=True)
class OpenedRepository:
    """Keys and parameters, both verified."""

    keyring: Keyring
    parameters: Parameters
    slot_key: str = ""
    """The slot that opened; empty without encryption."""


# -- making -----------------------------------------------------------------------------------


async def create_repository(
    store: Store, options: CreateOptions, secret: bytes | NewKey | None
) -> OpenedRepository:
    """Make a repository in an empty place; on return it is durable. Bytes are a passphrase.

    Raises:
        RepositoryExistsError: there is one, or something foreign; nothing was changed.
        ValueError: a passphrase is missing, or there is one without encryption.
    """
    if options.is_encrypted != bool(secret):
        raise ValueError("a passphrase is needed with encryption, and only then")
    await _check_vacant(store)
    encryption = Encryption.AES256_GCM if options.is_encrypted else Encryption.NONE
    keyring = Keyring.generate(encryption)
    parameters = Parameters(
        encryption=encryption,
        compression_level=options.compression_level,
        chunk_bounds=ChunkBounds.around(options.chunk_bytes),
        pack_bytes=options.pack_bytes,
        created_s=int(time.time()),
    )
    if secret:
        new = secret if isinstance(secret, NewKey) else _by_passphrase(secret, options)
        await store.put(*await make_slot(new, keyring))
    await _store_parameters(store, encode_parameters(parameters, keyring))
    await _delete_stale_slots(store, keyring.repository_id)
    return OpenedRepository(keyring, parameters)


def _by_passphrase(passphrase: bytes, options: CreateOptions) -> NewKey:
    return NewKey("argon2id", passphrase, cost=options.cost)


async def _check_vacant(store: Store) -> None:
    """Refuse a place that holds anything but slots of a repository that never came to be."""
    for listed in await list_few(store, ""):
        if listed.key == REPOSITORY_KEY:
            raise RepositoryExistsError(f"{store.url}: there is a repository already")
        is_slot_key = listed.key.startswith(KEYS_PREFIX)
        if not is_slot_key or slot_repository(await get_small(store, listed.key)) is None:
            await _raise_occupied(store, listed.key)


async def _raise_occupied(store: Store, key: str) -> None:
    """Say what is in the way; `keys/` sorts before `repository.json`, so look for that too."""
    try:
        await store.head(REPOSITORY_KEY)
    except ObjectMissingError:
        raise RepositoryExistsError(
            f"{store.url}: not empty, there is for example {key!a}; choose another prefix"
        ) from None
    raise RepositoryExistsError(f"{store.url}: there is a repository already")


async def get_small(store: Store, key: str) -> bytes:
    """Read an object, but no more of it than any of its kind can have."""
    return (await store.get(key, length=MAX_JSON_BYTES + 1)).data


async def list_few(store: Store, prefix: str) -> list[Listed]:
    """List what lies below a prefix, up to more than there can be of slots."""
    found: list[Listed] = []
    async for page in store.list(prefix):
        found += page
        if len(found) > MAX_SLOTS:
            break
    return found


async def _store_parameters(store: Store, data: bytes) -> None:
    # A failed condition can mean that the answer was lost and the same bytes were sent again, and
    # a fulfilled one that conditions are ignored and two create at once: read back in any case.
    with suppress(PreconditionFailedError):
        await store.put(REPOSITORY_KEY, data, condition=IfAbsent())
    if await get_small(store, REPOSITORY_KEY) != data:
        raise RepositoryExistsError(f"{store.url}: another repository has just been made here")


async def _delete_stale_slots(store: Store, repository_id: bytes) -> None:
    """Remove slots that an interrupted creation left."""
    stale = []
    for listed in await list_few(store, KEYS_PREFIX):
        owner = slot_repository(await get_small(store, listed.key))
        if owner is not None and owner != repository_id:
            stale.append(listed.key)
    if stale:
        await store.delete(stale)


# -- opening ----------------------------------------------------------------------------------


async def open_repository(
    store: Store,
    passphrase: Callable[[], bytes] | None,
    *,
    must_be_encrypted: bool = False,
    unwrap: Unwrap | None = None,
    slot_id: str | None = None,
) -> OpenedRepository:
    """Read and verify what a repository is, with two round trips to the store.

    With a `slot_id` only that key slot is read, and nothing is listed.

    `passphrase` is called once it is known to be needed; it may ask a person. With
    `must_be_encrypted` (a passphrase is configured) a repository without encryption is refused:
    whoever can write to the bucket could have put it there. The same holds of `unwrap`, which
    is asked for slots of a key management service before anybody is asked for a passphrase.

    Raises:
        RepositoryMissingError: there is none.
        WrongKeyError: the passphrase is wrong, missing, or not asked for.
        UnsupportedFormatError: it was made by a newer program.
        IntegrityError: repository.json or the key slots are damaged.
    """
    locked, listed = await _look(store, slot_id)
    if not locked.is_encrypted:
        if must_be_encrypted or unwrap is not None:
            raise WrongKeyError(
                f"{store.url}: this repository is not encrypted, but a passphrase is configured;"
                " unset it if you trust this bucket"
            )
        return OpenedRepository(locked.unlock_clear(), locked.parameters)
    slots = await _load_slots(store, listed, slot_id)
    if _is_overtaken(locked, slots):
        # A rotation came between the two answers.
        locked, listed = await _look(store, slot_id)
        slots = await _load_slots(store, listed, slot_id)
    if slot_id is not None and not slots_of(slots, locked.repository_id, locked.epoch):
        raise _no_slot(store, slot_id)
    refusal: S3backfsError | None = None
    if unwrap is not None:
        by_kms = await _unlock_by_kms(locked, slots, unwrap)
        if isinstance(by_kms, Unlocked):
            return _opened(locked, by_kms)
        refusal = by_kms
    given = _ask(store, passphrase, refusal)
    return _opened(locked, await _unlock(store, locked, slots, given))


def _ask(
    store: Store, passphrase: Callable[[], bytes] | None, refusal: S3backfsError | None
) -> bytes:
    """Ask for a passphrase; where there is none, what the key service said is what is wrong."""
    try:
        if passphrase is None:
            raise WrongKeyError(f"{store.url}: this repository is encrypted and needs a passphrase")
        given = passphrase()
    except S3backfsError as error:
        if refusal is not None:
            raise refusal from error
        raise
    if refusal is not None:
        log.warning("%s; a passphrase is tried instead", refusal)
    return given


def _opened(locked: Locked, unlocked: Unlocked) -> OpenedRepository:
    try:
        keyring = locked.unlock(unlocked.epoch, unlocked.master)
    except IntegrityError as error:
        raise _with_remedy(error) from error
    return OpenedRepository(keyring, locked.parameters, unlocked.slot_key)


def _is_overtaken(locked: Locked, slots: dict[str, bytes]) -> bool:
    if len(slots) > MAX_SLOTS:
        return False
    return bool(slots) and not slots_of(slots, locked.repository_id, locked.epoch)


async def _unlock_by_kms(
    locked: Locked, slots: dict[str, bytes], unwrap: Unwrap
) -> Unlocked | S3backfsError | None:
    """Try the slots of a key management service; an error or None where another kind may open.

    Raises:
        S3backfsError: there are no slots of another kind.
    """
    own = slots_of(slots, locked.repository_id, locked.epoch)
    by_kms = [key for key, data in own.items() if slot_kind(data) == "kms"]
    failure: S3backfsError | None = None
    named: set[str] = set()
    for key in by_kms:
        try:
            slot = read_holder_slot(key, own[key])
            if slot.holder.kms is None:
                continue
            if slot.holder.kms.key.isprintable():
                named.add(slot.holder.kms.key)
            secret = await unwrap(b64decode(slot.holder.kms.blob))
            unlocked = open_holder_slot(slot, private_key("kms", secret))
            if locked.is_newest(unlocked.master):
                return unlocked
        except S3backfsError as error:
            failure = error
    if isinstance(failure, RefusedError) and named:
        failure = type(failure)(f"{failure}; the key slots here are of {', '.join(sorted(named))}")
    if failure is not None and len(by_kms) == len(own):
        raise failure
    return failure


async def _look(store: Store, slot_id: str | None = None) -> tuple[Locked, list[Listed]]:
    """Get repository.json and list the slots, at once."""

    async def find_slots() -> list[Listed]:
        if slot_id is not None:
            return [Listed(f"{KEYS_PREFIX}{slot_id}.json", 0, "", 0)]
        return await list_few(store, KEYS_PREFIX)

    fetched, listed = await both(lambda: get_small(store, REPOSITORY_KEY), find_slots)
    if isinstance(fetched, ObjectMissingError):
        raise _missing(store, listed) from fetched
    if isinstance(fetched, S3backfsError):
        raise fetched
    try:
        locked = decode_parameters(fetched)
    except IntegrityError as error:
        raise _with_remedy(error) from error
    if not locked.is_encrypted:
        return locked, []
    if isinstance(listed, DeniedError):
        raise DeniedError(
            f"{listed}; who may not list mounts with --key-slot ID (see s3backfs key list --json)"
        ) from listed
    if isinstance(listed, S3backfsError):
        raise listed
    return locked, listed


def _missing(store: Store, slots: Sequence[Listed] | S3backfsError) -> RepositoryMissingError:
    if not isinstance(slots, S3backfsError) and slots:
        return RepositoryMissingError(
            f"{store.url}: the making of this repository was interrupted, or repository.json was"
            f" deleted; if there was nothing in it, make it with: s3backfs init {store.url}"
        )
    return RepositoryMissingError(
        f"{store.url}: there is no repository; make one with: s3backfs init {store.url}"
    )


async def load_slots(store: Store, listed: Sequence[Listed]) -> dict[str, bytes]:
    """Read all slots at once; one that vanished since is none."""
    slots: dict[str, bytes] = {}
    errors: list[S3backfsError] = []

    async def load(slot: Listed) -> None:
        try:
            slots[slot.key] = await get_small(store, slot.key)
        except ObjectMissingError:
            pass
        except S3backfsError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for slot in listed:
            nursery.start_soon(load, slot)
    if errors and not slots:
        raise errors[0]
    return slots


def _no_slot(store: Store, slot_id: str) -> WrongKeyError:
    return WrongKeyError(
        f"{store.url}: there is no key slot {slot_id} of the newest key: take the id from "
        "s3backfs key list --json, it changes when the key is rotated"
    )


async def _load_slots(
    store: Store, listed: Sequence[Listed], slot_id: str | None
) -> dict[str, bytes]:
    try:
        return await load_slots(store, listed)
    except DeniedError as error:
        if slot_id is None:
            raise
        raise DeniedError(f"{_no_slot(store, slot_id)}; or it may not be read: {error}") from error


def _with_remedy(error: IntegrityError) -> IntegrityError:
    text = f"{error.message}; put back an older version of the object, or a copy"
    return IntegrityError(text, key=error.key, offset=error.offset)


async def _unlock(store: Store, locked: Locked, slots: dict[str, bytes], secret: bytes) -> Unlocked:
    try:
        return await trio.to_thread.run_sync(
            open_slots, slots, locked.repository_id, locked.epoch, secret, locked.is_newest
        )
    except WrongKeyError as error:
        check_secret(secret)
        raise WrongKeyError(f"{store.url}: {error}; no key slot opens with it") from error
    except IntegrityError as error:
        raise _with_remedy(error) from error
