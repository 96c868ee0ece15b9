"""A new master key for everything that is written from now on.

The new master is sealed to the holder of every slot that is kept; then repository.json names the
new epoch, with the old masters wrapped by the new one; then the old slots go. Until repository.json
is replaced the new slots are of an epoch that does not exist, and no reader minds them; from then
on the same holds of the old ones.
Source: docs/format.md, "repository.json", "Slots of holders".
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from s3backfs.errors import (
    ConfigurationError,
    PreconditionFailedError,
    RepositoryBusyError,
)
from s3backfs.format.canonical import MAX_JSON_BYTES
from s3backfs.format.holders import Holder, seal_to_holder
from s3backfs.format.keys import Keyring, new_master
from s3backfs.format.parameters import (
    MAX_EPOCHS,
    REPOSITORY_KEY,
    decode_parameters,
    encode_parameters,
)
from s3backfs.format.slots import MAX_SLOTS, PASSPHRASE, slot_repository
from s3backfs.repository.keyslots import (
    KeyedRepository,
    KeySlot,
    find_slot,
    list_slots,
    opened_by_the_same,
    put_new,
    was_removed_here,
)
from s3backfs.repository.leases import LEASES_PREFIX
from s3backfs.repository.local_state import check_epoch, remember_removed
from s3backfs.repository.new_keys import NewKey, make_holder
from s3backfs.repository.opening import get_small
from s3backfs.store.base import IfMatch, Store

STALE_NS = 3600 * 10**9
"""A rotation that has not ended after so long was interrupted."""


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation did."""

    epoch: int
    kept: tuple[KeySlot, ...]
    dropped: tuple[KeySlot, ...]
    late: tuple[KeySlot, ...]
    """Slots that somebody added meanwhile: they open nothing and must be added again."""
    same: tuple[tuple[KeySlot, KeySlot], ...]
    """Slots that were dropped, each with one that was kept and opens with the same."""


@dataclass(frozen=True, slots=True)
class RotationPlan:
    """Which slots go on in the new epoch."""

    kept: tuple[KeySlot, ...]
    dropped: tuple[KeySlot, ...]


def plan_rotation(
    keys: KeyedRepository, slots: Sequence[KeySlot], removed_names: Sequence[str]
) -> RotationPlan:
    """Decide which slots are kept: those that were made with the present master.

    Raises:
        ConfigurationError: a slot can not be taken along and was not named as removed; or none is
            left.
    """
    current = [slot for slot in slots if slot.is_own or slot.epoch is None]
    removed = {find_slot(current, name).key for name in removed_names}
    removed |= {slot.key for slot in current if was_removed_here(keys, slot)}
    kept = tuple(slot for slot in current if slot.key not in removed)
    for slot in kept:
        _check_can_be_kept(slot)
    if not kept:
        raise ConfigurationError("no key slot would be left: add another one first")
    if len({slot.key for slot in slots}) + len(kept) > MAX_SLOTS:
        raise ConfigurationError(
            "interrupted rotations left too many key slots: try again in an hour, when they go"
        )
    return RotationPlan(kept, tuple(slot for slot in current if slot.key in removed))


def _check_can_be_kept(slot: KeySlot) -> None:
    if slot.is_proven and (slot.kind != PASSPHRASE or slot.is_open):
        return
    if slot.kind == PASSPHRASE:
        raise ConfigurationError(
            f"key slot {slot} was made by an older s3backfs and needs its passphrase: "
            "whoever has it runs `s3backfs key passwd` first, or drop it with --remove"
        )
    raise ConfigurationError(
        f"key slot {slot} is damaged, or was not made by who has the key: drop it with --remove"
    )


async def rotate(keys: KeyedRepository, removed_names: Sequence[str] = ()) -> Rotated:
    """Begin a new epoch; on return everything that is opened anew writes with its master.

    Raises:
        ConfigurationError: see `plan_rotation`; or there were too many rotations.
        RepositoryBusyError: somebody else has rotated meanwhile; nothing was changed.
    """
    if keys.epoch + 1 >= MAX_EPOCHS:
        raise ConfigurationError(f"a repository can be rotated {MAX_EPOCHS - 1} times at most")
    before = await keys.store.get(REPOSITORY_KEY, length=MAX_JSON_BYTES)
    if not decode_parameters(before.data).is_newest(keys.master):
        raise RepositoryBusyError("somebody else has just rotated: do it again")
    slots = await _without_stale(keys, await list_slots(keys), before.server_time_ns)
    plan = plan_rotation(keys, slots, removed_names)
    keyring = keys.opened.keyring.with_next(new_master())
    holders = [await _holder_of(keys, slot) for slot in plan.kept]
    made = [_seal(keyring, holder) for holder in holders]
    written = encode_parameters(keys.opened.parameters, keyring)
    decode_parameters(written).unlock(keyring.epoch, keyring.master(keyring.epoch))
    for key, data in made:
        await put_new(keys.store, key, data)
    if not await _replace_parameters(keys.store, before.data, before.etag, written):
        await keys.store.delete([key for key, _ in made])
        raise RepositoryBusyError("somebody else has changed repository.json: do it again")
    check_epoch(keys.state_dir, keyring)
    dropped = frozenset(slot.key for slot in plan.dropped)
    remember_removed(keys.state_dir, dropped)
    await keys.store.delete(sorted(dropped))
    late = await _clean_up(keys, {slot.key for slot in slots})
    same = [(gone, await opened_by_the_same(keys, gone, plan.kept)) for gone in plan.dropped]
    pairs = tuple((gone, kept) for gone, kept in same if kept is not None)
    return Rotated(keyring.epoch, plan.kept, plan.dropped, late, pairs)


async def _holder_of(keys: KeyedRepository, slot: KeySlot) -> Holder:
    if slot.holder is not None:
        return slot.holder
    new = NewKey("argon2id", keys.secret, slot.label)
    return await make_holder(new, keys.opened.keyring.repository_id)


def _seal(keyring: Keyring, holder: Holder) -> tuple[str, bytes]:
    master = keyring.master(keyring.epoch)
    return seal_to_holder(holder, keyring.repository_id, keyring.epoch, master)


async def _replace_parameters(store: Store, before: bytes, etag: str, written: bytes) -> bool:
    """Replace repository.json if nobody else has; whether it is ours now."""
    if store.has_conditional_put is None:
        # Some servers take an etag in one way of writing it only.
        await store.probe(f"{LEASES_PREFIX}{secrets.token_hex(16)}/probe")
    # For stores without conditions: this look makes the window small, it does not close it.
    if await get_small(store, REPOSITORY_KEY) != before:
        return False
    # Somebody else was first, or the answer to our own was lost and it was sent again.
    with suppress(PreconditionFailedError):
        await store.put(REPOSITORY_KEY, written, condition=IfMatch(etag) if etag else None)
    return await get_small(store, REPOSITORY_KEY) == written


async def _without_stale(
    keys: KeyedRepository, slots: Sequence[KeySlot], now_ns: int
) -> list[KeySlot]:
    """Delete what interrupted rotations left; what is young may be one that is under way."""
    stale = [
        slot.key
        for slot in slots
        if _is_own(keys, slot)
        and slot.epoch is not None
        and (slot.epoch < keys.epoch or _is_stale(keys, slot, now_ns))
    ]
    if stale:
        await keys.store.delete(stale)
    return [slot for slot in slots if slot.key not in stale]


def _is_own(keys: KeyedRepository, slot: KeySlot) -> bool:
    return slot_repository(slot.data) == keys.opened.keyring.repository_id


def _is_stale(keys: KeyedRepository, slot: KeySlot, now_ns: int) -> bool:
    assert slot.epoch is not None
    is_left = slot.epoch > keys.epoch or (slot.epoch == keys.epoch and not slot.is_proven)
    is_left = is_left and slot.holder is not None
    return is_left and 0 < slot.modified_ns < now_ns - STALE_NS


async def _clean_up(keys: KeyedRepository, known: set[str]) -> tuple[KeySlot, ...]:
    """Delete the slots of the epoch that has ended; return those nobody planned for."""
    ended = [
        slot
        for slot in await list_slots(keys)
        if _is_own(keys, slot) and slot.epoch is not None and slot.epoch <= keys.epoch
    ]
    if ended:
        await keys.store.delete([slot.key for slot in ended])
    return tuple(slot for slot in ended if slot.is_proven and slot.key not in known)
