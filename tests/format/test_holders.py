"""Key slots that are sealed to public keys, and secrets written as text."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3backfs.errors import (
    ConfigurationError,
    IntegrityError,
    UnsupportedFormatError,
    WrongKeyError,
)
from s3backfs.format.canonical import encode_json
from s3backfs.format.holders import (
    Holder,
    HolderKind,
    KmsBlob,
    is_made_with,
    new_holder,
    new_passphrase_holder,
    open_holder_slot,
    private_key,
    read_holder_slot,
    seal_to_holder,
)
from s3backfs.format.slots import Cost, slot_digest
from s3backfs.format.unlocking import open_slots
from s3backfs.format.words import (
    read_identity,
    read_recovery,
    write_identity,
    write_recovery,
)
from tests.format.samples import AES, MASTER_0, MASTER_1, assert_refuses_damage, sample_id

VECTORS = json.loads(Path(__file__).with_name("holder_vectors.json").read_text())
CHEAP = Cost(lanes=1, memory_kib=8, passes=1)
REPOSITORY = AES.repository_id
IDENTITY = bytes(range(32))
HOLDER = new_holder("x25519", IDENTITY, REPOSITORY, "file", 1_700_000_000)
KEY, SLOT = seal_to_holder(HOLDER, REPOSITORY, 0, MASTER_0)


def changed(data: bytes, **fields: Any) -> bytes:
    """The slot with other fields and a digest that fits."""
    value = json.loads(data) | fields
    value.pop("digest", None)
    return encode_json(value | {"digest": slot_digest(value)})


def given_for(kind: HolderKind) -> tuple[bytes, Holder]:
    """What a person gives, and the holder it belongs to."""
    if kind == "argon2id":
        return b"secret", new_passphrase_holder(b"secret", REPOSITORY, "", 1, CHEAP)
    secret = bytes(range(20)) if kind == "recovery" else IDENTITY
    texts = {
        "recovery": write_recovery,
        "raw": bytes.hex,
        "x25519": lambda key: "# made\n" + write_identity(key),
    }
    return texts[kind](secret).encode(), new_holder(kind, secret, REPOSITORY, "", 1)


@pytest.mark.parametrize("kind", ["argon2id", "raw", "recovery", "x25519"])
def test_each_kind_opens(kind: HolderKind) -> None:
    """What a person gives opens a slot of its kind, also one that was sealed without it."""
    secret, holder = given_for(kind)
    for epoch, master in [(0, MASTER_0), (1, MASTER_1)]:
        slots = dict([seal_to_holder(holder, REPOSITORY, epoch, master)])
        assert open_slots(slots, REPOSITORY, epoch, secret).master == master
        with pytest.raises(WrongKeyError):
            open_slots(slots, REPOSITORY, epoch, b"something else")


@pytest.mark.parametrize("name", sorted(VECTORS))
def test_vectors(name: str) -> None:
    """Slots that were stored once open for ever."""
    vector = VECTORS[name]
    data = vector["slot"].encode()
    key = f"keys/{json.loads(data)['id']}.json"
    expected = bytes.fromhex(vector["master"])
    if name == "kms":
        slot = read_holder_slot(key, data)
        private = private_key("kms", bytes.fromhex(vector["secret"]))
        assert open_holder_slot(slot, private).master == expected
        return
    repository_id = bytes.fromhex(json.loads(data)["repository"])
    unlocked = open_slots({key: data}, repository_id, vector["epoch"], vector["given"].encode())
    assert unlocked.master == expected


def test_damage() -> None:
    """Damage anywhere in a slot is found."""
    assert_refuses_damage(
        SLOT, lambda data: open_holder_slot(read_holder_slot(KEY, data), IDENTITY)
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"epoch": 1},
        {"label": "other"},
        {"repository": "0" * 32},
        {"proof": b64encode(bytes(32)).decode()},
        {"mac": "0" * 64},
        {"share": b64encode(bytes(32)).decode()},
        {"wrapped": b64encode(bytes(48)).decode()},
        {"wrapped": b64encode(bytes(47)).decode()},
        {"kind": "argon2id"},
    ],
    ids=str,
)
def test_forged(fields: dict[str, Any]) -> None:
    """A slot that was changed by one who can compute digests does not open."""
    data = changed(SLOT, **fields)
    place = json.loads(data)
    repository_id, epoch = bytes.fromhex(place["repository"]), place["epoch"]
    with pytest.raises((IntegrityError, WrongKeyError)):
        open_slots({KEY: data}, repository_id, epoch, write_identity(IDENTITY).encode())


def test_another_repository_sealed_to_my_key() -> None:
    """Who knows only my public key can not make a repository of theirs that my secret opens."""
    foreign = sample_id(9)
    key, data = seal_to_holder(HOLDER, foreign, 0, MASTER_1)
    with pytest.raises(IntegrityError, match="another repository"):
        open_holder_slot(read_holder_slot(key, data), IDENTITY)


def test_only_who_has_the_master_makes_slots() -> None:
    """The MAC tells slots made with the master from all others."""
    slot = read_holder_slot(KEY, SLOT)
    assert is_made_with(slot, MASTER_0)
    assert not is_made_with(slot, MASTER_1)
    forged = changed(SLOT, recipient=b64encode(bytes(31) + b"\t").decode())
    assert not is_made_with(read_holder_slot(KEY, forged), MASTER_0)


def test_slots_of_other_epochs_are_passed_over() -> None:
    """What an interrupted rotation left does not matter, even under the right epoch."""
    given = write_identity(IDENTITY).encode()
    left = dict(seal_to_holder(HOLDER, REPOSITORY, epoch, MASTER_1) for epoch in [0] * 8 + [1] * 8)
    opened = open_slots({**left, KEY: SLOT}, REPOSITORY, 0, given, lambda key: key == MASTER_0)
    assert opened.slot_key == KEY


def test_kms_blob_is_kept() -> None:
    """What the key management service made is read back."""
    blob = KmsBlob(blob="AAAA", key="arn:aws:kms:us-east-1:1:key/a")
    holder = new_holder("kms", IDENTITY, REPOSITORY, "", 1, blob)
    key, data = seal_to_holder(holder, REPOSITORY, 0, MASTER_0)
    assert read_holder_slot(key, data).holder == holder


def test_unknown_kind() -> None:
    """A kind that nobody knows says so."""
    with pytest.raises(UnsupportedFormatError):
        read_holder_slot(KEY, changed(SLOT, kind="palm"))


# -- text -------------------------------------------------------------------------------------


@given(st.binary(min_size=20, max_size=20))
def test_recovery_words(secret: bytes) -> None:
    """A recovery key is read in both cases and with any separators."""
    words = write_recovery(secret)
    assert read_recovery(words.upper().replace("-", " \n")) == secret


@given(st.binary(min_size=20, max_size=20), st.integers(0, 70), st.sampled_from("abdiouz"))
def test_recovery_mistakes(secret: bytes, place: int, letter: str) -> None:
    """One wrong letter in a recovery key is always told, and never opens anything else."""
    words = write_recovery(secret)
    if words[place] in ("-", letter):
        return
    with pytest.raises(ConfigurationError, match="mistake"):
        read_recovery(words[:place] + letter + words[place + 1 :])


def test_passphrases_are_no_recovery_keys() -> None:
    """Words that are no proquints are a passphrase."""
    assert read_recovery("correct horse battery staple") is None
    assert read_recovery(" ".join(["where"] * 12)) is None


@given(st.binary(min_size=32, max_size=32))
def test_identities(secret: bytes) -> None:
    """An identity is read from a file with comments; a wrong letter is told."""
    line = write_identity(secret)
    assert read_identity(f"# made by somebody\n\n{line}\n") == secret
    wrong = line[:-1] + ("Q" if line[-1] != "Q" else "P")
    with pytest.raises(ConfigurationError):
        read_identity(wrong)


def test_identity_of_age() -> None:
    """An identity that age made is read as the key that it is."""
    line = "AGE-SECRET-KEY-184JMZMVQH3E6U0PSL869004Y3U2NYV7R30EU99CSEDNPH02YUVFSZW44VU"
    secret = read_identity(line)
    assert secret is not None
    assert write_identity(secret) == line
    public = b64decode(new_holder("x25519", secret, REPOSITORY, "", 1).recipient)
    assert public.hex() == "c11f0e152e4c5092edc7d1d142716f2875322d3bdcecbc984a2769c020acf961"
