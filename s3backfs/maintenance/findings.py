"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from s3backfs.errors import IntegrityError, NewerKeyError

_OLD_KEYS_REMEDY = (
    "after a rotation just now check again; otherwise somebody put old keys back: put back the "
    "newest versions of repository.json and keys/, or delete repository.json and use `s3backfs key "
    "import`; delete and repair nothing that names the newer key"
)


class What(StrEnum):
    """What is damaged."""

    ROOT = "root"
    NODE = "node"
    PACK = "pack"
    FRAME = "frame"
    INDEX = "index"
    MOVED = "moved table"
    LEASE = "lease"
    CONDEMNED = "condemned set"
    BACKUP = "backup"
    TAG = "tag"
    REMOVAL = "note on a removal"


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is not as it was written; `key` and `offset` say where it lies."""

    what: What
    key: str
    offset: int
    message: str
    remedy: str
    pack_id: bytes = b""
    is_newer: bool = False
    """It says that it is of a newer format; that byte stands in clear, so it may be damage."""


@dataclass(slots=True)
class Affected:
    """What of a backup cannot be read: names of files, or ranges of names that are unknown."""

    backup: bytes
    key: str
    paths_count: int = 0
    paths: list[str] = field(default_factory=list)
    """The first of them."""


@dataclass(slots=True)
class CheckResult:
    """What was looked at, and what is wrong with it."""

    roots: int = 0
    nodes: int = 0
    packs: int = 0
    packs_bytes: int = 0
    read_packs: int = 0
    read_bytes: int = 0
    oldest_unproven_s: int | None = None
    """Age of the content that was not read for longest."""
    damages: list[Damage] = field(default_factory=list)
    affected: list[Affected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def damage_remedy(error: IntegrityError, remedy: str) -> str:
    """What to do about an error; `remedy` is for an object that is damaged."""
    return _OLD_KEYS_REMEDY if isinstance(error, NewerKeyError) else remedy


def newer_remedy(remedy: str) -> str:
    """What to do about an object of a newer format; `remedy` is for one that is damaged."""
    return f"check with a newer s3backfs; if none has written here: {remedy}"


def pack_remedy(pack_id: bytes) -> str:
    """What to do about a damaged or missing pack."""
    return (
        f"bring an older version or a replica's copy of pack {pack_id.hex()} back, "
        "or run `s3backfs repair pack`"
    )
