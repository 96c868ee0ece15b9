"""From what a person has to the master key: all slots are tried, whatever their kind.

Where a passphrase is asked for, a recovery key, an identity file's text and a raw key are taken
too; their form tells them apart.
Source: docs/format.md, "Key slots".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from s3backfs.errors import (
    ConfigurationError,
    IntegrityError,
    RepositoryError,
    UnsupportedFormatError,
    WrongKeyError,
)
from s3backfs.format.holders import (
    HolderKind,
    open_holder_slot,
    private_key,
    read_holder_slot,
    stretch_for,
)
from s3backfs.format.slots import (
    MAX_SLOTS,
    PASSPHRASE,
    Unlocked,
    open_slot,
    slot_kind,
    slot_place,
)
from s3backfs.format.words import read_identity, read_recovery

_RAW = re.compile(rb"\s*[0-9a-fA-F]{64}\s*")
_SLOW_KINDS = (PASSPHRASE, "argon2id")


def read_raw(secret: bytes) -> bytes | None:
    """Read a raw key, 64 hexadecimal digits; None where it is something else."""
    return bytes.fromhex(secret.decode("ascii")) if _RAW.fullmatch(secret) else None


def private_keys_of(secret: bytes) -> dict[HolderKind, bytes]:
    """Read what was given as what it can be besides a passphrase; private halves by kind."""
    text = secret.decode("utf-8", errors="replace")
    raw = read_raw(secret)
    found: dict[HolderKind, bytes | None] = {"raw": raw, "x25519": read_identity(text)}
    try:
        found["recovery"] = read_recovery(text)
    except ConfigurationError:
        # Twelve words of five letters can be a passphrase all the same.
        found["recovery"] = None
    return {kind: private_key(kind, key) for kind, key in found.items() if key is not None}


def check_secret(secret: bytes) -> None:
    """Say what is wrong with a recovery key that opens nothing.

    Raises:
        ConfigurationError: it is one, with a mistake.
    """
    read_recovery(secret.decode("utf-8", errors="replace"))


def slots_of(slots: Mapping[str, bytes], repository_id: bytes, epoch: int) -> dict[str, bytes]:
    """Leave out the slots that say they are of another repository or epoch.

    Raises:
        IntegrityError: there are too many.
    """
    if len(slots) > MAX_SLOTS:
        raise IntegrityError(f"there are more than {MAX_SLOTS} key slots", key="keys/")
    place = (repository_id, epoch)
    return {key: data for key, data in sorted(slots.items()) if slot_place(data) in (None, place)}


def open_slots(
    slots: Mapping[str, bytes],
    repository_id: bytes,
    epoch: int,
    secret: bytes,
    is_newest: Callable[[bytes], bool] = lambda _: True,
) -> Unlocked:
    """Unwrap the master key with the first slot that a secret opens. Takes long.

    Slots of other kinds, repositories and epochs, damaged ones and those whose master is not the
    newest (an interrupted rotation left them) do not matter while one opens. If only one of the
    latter opens, it is returned.

    Raises:
        WrongKeyError: none opens with this secret.
        IntegrityError: every slot is damaged, or there is none, or too many.
        UnsupportedFormatError: all slots are of kinds that are not known here.
    """
    own = slots_of(slots, repository_id, epoch)
    if slots and not own:
        text = "no key slot is of the repository and the key that repository.json names"
        raise IntegrityError(f"{text}: one of the two was put here from elsewhere", key="keys/")
    keys = private_keys_of(secret)
    # Stretching takes long, the others cost nothing.
    ordered = sorted(own.items(), key=lambda slot: slot_kind(slot[1]) in _SLOW_KINDS)

    others: list[Unlocked] = []

    def attempt(key: str, data: bytes) -> Unlocked:
        unlocked = _open_any(key, data, secret, keys)
        if not is_newest(unlocked.master):
            others.append(unlocked)
            raise IntegrityError("the key slot holds another key than the newest", key=key)
        return unlocked

    try:
        return _first(ordered, attempt)
    except (WrongKeyError, IntegrityError, UnsupportedFormatError):
        if others:
            # The secret was right: rather repository.json was changed, which the caller finds.
            return others[0]
        raise


def _open_any(key: str, data: bytes, secret: bytes, keys: Mapping[HolderKind, bytes]) -> Unlocked:
    if slot_kind(data) == PASSPHRASE:
        return open_slot(key, data, secret)
    slot = read_holder_slot(key, data)
    if slot.holder.kind == "argon2id":
        return open_holder_slot(slot, stretch_for(slot, secret))
    if slot.holder.kind in keys:
        return open_holder_slot(slot, keys[slot.holder.kind])
    raise WrongKeyError("the passphrase is wrong")


def opens_slot(key: str, data: bytes, kind: HolderKind, secret: bytes) -> bool:
    """Whether what a new slot would be made of opens another one already. Takes long."""
    is_slow = slot_kind(data) in _SLOW_KINDS
    if is_slow != (kind == "argon2id"):
        return False
    try:
        _open_any(key, data, secret, {} if is_slow else {kind: private_key(kind, secret)})
    except (WrongKeyError, IntegrityError, UnsupportedFormatError):
        return False
    return True


def _first(
    slots: Iterable[tuple[str, bytes]], attempt: Callable[[str, bytes], Unlocked]
) -> Unlocked:
    errors: list[RepositoryError | IntegrityError] = []
    for key, data in slots:
        try:
            return attempt(key, data)
        except (WrongKeyError, IntegrityError, UnsupportedFormatError) as error:
            errors.append(error)
    raise _worst(errors)


def _worst(errors: list[RepositoryError | IntegrityError]) -> RepositoryError | IntegrityError:
    """Choose what to tell: a wrong passphrase before damage before unknown kinds."""
    for wanted in (WrongKeyError, IntegrityError, UnsupportedFormatError):
        for error in errors:
            if isinstance(error, wanted):
                return error
    return IntegrityError("the repository has no key slot: its key is lost", key="keys/")
