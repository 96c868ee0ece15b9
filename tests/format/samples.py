"""Fixed keys and values, and damage, for the tests of the format."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from s3backfs.errors import IntegrityError, UnsupportedFormatError
from s3backfs.format.frame import Encryption
from s3backfs.format.keys import Keyring
from s3backfs.format.pack import BaseRow, PackRow, SliceRow
from s3backfs.format.refs import Ref, Top
from s3backfs.format.root import BackupState, Owner, Root, Seen, Statistics

MASTER_0 = bytes(range(32))
MASTER_1 = bytes(range(32, 64))
PACK_ID = bytes.fromhex("00112233445566778899aabbccddeeff")

AES = Keyring(Encryption.AES256_GCM, {0: MASTER_0})
ROTATED = Keyring(Encryption.AES256_GCM, {0: MASTER_0, 1: MASTER_1})
CLEAR = Keyring(Encryption.NONE, {0: MASTER_0})
KEYRINGS = [AES, CLEAR]


def each_keyring() -> pytest.MarkDecorator:
    """Run a test with encryption and without."""
    return pytest.mark.parametrize("keyring", KEYRINGS, ids=["aes", "none"])


def sample_id(number: int) -> bytes:
    """An id that is easy to see in a dump."""
    return bytes([number]) * 16


REF = Ref(
    pack_id=PACK_ID,
    epoch=0,
    pack_offset=1000,
    frame_length=200,
    chunk_length=300,
    slice_offset=10,
    slice_length=20,
    id=sample_id(1),
)
PATCHED = Ref(
    pack_id=PACK_ID,
    epoch=0,
    pack_offset=2000,
    frame_length=50,
    chunk_length=300,
    slice_offset=0,
    slice_length=300,
    id=sample_id(2),
    base=REF,
)

ROWS = (
    PackRow(0, 100, 200, sample_id(1)),
    PackRow(
        100,
        60,
        90,
        sample_id(2),
        (SliceRow(sample_id(3), 0, 40), SliceRow(sample_id(4), 40, 50)),
    ),
    PackRow(160, 40, 500, sample_id(5), (), BaseRow(PACK_ID, 0, 0, 100, 200, sample_id(1))),
)


def sample_root(keyring: Keyring) -> Root:
    """A root that has something in every field."""
    return Root(
        repository_id=keyring.repository_id,
        backup_id=sample_id(6),
        name=b"monday",
        slot=7,
        state=BackupState.SEALED,
        created_ns=1_700_000_000_000_000_000,
        updated_ns=1_700_000_001_000_000_000,
        sealed_ns=1_700_000_002_000_000_000,
        owner=Owner(1, sample_id(8), 5, sample_id(9)),
        host="web1",
        statistics=Statistics(entries=3, files=2, logical_bytes=4096, stored_bytes=100),
        top=Top(1, PATCHED, None, 3),
        seen=(Seen(b"sunday", sample_id(10)),),
        bases=(sample_id(11),),
        tags={"host": "web1"},
        incomplete=(sample_id(12),),
    )


def damaged(data: bytes) -> Iterator[bytes]:
    """Everything that one flipped bit in each byte, a cut or an appendage makes of `data`."""
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
        yield bytes(flipped)
        yield data[:at]
    yield data + b"\0"


def assert_refuses_damage(data: bytes, read: Callable[[bytes], object]) -> None:
    """Hold a reader to IntegrityError (or UnsupportedFormatError) for every damage."""
    for broken in damaged(data):
        with pytest.raises((IntegrityError, UnsupportedFormatError)):
            read(broken)
