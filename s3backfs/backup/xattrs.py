"""Extended attributes that are too large for an entry lie in a chunk of their own."""

from __future__ import annotations

import msgspec

from s3backfs.errors import IntegrityError
from s3backfs.manifest.entry import (
    INLINE_MAX_BYTES,
    Entry,
    with_extra,
)
from s3backfs.repository.repository import Repository, content_length

_decoder = msgspec.msgpack.Decoder(dict[bytes, bytes])


def are_xattrs_loaded(entry: Entry) -> bool:
    """Whether the entry has all attributes itself."""
    extra = entry.extra
    return extra is None or extra.xattr_ref is None or bool(extra.xattrs)


async def with_loaded_xattrs(repository: Repository, entry: Entry) -> Entry:
    """Bring attributes in from their chunk; the reference to it stays."""
    extra = entry.extra
    if extra is None or extra.xattr_ref is None or are_xattrs_loaded(entry):
        return entry
    ref = extra.xattr_ref
    data = await repository.read(ref, 0, content_length(ref))
    try:
        xattrs = _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise IntegrityError("extended attributes are damaged") from error
    return with_extra(entry, msgspec.structs.replace(extra, xattrs=xattrs))


async def with_stored_xattrs(repository: Repository, entry: Entry) -> Entry:
    """Move attributes that are large out into a chunk; the piece may not be settled yet."""
    extra = entry.extra
    if extra is None or not extra.xattrs:
        return entry
    size = sum(len(name) + len(value) for name, value in extra.xattrs.items())
    if size + len(entry.inline or b"") <= INLINE_MAX_BYTES:
        return with_extra(entry, msgspec.structs.replace(extra, xattr_ref=None))
    ref = extra.xattr_ref
    if ref is None:
        ordered = dict(sorted(extra.xattrs.items()))
        ref = await repository.writer.add(memoryview(msgspec.msgpack.encode(ordered)))
    return with_extra(entry, msgspec.structs.replace(extra, xattrs={}, xattr_ref=ref))
