"""How the rows of each type of node are written and read: entries, extents, children.

A layout turns sorted (key, value) items into a body and back. Decoding holds every row to the
rules of the format, so that whatever comes out of a node can be trusted.
Source: docs/format.md, "Nodes".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter, lt
from typing import Any, Generic, TypeVar

import msgspec

from s3backfs.errors import IntegrityError
from s3backfs.format.refs import Ref
from s3backfs.manifest.entry import (
    NO_EXTRA,
    Entry,
    Extent,
    ExtentTree,
    External,
    Extra,
    settled_ref,
)
from s3backfs.manifest.keys import LINK_KEY_BYTES, extent_key, split_key
from s3backfs.manifest.sources import SourceTable, SourceWriter
from s3backfs.manifest.wire import (
    ChildRow,
    EntryRow,
    ExtentRow,
    ExtraWire,
    entry_body_decoder,
    extent_body_decoder,
    inner_body_decoder,
)

V = TypeVar("V")

ROW_WEIGHT = 64
SOURCE_WEIGHT = 32


class Child(msgspec.Struct, frozen=True, gc=False):
    """A node below an inner node, and how many entries (or extents) are below it."""

    ref: Ref
    entry_count: int


@dataclass(frozen=True, slots=True)
class Decoded:
    """The rows of a body and their keys, checked."""

    keys: list[bytes]
    rows: Sequence[Any]
    entry_count: int


@dataclass(frozen=True, slots=True)
class Layout(Generic[V]):
    """How the items of one type of node are written, read and weighed.

    `decode` raises IntegrityError, or a msgspec or value error, for anything that is not a body.
    """

    encode: Callable[[Sequence[bytes], Sequence[V], SourceWriter], object]
    decode: Callable[[msgspec.Raw, SourceTable], Decoded]
    value: Callable[[Any, SourceTable], V]
    weigh: Callable[[bytes, V], int]


# -- leaves of the manifest -------------------------------------------------------------------


def _encode_entries(
    keys: Sequence[bytes], entries: Sequence[Entry], sources: SourceWriter
) -> object:
    groups: list[tuple[bytes, list[EntryRow]]] = []
    for key, entry in zip(keys, entries, strict=True):
        prefix, name = split_key(key)
        if not groups or groups[-1][0] != prefix:
            groups.append((prefix, []))
        groups[-1][1].append(_entry_row(name, entry, sources))
    return groups


def _entry_row(name: bytes, entry: Entry, sources: SourceWriter) -> EntryRow:
    return EntryRow(
        name,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.mtime_ns,
        entry.ctime_ns,
        entry.size,
        entry.inline,
        tuple([_extent_row(extent, sources) for extent in entry.extents]),
        _extra_wire(entry.extra, sources),
    )


def _extra_wire(extra: Extra | None, sources: SourceWriter) -> ExtraWire | None:
    if extra is None or extra == NO_EXTRA:
        return None
    # The order of these two lines is the order of first use.
    xattr_ix = -1 if extra.xattr_ref is None else sources.number(settled_ref(extra.xattr_ref))
    tree, external = extra.extent_tree, extra.external
    return ExtraWire(
        ino=extra.ino,
        rdev=extra.rdev,
        xattrs=tuple(sorted(extra.xattrs.items())),
        xattr_ix=xattr_ix,
        link_id=extra.link_id,
        nlink=extra.nlink,
        extent_tree=None
        if tree is None
        else (sources.number(tree.top), tree.height, tree.count, tree.allocated_bytes),
        external=None if external is None else (external.bucket, external.key, external.version_id),
        tags=tuple(sorted(extra.tags.items())),
    )


def _decode_entries(body: msgspec.Raw, sources: SourceTable) -> Decoded:
    keys: list[bytes] = []
    rows: list[EntryRow] = []
    for prefix, group in entry_body_decoder.decode(body):
        _check_names(prefix, group)
        front = prefix + b"\0"
        keys += [front + row.name for row in group]
        rows += group
    _check_sorted(keys)
    for row in rows:
        if row.extents:
            _check_extents(row.extents, sources, row.size)
        if row.extra is not None:
            _check_extra(row.extra, sources)
    return Decoded(keys, rows, len(rows))


def _check_names(prefix: bytes, group: Sequence[EntryRow]) -> None:
    names = {row.name for row in group}
    if prefix:
        components = set(prefix.split(b"\0"))
        if prefix[-1] or b"\0\0" in prefix or not prefix[0] or max(map(len, components)) > 255:
            raise IntegrityError("a directory has no path")
        names |= components - {b""}
    else:
        names -= {name for name in names if not name or len(name) == LINK_KEY_BYTES - 1}
        names |= _unmarked(group)
    joined = b"\0".join(names)
    if b"/" in joined or joined.count(b"\0") != max(0, len(names) - 1):
        raise IntegrityError("a name holds a byte that no name can hold")
    if not names.isdisjoint((b"", b".", b"..")):
        raise IntegrityError("a name is empty or stands for a directory")


def _unmarked(group: Sequence[EntryRow]) -> set[bytes]:
    """Return the names as long as a link record's that are none."""
    marked = LINK_KEY_BYTES - 1
    return {row.name for row in group if len(row.name) == marked and row.name[0]}


def _check_extra(extra: ExtraWire, sources: SourceTable) -> None:
    tree_ix = -1 if extra.extent_tree is None else extra.extent_tree[0]
    if max(extra.xattr_ix, tree_ix) >= len(sources):
        raise IntegrityError("an entry names a source that is not there")


def _entry(row: EntryRow, sources: SourceTable) -> Entry:
    return Entry(
        row.mode,
        row.uid,
        row.gid,
        row.mtime_ns,
        row.ctime_ns,
        row.size,
        row.inline,
        tuple([_extent(extent, sources) for extent in row.extents]),
        None if row.extra is None else _extra(row.extra, sources),
    )


def _extra(wire: ExtraWire, sources: SourceTable) -> Extra:
    tree = wire.extent_tree
    return Extra(
        ino=wire.ino,
        rdev=wire.rdev,
        xattrs=dict(wire.xattrs),
        xattr_ref=None if wire.xattr_ix < 0 else sources.ref(wire.xattr_ix),
        link_id=wire.link_id,
        nlink=wire.nlink,
        extent_tree=tree and ExtentTree(sources.ref(tree[0]), *tree[1:]),
        external=wire.external and External(*wire.external),
        tags=dict(wire.tags),
    )


def _weigh_entry(key: bytes, entry: Entry) -> int:
    weight = ROW_WEIGHT + len(key) + SOURCE_WEIGHT * len(entry.extents)
    if entry.inline is not None:
        weight += len(entry.inline)
    if entry.extra is not None:
        weight += SOURCE_WEIGHT
        weight += sum(len(name) + len(value) for name, value in entry.extra.xattrs.items())
    return weight


# -- leaves of an extent tree -----------------------------------------------------------------


def _encode_extents(
    keys: Sequence[bytes], extents: Sequence[Extent], sources: SourceWriter
) -> object:
    return [_extent_row(extent, sources) for extent in extents]


def _extent_row(extent: Extent, sources: SourceWriter) -> ExtentRow:
    number = sources.number(settled_ref(extent.content))
    return extent.file_offset, extent.length, number, extent.content_offset


def _decode_extents(body: msgspec.Raw, sources: SourceTable) -> Decoded:
    rows = extent_body_decoder.decode(body)
    _check_extents(rows, sources, 2**63 - 1)
    return Decoded([extent_key(row[0]) for row in rows], rows, len(rows))


def _check_extents(rows: Sequence[ExtentRow], sources: SourceTable, size: int) -> None:
    position = 0
    for file_offset, length, number, content_offset in rows:
        # A number outside of the table raises IndexError, which `decode_node` translates.
        if file_offset < position or content_offset + length > sources.length(number) or not length:
            raise IntegrityError("an extent overlaps another or leaves its chunk")
        position = file_offset + length
    if position > size:
        raise IntegrityError("an extent lies behind the end of its file")


def _extent(row: ExtentRow, sources: SourceTable) -> Extent:
    return Extent(row[0], row[1], sources.ref(row[2]), row[3])


def _weigh_extent(key: bytes, extent: Extent) -> int:
    return SOURCE_WEIGHT


# -- inner nodes ------------------------------------------------------------------------------


def _encode_children(
    keys: Sequence[bytes], children: Sequence[Child], sources: SourceWriter
) -> object:
    return [
        (key, sources.number(child.ref), child.entry_count)
        for key, child in zip(keys, children, strict=True)
    ]


def _decode_children(body: msgspec.Raw, sources: SourceTable) -> Decoded:
    rows = inner_body_decoder.decode(body)
    keys = [row[0] for row in rows]
    _check_sorted(keys)
    if rows and max(map(itemgetter(1), rows)) >= len(sources):
        raise IntegrityError("an inner node names a source that is not there")
    return Decoded(keys, rows, sum(map(itemgetter(2), rows)))


def _child(row: ChildRow, sources: SourceTable) -> Child:
    return Child(sources.ref(row[1]), row[2])


def _weigh_child(key: bytes, child: Child) -> int:
    return ROW_WEIGHT + len(key)


def _check_sorted(keys: Sequence[bytes]) -> None:
    if not all(map(lt, keys, keys[1:])):
        raise IntegrityError("the keys of a node are not sorted")


ENTRY_LEAF: Layout[Entry] = Layout(_encode_entries, _decode_entries, _entry, _weigh_entry)
EXTENT_LEAF: Layout[Extent] = Layout(_encode_extents, _decode_extents, _extent, _weigh_extent)
INNER: Layout[Child] = Layout(_encode_children, _decode_children, _child, _weigh_child)
