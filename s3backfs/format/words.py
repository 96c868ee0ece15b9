"""Secrets as text: recovery keys as pronounceable words, age's identities as Bech32.

Source: docs/format.md, "Slots of holders"; arXiv:0901.4016 (proquints), BIP 173 (Bech32).
"""

from __future__ import annotations

import hmac

from blake3 import blake3

from s3backfs.errors import ConfigurationError

RECOVERY_BYTES = 20
IDENTITY_BYTES = 32

_CHECK_BYTES = 4
_CONSONANTS = "bdfghjklmnprstvz"
_VOWELS = "aiou"

_IDENTITY_PART = "AGE-SECRET-KEY-"
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


# -- recovery keys ----------------------------------------------------------------------------


def write_recovery(secret: bytes) -> str:
    """Write a recovery key as words of five letters, each 16 bits; the last two are a check."""
    whole = secret + _check_of(secret)
    pairs = (whole[place : place + 2] for place in range(0, len(whole), 2))
    return "-".join(_write_word(int.from_bytes(pair, "big")) for pair in pairs)


def read_recovery(text: str) -> bytes | None:
    """Undo `write_recovery`; words may be parted by anything but letters. None: it is no such key.

    Raises:
        ConfigurationError: it is one with a slip of the pen.
    """
    words = "".join(c if c.isascii() and c.isalpha() else " " for c in text.lower()).split()
    if len(words) != (RECOVERY_BYTES + _CHECK_BYTES) // 2 or {len(word) for word in words} != {5}:
        return None
    numbers = [_read_word(word) for word in words]
    known = [number for number in numbers if number is not None]
    if len(known) <= len(words) // 2:
        return None
    whole = b"".join(number.to_bytes(2, "big") for number in known)
    secret, check = whole[:RECOVERY_BYTES], whole[RECOVERY_BYTES:]
    if not hmac.compare_digest(check, _check_of(secret)):
        raise ConfigurationError("the recovery key has a mistake: compare it with the paper")
    return secret


def _check_of(secret: bytes) -> bytes:
    return blake3(b"s3backfs 1 recovery" + secret).digest(length=_CHECK_BYTES)


def _write_word(number: int) -> str:
    consonants = [_CONSONANTS[number >> shift & 15] for shift in (12, 6, 0)]
    vowels = [_VOWELS[number >> shift & 3] for shift in (10, 4)]
    return consonants[0] + vowels[0] + consonants[1] + vowels[1] + consonants[2]


def _read_word(word: str) -> int | None:
    number = 0
    for place, letter in enumerate(word):
        letters, bits = (_VOWELS, 2) if place % 2 else (_CONSONANTS, 4)
        if letter not in letters:
            return None
        number = number << bits | letters.index(letter)
    return number


# -- age's identities -------------------------------------------------------------------------


def write_identity(secret: bytes) -> str:
    """Write an X25519 secret as age does."""
    part = _IDENTITY_PART.lower()
    values = _regroup(secret, 8, 5)
    check = _polymod([*_expand(part), *values, *[0] * 6]) ^ 1
    values += [check >> 5 * (5 - place) & 31 for place in range(6)]
    return (part + "1" + "".join(_BECH32[value] for value in values)).upper()


def read_identity(text: str) -> bytes | None:
    """Read the first secret of an identity file; lines with `#` are comments. None: it is none.

    Raises:
        ConfigurationError: it is damaged.
    """
    lines = (line.strip() for line in text.splitlines())
    for line in lines:
        if line.startswith(_IDENTITY_PART + "1"):
            return _read_bech32(line.lower())
    return None


def _read_bech32(line: str) -> bytes:
    part, _, data = line.rpartition("1")
    values = [_BECH32.find(letter) for letter in data]
    if -1 in values or _polymod([*_expand(part), *values]) != 1:
        raise ConfigurationError("the identity is damaged: its checksum does not fit")
    secret = bytes(_regroup(values[:-6], 5, 8)[:IDENTITY_BYTES])
    if len(secret) != IDENTITY_BYTES:
        raise ConfigurationError("the identity is damaged: it is too short")
    return secret


def _regroup(values: bytes | list[int], from_bits: int, to_bits: int) -> list[int]:
    number, bits, result = 0, 0, []
    for value in values:
        number, bits = number << from_bits | value, bits + from_bits
        while bits >= to_bits:
            bits -= to_bits
            result.append(number >> bits & (1 << to_bits) - 1)
    if bits and to_bits < from_bits:
        result.append(number << to_bits - bits & (1 << to_bits) - 1)
    return result


def _expand(part: str) -> list[int]:
    codes = [ord(letter) for letter in part]
    return [*(code >> 5 for code in codes), 0, *(code & 31 for code in codes)]


def _polymod(values: list[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for place, generator in enumerate(_GENERATORS):
            check ^= generator if top >> place & 1 else 0
    return check
