"""The logical id of a node that is at hand as bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from s3backfs.errors import IntegrityError
from s3backfs.format.refs import Ref
from s3backfs.manifest.entry import Entry, extra_of
from s3backfs.manifest.layouts import Child
from s3backfs.manifest.node import ENTRIES, EXTENTS, NodeKind, decode_node
from s3backfs.manifest.wire import LogicalWire, encoder, node_decoder


def node_id(data: bytes, logical_id: Callable[[bytes], bytes]) -> bytes:
    """Compute the logical id of a node.

    Raises:
        IntegrityError: these bytes are no node.
    """
    try:
        wire = node_decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        raise IntegrityError(f"this is no node of a manifest: {error}") from error
    family: Any = ENTRIES if wire.kind == NodeKind.ENTRIES else EXTENTS
    node = decode_node(family, data)
    # Rows that the body does not use, bases of patches, come last.
    used = {each for value in node.values(0, len(node)) for each in _ids(value)}
    ids = tuple(row.id for row in wire.sources[: len(used)])
    return logical_id(b"node" + encoder.encode(LogicalWire(wire.kind, wire.height, ids, wire.body)))


def _ids(value: Any) -> Iterator[bytes]:
    if isinstance(value, Child):
        yield value.ref.id
    elif isinstance(value, Entry):
        extra = extra_of(value)
        contents = [*(extent.content for extent in value.extents), extra.xattr_ref]
        yield from (content.id for content in contents if isinstance(content, Ref))
        if extra.extent_tree is not None:
            yield extra.extent_tree.top.id
    else:
        yield value.content.id
