"""The arrays and maps that a node is made of, and the bounds that decoding holds them to.

Source: docs/format.md, "Nodes".
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

U16: TypeAlias = Annotated[int, Meta(ge=0, lt=2**16)]
U32: TypeAlias = Annotated[int, Meta(ge=0, lt=2**32)]
U63: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
U64: TypeAlias = Annotated[int, Meta(ge=0)]
I64: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Index: TypeAlias = Annotated[int, Meta(ge=-1, lt=2**32)]
Id: TypeAlias = Annotated[bytes, Meta(min_length=16, max_length=16)]
KeyBytes: TypeAlias = Annotated[bytes, Meta(min_length=1, max_length=8192)]
InlineBytes: TypeAlias = Annotated[bytes, Meta(max_length=4096)]
XattrBytes: TypeAlias = Annotated[bytes, Meta(max_length=65536)]

PackRow: TypeAlias = tuple[Id, U32]
"""Pack id, epoch of its key."""


class SourceRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Where a chunk, a slice or a node lies; `base_ix` is the row of a patch's base, or -1."""

    pack_ix: U32
    pack_offset: U63
    frame_length: U32
    chunk_length: U32
    slice_offset: U32
    slice_length: U32
    id: Id
    base_ix: Index


class NodeWire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A whole node; what `body` is depends on kind and height."""

    kind: int
    height: int
    packs: tuple[PackRow, ...]
    sources: tuple[SourceRow, ...]
    body: msgspec.Raw


class LogicalWire(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a node's logical id is the hash of: no place is in it."""

    kind: int
    height: int
    ids: tuple[bytes, ...]
    body: msgspec.Raw


ExtentRow: TypeAlias = tuple[U63, U63, U32, U32]
"""File offset, length, row of the source, offset in the source."""


class ExtraWire(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    gc=False,
    rename={
        "ino": "i",
        "rdev": "d",
        "xattrs": "x",
        "xattr_ix": "y",
        "link_id": "l",
        "nlink": "n",
        "extent_tree": "e",
        "external": "o",
        "tags": "t",
    },
):
    """What few entries have. Xattrs and tags are pairs, sorted by name."""

    ino: U64 = 0
    rdev: U64 = 0
    xattrs: tuple[tuple[XattrBytes, XattrBytes], ...] = ()
    xattr_ix: Index = -1
    link_id: Id | None = None
    nlink: U32 = 0
    extent_tree: tuple[U32, U16, U63, U63] | None = None
    """Row of the top node, its height, number of extents, sum of their lengths."""
    external: tuple[str, str, str] | None = None
    tags: tuple[tuple[str, str], ...] = ()


class EntryRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """One entry of a leaf."""

    name: Annotated[bytes, Meta(max_length=255)]
    mode: U32
    uid: U32
    gid: U32
    mtime_ns: I64
    ctime_ns: I64
    size: U63
    inline: InlineBytes | None
    extents: tuple[ExtentRow, ...]
    extra: ExtraWire | None


EntryBody: TypeAlias = list[
    tuple[Annotated[bytes, Meta(max_length=8192)], Annotated[list[EntryRow], Meta(min_length=1)]]
]
"""Directory prefix, and the entries of that directory."""

ExtentBody: TypeAlias = list[ExtentRow]

ChildRow: TypeAlias = tuple[KeyBytes, U32, Annotated[int, Meta(ge=1, le=2**63 - 1)]]
"""Last key below the child, row of the source, number of entries below."""

InnerBody: TypeAlias = list[ChildRow]

encoder = msgspec.msgpack.Encoder()
node_decoder = msgspec.msgpack.Decoder(NodeWire)
entry_body_decoder = msgspec.msgpack.Decoder(EntryBody)
extent_body_decoder = msgspec.msgpack.Decoder(ExtentBody)
inner_body_decoder = msgspec.msgpack.Decoder(InnerBody)
