"""Where bytes lie: the reference that every other part passes around.

Source: docs/format.md, "References".
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

FORMAT = 1
"""The version of the format that this program writes, and the newest it reads."""

MAGIC = b"s3bk"

ID_BYTES = 16
"""Length of chunk, slice, node, pack, backup and writer ids."""

Buffer: TypeAlias = bytes | bytearray | memoryview

Id: TypeAlias = Annotated[bytes, Meta(min_length=ID_BYTES, max_length=ID_BYTES)]
U16: TypeAlias = Annotated[int, Meta(ge=0, lt=2**16)]
U32: TypeAlias = Annotated[int, Meta(ge=0, lt=2**32)]
U63: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]


def newer_format(what: str, version: int) -> str:
    """What to say of a version that stands in clear: it is heeded before anything proves it."""
    return (
        f"{what} is of format {version}, newer than the format {FORMAT} that this program knows, or"
        " it is damaged: upgrade s3backfs, or look with s3backfs check"
    )


class Kind(IntEnum):
    """What an encrypted object or frame is; part of the associated data of each."""

    DATA = 1
    META = 2
    ROOT = 3
    INDEX = 4
    LEASE = 5
    MOVED = 6
    CONDEMNED = 7
    VERIFIED = 8
    TAG = 9
    REMOVAL = 10


class Ref(msgspec.Struct, frozen=True, gc=False, kw_only=True, array_like=True):
    """A chunk, or a slice of one, and where it lies.

    The frame stands at `pack_offset` of the pack, `frame_length` bytes long; opened, it yields a
    chunk of `chunk_length` bytes; the content is the `slice_length` bytes at `slice_offset` in it.
    For a whole chunk that is 0 and `chunk_length`. `id` names the content (of a node: its logical
    id). A frame that is a patch has the ref of its `base`, which is no patch itself.
    """

    pack_id: Id
    epoch: U32
    pack_offset: U63
    frame_length: U32
    chunk_length: U32
    slice_offset: U32
    slice_length: U32
    id: Id
    base: Ref | None = None


class Top(msgspec.Struct, frozen=True, gc=False):
    """The top node of a tree: its place, or the node itself where it is small."""

    height: Annotated[int, Meta(ge=0, le=32)]
    ref: Ref | None
    inline: Annotated[bytes, Meta(max_length=64 * 1024)] | None
    entry_count: U63


def is_sound(ref: Ref) -> bool:
    """Say whether the slice lies in its chunk and the base is whole; lengths may still be lies."""
    if ref.slice_offset + ref.slice_length > ref.chunk_length:
        return False
    return ref.base is None or (ref.base.base is None and is_sound(ref.base))
