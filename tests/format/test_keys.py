"""Hashes, ciphers and names that derive from the master keys."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from s3backfs.errors import FileSystemError, IntegrityError
from s3backfs.format.keys import Keyring
from s3backfs.format.refs import Kind
from tests.format.samples import (
    AES,
    CLEAR,
    MASTER_0,
    PACK_ID,
    ROTATED,
    each_keyring,
)


def test_repr_shows_no_key() -> None:
    """Nothing that can get into a log shows key bytes."""
    cipher = AES.pack_cipher(Kind.DATA, PACK_ID)
    for text in (repr(AES), repr(cipher)):
        assert MASTER_0.hex() not in text
        assert "x0" not in text


def test_hashes_outlive_rotation() -> None:
    """Ids, cuts, numbers, names and the repository's id stay when the master changes."""
    assert ROTATED.epoch == 1
    for keyring in (AES, ROTATED):
        assert keyring.chunk_id(b"a") == AES.chunk_id(b"a")
        assert keyring.cut_hash(0, b"a") == AES.cut_hash(0, b"a")
        assert keyring.path_hash(b"a", 0) == AES.path_hash(b"a", 0)
        assert keyring.encode_name(b"a") == AES.encode_name(b"a")
        assert keyring.repository_id == AES.repository_id


def test_unknown_epoch() -> None:
    """A frame of an epoch that is not known is damage, with a text that says so."""
    with pytest.raises(IntegrityError, match="epoch 5"):
        AES.pack_cipher(Kind.DATA, PACK_ID, 5)
    with pytest.raises(IntegrityError, match="epoch 5"):
        AES.object_cipher(Kind.ROOT, "open/a", 5)


@given(key=st.binary(), attempt=st.integers(0, 2**32 - 1))
def test_ranges(key: bytes, attempt: int) -> None:
    """Numbers have 48 bits and are never 0 or 1, cuts have 32 bits, ids 16 bytes."""
    assert 2 <= AES.path_hash(key, attempt) < 2**48
    assert 0 <= AES.cut_hash(attempt % 32, key) < 2**32
    assert len(AES.link_id(key, attempt)) == len(AES.chunk_id(key)) == 16


def test_attempts_and_levels_differ() -> None:
    """Another attempt or level gives another hash of the same key."""
    assert AES.path_hash(b"a", 0) != AES.path_hash(b"a", 1)
    assert AES.link_id(b"a", 0) != AES.link_id(b"a", 1)
    assert AES.cut_hash(0, b"a") != AES.cut_hash(1, b"a")


NAMES = st.binary(min_size=1, max_size=140).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)


@each_keyring()
@given(name=NAMES)
def test_names_round_trip(keyring: Keyring, name: bytes) -> None:
    """Every name is a part of a key that any server takes, and is read back."""
    try:
        text = keyring.encode_name(name)
    except FileSystemError:
        assert keyring is CLEAR
        assert len(name) > 85
        return
    assert text.isascii()
    assert len(text) <= 255
    assert not text.startswith(".")
    assert "/" not in text
    assert keyring.decode_name(text) == name


@each_keyring()
@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0b", b"x" * 256])
def test_no_names(keyring: Keyring, name: bytes) -> None:
    """What no directory can be called has no key."""
    with pytest.raises(FileSystemError):
        keyring.encode_name(name)


def test_longest_encrypted_name() -> None:
    """140 bytes fit into a part of a key, encrypted."""
    assert len(AES.encode_name(b"x" * 140)) <= 255


def test_plain_names_are_readable() -> None:
    """Without encryption a person can read the name of a backup in the bucket's listing."""
    assert CLEAR.encode_name(b"web1-2026_11.21~a") == "web1-2026_11.21~a"
    assert CLEAR.encode_name(b".a b\xc3\xa9%") == "%2Ea%20b%C3%A9%25"


@each_keyring()
@given(text=st.text(max_size=60))
def test_any_text_is_a_name_or_not(keyring: Keyring, text: str) -> None:
    """A foreign key part is IntegrityError, and what decodes has this form only."""
    try:
        name = keyring.decode_name(text)
    except IntegrityError:
        return
    assert keyring.encode_name(name) == text


@given(name=NAMES, at=st.integers(0))
def test_changed_names_do_not_open(name: bytes, at: int) -> None:
    """An encrypted name with another letter is not a name."""
    text = AES.encode_name(name)
    at %= len(text)
    changed = text[:at] + ("b" if text[at] == "a" else "a") + text[at + 1 :]
    assume(changed != text)
    with pytest.raises(IntegrityError):
        AES.decode_name(changed)
