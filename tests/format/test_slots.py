"""Key slots, repository.json, and their canonical JSON."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3backfs.errors import IntegrityError, UnsupportedFormatError, WrongKeyError
from s3backfs.format import slots
from s3backfs.format.canonical import decode_json, encode_json
from s3backfs.format.keys import Keyring
from s3backfs.format.parameters import (
    Parameters,
    decode_parameters,
    encode_parameters,
    unwrap_master,
    wrap_master,
)
from s3backfs.format.slots import (
    Cost,
    Unlocked,
    open_slot,
    seal_slot,
    slot_repository,
)
from s3backfs.format.unlocking import open_slots
from tests.format.samples import (
    AES,
    CLEAR,
    MASTER_0,
    MASTER_1,
    ROTATED,
    assert_refuses_damage,
    each_keyring,
    sample_id,
)

CHEAP = Cost(lanes=1, memory_kib=8, passes=1)
REPOSITORY = AES.repository_id
KEY, SLOT = seal_slot(b"secret", REPOSITORY, 0, MASTER_0, CHEAP)


def changed(data: bytes, **fields: Any) -> bytes:
    """The slot with other fields and a digest that fits."""
    value = json.loads(data) | fields
    value.pop("digest", None)
    return encode_json(value | {"digest": slots.slot_digest(value)})


# -- slots ------------------------------------------------------------------------------------


def test_slot_round_trip() -> None:
    """The passphrase gives the master back, and no repr shows it."""
    unlocked = open_slot(KEY, SLOT, b"secret")
    assert unlocked == Unlocked(KEY, 0, MASTER_0)
    assert MASTER_0.hex() not in repr(unlocked)
    assert "x0" not in repr(unlocked)
    assert slot_repository(SLOT) == REPOSITORY


def test_wrong_passphrase() -> None:
    """A wrong passphrase is WrongKeyError, not damage."""
    for wrong in (b"", b"Secret", b"secret\n"):
        with pytest.raises(WrongKeyError):
            open_slot(KEY, SLOT, wrong)


def test_slot_damage() -> None:
    """Damage is told from a wrong passphrase, wherever it is, with either passphrase."""
    for passphrase in (b"secret", b"wrong"):
        assert_refuses_damage(SLOT, lambda data, word=passphrase: open_slot(KEY, data, word))  # type: ignore[misc]


@pytest.mark.parametrize(
    "cost",
    [
        {"lanes": 17, "memory_kib": 65536, "passes": 1},
        {"lanes": 1, "memory_kib": 1024 * 1024 + 1, "passes": 1},
        {"lanes": 1, "memory_kib": 8, "passes": 17},
        {"lanes": 2, "memory_kib": 8, "passes": 1},
        {"lanes": 0, "memory_kib": 8, "passes": 1},
        {"lanes": 1, "memory_kib": 2**70, "passes": 1},
        {"lanes": 1, "memory_kib": 8.0, "passes": 1},
        {"lanes": 1, "memory_kib": 8},
    ],
)
def test_hostile_costs(cost: dict[str, Any]) -> None:
    """Costs out of bounds are refused before anything is computed."""
    with pytest.raises(IntegrityError):
        open_slot(KEY, changed(SLOT, argon2id=cost), b"secret")


@pytest.mark.parametrize(
    "fields", [{"epoch": 1}, {"repository": "0" * 32}, {"wrapped": "A" * 80}], ids=str
)
def test_forged_slot(fields: dict[str, Any]) -> None:
    """A slot that was changed by one who can compute digests does not unwrap."""
    with pytest.raises(IntegrityError):
        open_slot(KEY, changed(SLOT, **fields), b"secret")


def test_slot_under_another_key() -> None:
    """A slot is read under its own key only."""
    with pytest.raises(IntegrityError):
        open_slot("keys/" + "0" * 32 + ".json", SLOT, b"secret")


def test_one_of_many() -> None:
    """Slots of other kinds, passphrases and repositories, and damaged ones, do not matter."""
    other_key, other = seal_slot(b"another", REPOSITORY, 0, MASTER_0, CHEAP)
    foreign_key, foreign = seal_slot(b"secret", sample_id(1), 0, MASTER_1, CHEAP)
    known = {
        KEY: SLOT,
        other_key: other,
        foreign_key: foreign,
        "keys/0.json": changed(SLOT, kind="palm"),
        "keys/00.json": b"{",
        "keys/000.json": changed(SLOT, format=2),
    }
    assert open_slots(known, REPOSITORY, 0, b"secret").master == MASTER_0
    assert open_slots(known, REPOSITORY, 0, b"another").slot_key == other_key
    with pytest.raises(WrongKeyError):
        open_slots(known, REPOSITORY, 0, b"wrong")


def test_no_slot_opens() -> None:
    """Without a slot to try, damage, newer slots and none at all are told apart."""
    with pytest.raises(IntegrityError, match="no key slot"):
        open_slots({}, REPOSITORY, 0, b"secret")
    with pytest.raises(IntegrityError, match=r"keys/0\.json"):
        open_slots({"keys/0.json": b"{"}, REPOSITORY, 0, b"secret")
    with pytest.raises(UnsupportedFormatError):
        open_slots({KEY: changed(SLOT, kind="palm")}, REPOSITORY, 0, b"secret")
    with pytest.raises(IntegrityError, match="more than 32"):
        open_slots({f"keys/{number}.json": SLOT for number in range(33)}, REPOSITORY, 0, b"secret")


# -- repository.json --------------------------------------------------------------------------


def parameters_of(keyring: Keyring) -> Parameters:
    return Parameters(encryption=keyring.encryption, created_s=1_700_000_000)


@each_keyring()
def test_parameters_round_trip(keyring: Keyring) -> None:
    """What was written is read back, and yields the same keys."""
    parameters = parameters_of(keyring)
    locked = decode_parameters(encode_parameters(parameters, keyring))
    assert locked.parameters == parameters
    assert locked.repository_id == keyring.repository_id
    assert locked.is_encrypted == (keyring is AES)
    opened = locked.unlock(0, MASTER_0) if locked.is_encrypted else locked.unlock_clear()
    assert opened.chunk_id(b"a") == keyring.chunk_id(b"a")
    assert opened.encryption == keyring.encryption


@each_keyring()
def test_parameters_damage(keyring: Keyring) -> None:
    """Any damage is found, at the latest when the master is there."""

    def read(data: bytes) -> Keyring:
        locked = decode_parameters(data)
        return locked.unlock(0, MASTER_0) if locked.is_encrypted else locked.unlock_clear()

    assert_refuses_damage(encode_parameters(parameters_of(keyring), keyring), read)


def test_encrypted_parameters_hold_no_key() -> None:
    """repository.json of an encrypted repository gives no master away."""
    data = encode_parameters(parameters_of(AES), AES)
    assert json.loads(data)["master"] is None
    with pytest.raises(IntegrityError):
        decode_parameters(data).unlock_clear()


def test_locked_shows_no_key() -> None:
    """The repr of what was read shows no key, not even of a repository without encryption."""
    shown = repr(decode_parameters(encode_parameters(parameters_of(CLEAR), CLEAR)))
    assert MASTER_0.hex() not in shown
    assert "AAEC" not in shown


def test_rotation() -> None:
    """The newest master opens all older ones; an older one opens nothing."""
    locked = decode_parameters(encode_parameters(parameters_of(AES), ROTATED))
    keyring = locked.unlock(1, MASTER_1)
    assert (keyring.master(0), keyring.master(1)) == (MASTER_0, MASTER_1)
    for epoch, master in [(0, MASTER_0), (1, MASTER_0)]:
        with pytest.raises(IntegrityError):
            locked.unlock(epoch, master)


def test_wrapped_masters_are_bound_to_their_epoch() -> None:
    """A wrapped master opens with the key and the epoch it was wrapped for."""
    wrapped = wrap_master(MASTER_1, 0, MASTER_0)
    assert unwrap_master(MASTER_1, 0, wrapped) == MASTER_0
    for key, epoch in [(MASTER_0, 0), (MASTER_1, 1), (b"", 0)]:
        with pytest.raises(IntegrityError):
            unwrap_master(key, epoch, wrapped)


def test_newer_repository() -> None:
    """Newer formats and unknown features say that a newer program is needed."""
    value = json.loads(encode_parameters(parameters_of(AES), AES))
    for fields in ({"format": 2, "layout": "new"}, {"requires": ["packs-of-packs"]}):
        with pytest.raises(UnsupportedFormatError, match="newer s3backfs"):
            decode_parameters(encode_json(value | fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"encryption": "none"},
        {"encryption": "rot13"},
        {"requires": None},
        {"older": [{"epoch": 0, "wrapped": "A"}]},
        {"chunk_bounds": {}, "pack_bytes": 1},
        {"format": 0},
        {"format": True},
        {"extra": 1},
    ],
    ids=str,
)
def test_bad_parameters(fields: dict[str, Any]) -> None:
    """Fields that are missing, unknown or out of bounds are damage."""
    value = json.loads(encode_parameters(parameters_of(AES), AES))
    with pytest.raises(IntegrityError):
        decode_parameters(encode_json(value | fields)).unlock(0, MASTER_0)


# -- JSON -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null\n",
        b"[" * 100_000,
        b'{"product":"s3backfs","format":1}',
        b'{"format":1, "product":"s3backfs"}\n',
        b'{"format":1,"format":1,"product":"s3backfs"}\n',
        b'{"format":1,"product":"restic"}\n',
        b'{"format":' + b"1" * 5000 + b',"product":"s3backfs"}\n',
        b'{"format":1,"product":"s3backfs","x":NaN}\n ',
        b"\xff",
        b" " * 300_000,
    ],
    ids=range(11),
)
def test_only_canonical_json(data: bytes) -> None:
    """JSON in any other form than the one that is written is damage."""
    with pytest.raises(IntegrityError):
        decode_json(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=10,
)
FIELDS = sorted(
    {*json.loads(SLOT), *json.loads(encode_parameters(parameters_of(CLEAR), CLEAR))} - {"format"}
)


@given(
    data=st.binary(max_size=100),
    name=st.sampled_from(FIELDS),
    value=JSON,
)
def test_any_json(data: bytes, name: str, value: Any) -> None:
    """Whatever stands in an object or one of its fields, reading raises known errors only."""
    clear = json.loads(encode_parameters(parameters_of(CLEAR), CLEAR))
    for raw in (data, encode_json(clear | {name: value})):
        with suppress(IntegrityError, UnsupportedFormatError):
            decode_parameters(raw).unlock(0, MASTER_0)
    for raw in (data, changed(SLOT, **{name: value})):
        with suppress(IntegrityError, UnsupportedFormatError, WrongKeyError):
            open_slot(KEY, raw, b"secret")
        slot_repository(raw)
