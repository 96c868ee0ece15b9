"""Frames and bodies."""

from __future__ import annotations

import os
import random
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from s3backfs.errors import IntegrityError
from s3backfs.format.codec import MAX_PLAIN_BYTES, Codec, compress, compress_patch, expand
from s3backfs.format.frame import (
    AES_OVERHEAD_BYTES,
    PLAIN_OVERHEAD_BYTES,
    frame_length,
    open_frame,
    seal_frame,
    seal_into,
    verify_frame,
)
from s3backfs.format.keys import Keyring
from s3backfs.format.refs import Kind
from tests.format.samples import AES, CLEAR, PACK_ID, assert_refuses_damage, each_keyring, sample_id

TEXT = b"to be stored, and stored again; " * 8


@each_keyring()
@given(plain=st.binary(max_size=2000), level=st.none() | st.integers(1, 5), offset=st.integers(0))
def test_round_trip(keyring: Keyring, plain: bytes, level: int | None, offset: int) -> None:
    """Whatever was compressed and sealed for a place opens there to the same bytes."""
    offset %= 2**64
    cipher = keyring.pack_cipher(Kind.DATA, PACK_ID)
    body = compress(plain, level)
    frame = seal_frame(cipher, offset, body)
    assert len(frame) == frame_length(keyring.encryption, len(body))
    assert open_frame(cipher, offset, frame, len(plain)) == plain


@each_keyring()
def test_damage(keyring: Keyring) -> None:
    """A flipped bit, a cut and an appended byte are all noticed, wherever they are."""
    cipher = keyring.pack_cipher(Kind.DATA, PACK_ID)
    for level in (None, 3):
        frame = seal_frame(cipher, 7, compress(TEXT, level))
        assert_refuses_damage(frame, lambda data: open_frame(cipher, 7, data, len(TEXT)))


@each_keyring()
def test_a_frame_opens_in_its_place_only(keyring: Keyring) -> None:
    """Another offset, pack, kind or length than the frame was sealed for is an error."""
    frame = seal_frame(keyring.pack_cipher(Kind.DATA, PACK_ID), 7, compress(TEXT, 3))
    for kind, pack_id, offset, length in [
        (Kind.DATA, PACK_ID, 8, len(TEXT)),
        (Kind.DATA, sample_id(1), 7, len(TEXT)),
        (Kind.META, PACK_ID, 7, len(TEXT)),
        (Kind.DATA, PACK_ID, 7, len(TEXT) - 1),
        (Kind.DATA, PACK_ID, 7, len(TEXT) + 1),
        (Kind.DATA, PACK_ID, 7, -1),
        (Kind.DATA, PACK_ID, 7, 2**40),
    ]:
        with pytest.raises(IntegrityError):
            open_frame(keyring.pack_cipher(kind, pack_id), offset, frame, length)


def test_modes_do_not_mix() -> None:
    """A frame without encryption never opens with a key, nor the other way round."""
    for writer, reader in [(AES, CLEAR), (CLEAR, AES)]:
        frame = seal_frame(writer.pack_cipher(Kind.DATA, PACK_ID), 0, compress(TEXT, 3))
        with pytest.raises(IntegrityError):
            open_frame(reader.pack_cipher(Kind.DATA, PACK_ID), 0, frame, len(TEXT))


def test_overheads() -> None:
    """Sealing adds 28 bytes with a key and 16 without."""
    assert (AES.encryption.overhead_bytes, AES_OVERHEAD_BYTES) == (28, 28)
    assert (CLEAR.encryption.overhead_bytes, PLAIN_OVERHEAD_BYTES) == (16, 16)


def test_nonces_differ_where_anything_differs() -> None:
    """Two places, two packs or two contents never share a nonce; the same of all does."""
    cipher = AES.pack_cipher(Kind.DATA, PACK_ID)
    other = AES.pack_cipher(Kind.DATA, sample_id(1))
    frames = [
        seal_frame(cipher, 0, b"\0same"),
        seal_frame(cipher, 1, b"\0same"),
        seal_frame(cipher, 0, b"\0other"),
        seal_frame(other, 0, b"\0same"),
    ]
    assert len({frame[:12] for frame in frames}) == 4
    assert seal_frame(cipher, 0, b"\0same") == frames[0]


@each_keyring()
def test_seal_into_a_larger_buffer(keyring: Keyring) -> None:
    """A frame is sealed into its part of a pack's buffer, and nothing beside it changes."""
    cipher = keyring.pack_cipher(Kind.DATA, PACK_ID)
    body = compress(memoryview(TEXT), 3)
    length = frame_length(keyring.encryption, len(body))
    pack = bytearray(b"x" * (length + 20))
    seal_into(cipher, 10, body, memoryview(pack)[10 : 10 + length])
    assert pack[:10] == pack[-10:] == b"x" * 10
    assert bytes(pack[10 : 10 + length]) == seal_frame(cipher, 10, body)
    with pytest.raises(ValueError, match="length"):
        seal_into(cipher, 10, body, memoryview(pack))


@each_keyring()
def test_verify(keyring: Keyring) -> None:
    """Verification passes for the plaintext that was sealed and for no other."""
    cipher = keyring.pack_cipher(Kind.DATA, PACK_ID)
    frame = seal_frame(cipher, 0, compress(TEXT, 3))
    verify_frame(cipher, 0, frame, memoryview(TEXT))
    with pytest.raises(IntegrityError):
        verify_frame(cipher, 0, frame, TEXT[:-1] + b"?")


@pytest.mark.parametrize("place", [0, 65_535, 65_536, 200_000, 250_000])
def test_verify_looks_at_every_byte(place: int) -> None:
    """One flipped bit anywhere in a long plaintext is found, also in a view."""
    cipher = AES.pack_cipher(Kind.DATA, PACK_ID)
    plain = bytearray(random.Random(1).randbytes(250_001))
    frame = seal_frame(cipher, 0, compress(plain, 3))
    verify_frame(cipher, 0, frame, memoryview(plain))
    plain[place] ^= 1
    with pytest.raises(IntegrityError):
        verify_frame(cipher, 0, frame, memoryview(plain))


# -- bodies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 3, 9, 19])
def test_noise_is_stored(level: int) -> None:
    """What does not shrink is stored with one byte more, at any level."""
    noise = os.urandom(200_000)
    assert compress(noise, level) == b"\0" + noise


def test_text_is_compressed() -> None:
    """What shrinks is compressed, unless compression is off."""
    assert compress(TEXT, 3)[0] == Codec.ZSTD
    assert compress(TEXT, None) == b"\0" + TEXT
    assert compress(b"", 3) == b"\0"


@given(base=st.binary(min_size=1, max_size=3000), edit=st.binary(max_size=100), at=st.integers(0))
def test_patch(base: bytes, edit: bytes, at: int) -> None:
    """A patch and its base give the plaintext; without the base, or with another, nothing."""
    at %= len(base)
    plain = base[:at] + edit + base[at:]
    body = compress_patch(plain, base)
    assert expand(body, len(plain), memoryview(base)) == plain
    for wrong in (None, b""):
        with pytest.raises(IntegrityError):
            expand(body, len(plain), wrong)


def test_patch_is_small() -> None:
    """One change in a node costs a few bytes, not the node."""
    base = os.urandom(100_000)
    plain = base[:50_000] + b"changed" + base[50_000:]
    assert len(compress_patch(plain, base)) < 200


def _zstd(plain: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(plain)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x03" + TEXT,
        b"\x01",
        b"\x01" + TEXT,
        b"\x01" + _zstd(TEXT) + b"\0",
        b"\x01" + _zstd(TEXT) * 2,
        b"\x01" + _zstd(TEXT)[:-1],
        b"\x01" + _zstd(TEXT + b"x"),
        b"\x01" + zstandard.ZstdCompressor(write_content_size=False).compress(TEXT),
    ],
)
def test_bad_bodies(body: bytes) -> None:
    """Unknown codecs, left-over bytes and other lengths than stated are errors."""
    with pytest.raises(IntegrityError):
        expand(body, len(TEXT))


def test_bombs_cost_nothing() -> None:
    """A body that would expand to gigabytes is refused without memory for it."""
    bomb = b"\x01" + _zstd(bytes(256 * 1024 * 1024))
    tracemalloc.start()
    for length in (100, MAX_PLAIN_BYTES, 256 * 1024 * 1024, 2**62):
        with pytest.raises(IntegrityError):
            expand(bomb, length)
    assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    tracemalloc.stop()


@given(body=st.binary(max_size=300), length=st.integers(-1, 400), base=st.none() | st.binary())
def test_any_body(body: bytes, length: int, base: bytes | None) -> None:
    """Whatever bytes a body has, it yields the stated length or IntegrityError."""
    for prefix in (b"", b"\x01", b"\x01\x28\xb5\x2f\xfd", b"\x02\x28\xb5\x2f\xfd"):
        with suppress(IntegrityError):
            assert len(expand(prefix + body, length, base)) == length


@each_keyring()
def test_threads_share_a_cipher(keyring: Keyring) -> None:
    """Many threads seal and open with one cipher at once, and each gets its own bytes back."""
    cipher = keyring.pack_cipher(Kind.DATA, PACK_ID)
    plains = [bytes([number]) * 100_000 + os.urandom(1000) for number in range(64)]

    def seal_and_open(number: int) -> bool:
        frame = seal_frame(cipher, number, compress(plains[number], 1))
        return open_frame(cipher, number, frame, len(plains[number])) == plains[number]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(seal_and_open, range(64)))
