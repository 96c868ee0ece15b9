"""repository.json and the key slots as one file, in case the bucket loses them.

Source: docs/format.md, "Exported keys".
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from s3backfs.errors import (
    ConfigurationError,
    IntegrityError,
    ObjectMissingError,
    RepositoryExistsError,
)
from s3backfs.format.canonical import PRODUCT, decode_json, encode_json, to_base64
from s3backfs.format.parameters import REPOSITORY_KEY, decode_parameters
from s3backfs.format.refs import FORMAT
from s3backfs.repository.keyslots import (
    KeyedRepository,
    list_slots,
    put_new,
    unlock_for_keys,
)
from s3backfs.repository.local_state import unknown_epoch
from s3backfs.repository.opening import KEYS_PREFIX, Unwrap, get_small
from s3backfs.store.base import Store
from s3backfs.store.memory import MemoryStore


@dataclass(frozen=True, slots=True)
class Imported:
    """What was put back."""

    has_restored_parameters: bool
    slot_ids: tuple[str, ...]


async def export_slots(keys: KeyedRepository) -> bytes:
    """Write repository.json and all sound slots as one file."""
    objects = {slot.key: slot.data for slot in await list_slots(keys) if slot.is_proven}
    objects[REPOSITORY_KEY] = await get_small(keys.store, REPOSITORY_KEY)
    return encode_json(
        {
            "product": PRODUCT,
            "format": FORMAT,
            "objects": {key: to_base64(data) for key, data in objects.items()},
        }
    )


async def open_backup(
    data: bytes, secret: Callable[[], bytes], state_dir: Path, *, unwrap: Unwrap | None
) -> KeyedRepository:
    """Open what was exported as if it were the repository; errors as of `unlock_for_keys`.

    Raises:
        ConfigurationError: it is no such file.
        RepositoryExistsError: it is older than a rotation that this machine has seen.
    """
    store = MemoryStore(_read_objects(data))
    keys = await unlock_for_keys(store, secret, state_dir, must_be_encrypted=True, unwrap=unwrap)
    seen = unknown_epoch(keys.state_dir, keys.keyring)
    if seen is not None:
        raise RepositoryExistsError(
            f"this file was exported before the key was rotated: its newest key is of epoch "
            f"{keys.epoch}, and this machine has seen epoch {seen}; nothing was put back; take an "
            "export that was made since"
        )
    return keys


def _read_objects(data: bytes) -> dict[str, bytes]:
    try:
        texts = decode_json(data)["objects"]
        objects = {str(key): b64decode(text, validate=True) for key, text in texts.items()}
    except (IntegrityError, KeyError, AttributeError, TypeError, ValueError, Base64Error) as error:
        raise ConfigurationError("this file is damaged, or was not made by key export") from error
    is_known = all(key == REPOSITORY_KEY or key.startswith(KEYS_PREFIX) for key in objects)
    if not is_known or REPOSITORY_KEY not in objects:
        raise ConfigurationError("this file is damaged, or was not made by key export")
    return objects


async def import_slots(keys: KeyedRepository, store: Store) -> Imported:
    """Put back what a store lacks of what `open_backup` opened.

    Raises:
        RepositoryExistsError: another repository is there, or it was rotated since.
    """
    present = await _get_or_none(store, REPOSITORY_KEY)
    if present is not None and not decode_parameters(present).is_newest(keys.master):
        raise RepositoryExistsError(
            f"{store.url}: repository.json is of another repository, or was rotated since the"
            " export; remove it only if it is damaged"
        )
    put_back = []
    for slot in await list_slots(keys):
        if slot.is_proven and await _get_or_none(store, slot.key) != slot.data:
            # A slot never changes: what else stands there is damage.
            await store.put(slot.key, slot.data)
            put_back.append(slot.slot_id)
    if present is None:
        await put_new(store, REPOSITORY_KEY, await get_small(keys.store, REPOSITORY_KEY))
    return Imported(present is None, tuple(put_back))


async def _get_or_none(store: Store, key: str) -> bytes | None:
    try:
        return await get_small(store, key)
    except ObjectMissingError:
        return None
