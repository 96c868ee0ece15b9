"""Which object keys the contract allows."""

from __future__ import annotations

from s3backfs.errors import StoreError

LONGEST_KEY_BYTES = 1024
LONGEST_PART_BYTES = 255


def check_key(key: str) -> None:
    """Refuse a key that some store could not hold, or that could leave a local directory.

    Raises:
        StoreError: the key breaks a rule of `s3backfs.store.base`.
    """
    if not key.isascii() or not key.isprintable() or not key:
        raise StoreError("a key must be of printable ASCII", key=ascii(key))
    if len(key) > LONGEST_KEY_BYTES:
        raise StoreError(f"a key is at most {LONGEST_KEY_BYTES} bytes long", key=key)
    for part in key.split("/"):
        if part in ("", ".", "..") or len(part) > LONGEST_PART_BYTES:
            raise StoreError(f"a key can not have the part {part!r}", key=key)
