"""The key slots of a repository: who can open it. Adding, removing and replacing them.

Every change stores what is new before it removes what is old, so that a crash in between leaves a
slot too many and never one too few.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from s3backfs.errors import (
    ConfigurationError,
    IntegrityError,
    PreconditionFailedError,
    RepositoryBusyError,
    UnsupportedFormatError,
)
from s3backfs.format.holders import Holder, is_made_with, read_holder_slot
from s3backfs.format.keys import Keyring
from s3backfs.format.parameters import REPOSITORY_KEY, decode_parameters
from s3backfs.format.slots import PASSPHRASE, slot_kind, slot_place
from s3backfs.format.unlocking import opens_slot
from s3backfs.repository.local_state import (
    check_epoch,
    check_pin,
    remember_removed,
    removed_slots,
)
from s3backfs.repository.new_keys import NewKey, make_slot
from s3backfs.repository.opening import (
    KEYS_PREFIX,
    OpenedRepository,
    Unwrap,
    get_small,
    list_few,
    load_slots,
    open_repository,
)
from s3backfs.store.base import IfAbsent, Store

MAX_KEPT = 15
"""Slots of one epoch: a rotation needs as many again, and 32 is the most a reader takes."""


@dataclass(frozen=True, slots=True)
class KeySlot:
    """One slot as it stands in the bucket."""

    key: str
    data: bytes
    kind: str
    epoch: int | None
    is_proven: bool
    """Made by one who had the newest master, or just opened; all else may be a forgery."""
    is_own: bool
    """Of this repository and its newest epoch, as it says itself."""
    is_open: bool
    """The one that has just opened the repository."""
    modified_ns: int
    holder: Holder | None = None

    @property
    def slot_id(self) -> str:
        return self.key.removeprefix(KEYS_PREFIX).removesuffix(".json")

    @property
    def label(self) -> str:
        return "" if self.holder is None else self.holder.label

    @property
    def kms_key(self) -> str:
        return self.holder.kms.key if self.holder and self.holder.kms else ""

    @property
    def made(self) -> str:
        """When it was made, for people: a slot of a rotation keeps its holder's time."""
        seconds = _age(self)
        return (
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else "long ago"
        )

    def __str__(self) -> str:
        return f"{self.slot_id[:8]} ({self.label or self.kind})"


@dataclass(frozen=True, slots=True)
class KeyedRepository:
    """A repository that was opened to change its keys. Its repr shows no secret."""

    store: Store
    opened: OpenedRepository
    secret: bytes
    """What opened it; empty if that was a key management service."""
    state_dir: Path

    def __repr__(self) -> str:
        return f"KeyedRepository({self.store.url!r})"

    @property
    def keyring(self) -> Keyring:
        return self.opened.keyring

    @property
    def epoch(self) -> int:
        return self.keyring.epoch

    @property
    def master(self) -> bytes:
        return self.opened.keyring.master(self.epoch)


async def open_for_keys(
    store: Store,
    secret: Callable[[], bytes],
    state_dir: Path,
    *,
    must_be_encrypted: bool,
    unwrap: Unwrap | None = None,
) -> KeyedRepository:
    """Open a repository to change its keys; errors as of `unlock_for_keys`.

    Raises:
        RepositoryError: it is not what this machine has seen before.
    """
    keys = await unlock_for_keys(
        store, secret, state_dir, must_be_encrypted=must_be_encrypted, unwrap=unwrap
    )
    check_epoch(keys.state_dir, keys.keyring)
    return keys


async def unlock_for_keys(
    store: Store,
    secret: Callable[[], bytes],
    state_dir: Path,
    *,
    must_be_encrypted: bool,
    unwrap: Unwrap | None = None,
) -> KeyedRepository:
    """Open a repository, whether its keys are the newest or not; errors as of `open_repository`.

    Raises:
        ConfigurationError: it has no encryption, and thus no keys.
        RepositoryError: it had none when this machine saw it first.
    """
    given: list[bytes] = []

    def keep() -> bytes:
        given.append(secret())
        return given[-1]

    opened = await open_repository(store, keep, must_be_encrypted=must_be_encrypted, unwrap=unwrap)
    keyring = opened.keyring
    if not opened.slot_key:
        raise ConfigurationError(f"{store.url}: this repository is not encrypted: it has no keys")
    own_dir = state_dir / keyring.repository_id.hex()
    check_pin(own_dir, str(keyring.encryption))
    return KeyedRepository(store, opened, given[-1] if given else b"", own_dir)


# -- looking ----------------------------------------------------------------------------------


async def list_slots(keys: KeyedRepository) -> list[KeySlot]:
    """Read all slots, with those of other repositories and epochs."""
    listed = await list_few(keys.store, KEYS_PREFIX)
    slots = await load_slots(keys.store, listed)
    times_ns = {found.key: found.modified_ns for found in listed}
    return [_describe(keys, key, data, times_ns[key]) for key, data in sorted(slots.items())]


def _describe(keys: KeyedRepository, key: str, data: bytes, modified_ns: int) -> KeySlot:
    place = slot_place(data)
    is_own = place == (keys.opened.keyring.repository_id, keys.epoch)
    is_open = key == keys.opened.slot_key
    epoch = None if place is None else place[1]
    kind = slot_kind(data) or "damaged"
    if kind == PASSPHRASE:
        return KeySlot(key, data, kind, epoch, is_open, is_own, is_open, modified_ns)
    try:
        slot = read_holder_slot(key, data)
    except (IntegrityError, UnsupportedFormatError):
        return KeySlot(key, data, kind, epoch, False, is_own, False, modified_ns)
    is_proven = is_own and is_made_with(slot, keys.master)
    return KeySlot(key, data, kind, epoch, is_proven, is_own, is_open, modified_ns, slot.holder)


def find_slot(slots: Iterable[KeySlot], name: str) -> KeySlot:
    """Find the slot that a person means: by its label, or by how its id begins.

    Raises:
        ConfigurationError: none, or more than one.
    """
    found = [slot for slot in slots if name and (slot.label == name or slot.slot_id == name)]
    if not found and len(name) >= 4:
        found = [slot for slot in slots if slot.slot_id.startswith(name.lower())]
    if not found:
        raise ConfigurationError(f"there is no key slot {name!a} (see s3backfs key list)")
    if len(found) > 1:
        each = ", ".join(f"{slot.slot_id[:8]} made {slot.made}" for slot in sorted(found, key=_age))
        raise ConfigurationError(
            f"there is more than one key slot {name!a}: {each}; name one by its id. Where `key "
            "passwd` was interrupted, the older one still opens with the old passphrase: remove it"
        )
    return found[0]


def _age(slot: KeySlot) -> int:
    return 0 if slot.holder is None else slot.holder.created_s


# -- changing ---------------------------------------------------------------------------------


async def add_slot(keys: KeyedRepository, new: NewKey) -> KeySlot:
    """Let somebody else open the repository too; durable on return.

    Raises:
        ConfigurationError: there are too many slots, one with this label, or one that opens with
            the same.
        RepositoryBusyError: the key was rotated meanwhile, so that the slot would open nothing.
    """
    slots = await list_slots(keys)
    _check_room(slots, new.label)
    await _check_is_new(slots, new)
    return await _store_new(keys, new)


async def _check_is_new(slots: Iterable[KeySlot], new: NewKey) -> None:
    """Refuse a second slot for one secret: who removes one of them would think it revoked."""
    same = await _opening_with(slots, new)
    if same:
        raise _is_not_new(same[0])


async def _opening_with(slots: Iterable[KeySlot], new: NewKey) -> list[KeySlot]:
    return [slot for slot in slots if slot.is_own and await _is_for(slot, new)]


def _is_not_new(slot: KeySlot) -> ConfigurationError:
    return ConfigurationError(
        f"key slot {slot} opens with the same already, and would go on doing so after the "
        "new one is removed: give another secret, or remove that slot first"
    )


async def _is_for(slot: KeySlot, new: NewKey) -> bool:
    if new.kms is not None:
        return slot.kms_key == new.kms.key
    return await trio.to_thread.run_sync(opens_slot, slot.key, slot.data, new.kind, new.secret)


async def opened_by_the_same(
    keys: KeyedRepository, gone: KeySlot, rest: Iterable[KeySlot]
) -> KeySlot | None:
    """Find among the rest a slot that what opened another one opens too, as far as can be known.

    Two slots of one passphrase look different; only the one that was given can be tried.
    """
    for slot in rest:
        if gone.holder and slot.holder and gone.holder.recipient == slot.holder.recipient:
            return slot
        if gone.kms_key and gone.kms_key == slot.kms_key:
            return slot
        if slot.is_open and slot.key != gone.key and await _is_for(gone, _given(keys)):
            return slot
    return None


def _given(keys: KeyedRepository) -> NewKey:
    return NewKey("argon2id", keys.secret)


def _check_room(slots: list[KeySlot], label: str) -> None:
    own = [slot for slot in slots if slot.is_own]
    if len(own) >= MAX_KEPT:
        raise ConfigurationError(f"there are {MAX_KEPT} key slots already: remove one first")
    if label and any(slot.label == label for slot in own):
        raise ConfigurationError(f"there is a key slot {label!a} already: choose another label")


async def _store_new(keys: KeyedRepository, new: NewKey) -> KeySlot:
    key, data = await make_slot(new, keys.opened.keyring)
    made = _describe(keys, key, data, 0)
    assert made.is_proven
    await put_new(keys.store, key, data)
    if not await _is_epoch_current(keys):
        await keys.store.delete([key])
        raise RepositoryBusyError("the key was rotated meanwhile: do it again")
    return made


async def put_new(store: Store, key: str, data: bytes) -> None:
    """Store an object under a name that nobody else chooses, and read it back."""
    # Where the answer to the first try was lost, what counts is what stands there.
    with suppress(PreconditionFailedError):
        await store.put(key, data, condition=IfAbsent())
    if await get_small(store, key) != data:
        raise IntegrityError("what was stored is not what stands there", key=key)


async def _is_epoch_current(keys: KeyedRepository) -> bool:
    return decode_parameters(await get_small(keys.store, REPOSITORY_KEY)).is_newest(keys.master)


@dataclass(frozen=True, slots=True)
class Removed:
    """A slot that was taken away."""

    slot: KeySlot
    same: KeySlot | None
    """One that stays and opens with the same."""


async def remove_slot(keys: KeyedRepository, name: str) -> Removed:
    """Take a slot away; what it opened stays open to who has copied the key.

    Raises:
        ConfigurationError: it is the last one, or there is no such slot.
    """
    slots = await list_slots(keys)
    gone = find_slot(slots, name)
    rest = [slot for slot in slots if slot.key != gone.key]
    _check_rest(rest)
    await _remove(keys, gone)
    return Removed(gone, await opened_by_the_same(keys, gone, _sound(rest)))


def _sound(slots: Iterable[KeySlot]) -> list[KeySlot]:
    return [slot for slot in slots if slot.is_proven]


def _check_rest(rest: Iterable[KeySlot]) -> None:
    if not any(slot.is_proven for slot in rest):
        raise ConfigurationError(
            "no key slot that surely opens would be left: add another one first (s3backfs key add)"
        )


async def _remove(keys: KeyedRepository, gone: KeySlot) -> None:
    await keys.store.delete([gone.key])
    if not any(slot.is_proven for slot in await list_slots(keys)):
        # Somebody else has removed the other one at the same time.
        await keys.store.put(gone.key, gone.data)
        raise RepositoryBusyError("another key slot was removed at the same time: this one stays")
    remember_removed(keys.state_dir, frozenset([gone.key]))


@dataclass(frozen=True, slots=True)
class Replaced:
    """A slot in whose place another one stands."""

    old: KeySlot
    made: KeySlot
    alike: tuple[KeySlot, ...]
    """Others with a passphrase and the same label; an interrupted change may have left them."""


async def replace_passphrase(keys: KeyedRepository, name: str | None, new: NewKey) -> Replaced:
    """Put a new passphrase in the place of an old one, or end what was interrupted in doing so.

    Without a name it is the slot that has just opened.

    Raises:
        ConfigurationError: that is none with a passphrase; or another slot opens with the new one.
    """
    slots = await list_slots(keys)
    same = await _opening_with(slots, new)
    old = _find_old(slots, same, name or keys.opened.slot_key.removeprefix(KEYS_PREFIX)[:32])
    if not _has_passphrase(old):
        raise ConfigurationError(
            f"key slot {old} is none with a passphrase: name one by --slot (see s3backfs key list)"
        )
    label = old.label or new.label
    made = next((slot for slot in same if slot.key != old.key), None)
    if made is None:
        made = await _store_new(keys, NewKey(new.kind, new.secret, label, new.cost))
    elif not _is_made_for(made, old, label):
        raise _is_not_new(made)
    await _remove(keys, old)
    rest = [slot for slot in slots if slot.key not in (old.key, made.key)]
    alike = [slot for slot in _sound(rest) if _has_passphrase(slot) and slot.label == label]
    return Replaced(old, made, tuple(alike))


def _find_old(slots: Iterable[KeySlot], same: list[KeySlot], name: str) -> KeySlot:
    """Find the slot to be replaced; its successor may stand there with the same label."""
    try:
        return find_slot([slot for slot in slots if slot not in same], name)
    except ConfigurationError:
        return find_slot(slots, name)


def _has_passphrase(slot: KeySlot) -> bool:
    return slot.kind in (PASSPHRASE, "argon2id")


def _is_made_for(made: KeySlot, old: KeySlot, label: str) -> bool:
    """Whether a slot looks like what an interrupted change has put in the place of an old one."""
    return made.is_proven and made.label == label and _age(made) >= _age(old)


def was_removed_here(keys: KeyedRepository, slot: KeySlot) -> bool:
    """Whether this machine has removed a slot that stands there again."""
    return slot.key in removed_slots(keys.state_dir)
