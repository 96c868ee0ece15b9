"""Every decoder of the program as a function of bytes, what it may raise, and valid inputs.

What is encrypted is sealed anew around each input, so that the fuzzed bytes reach the decoder as
those of one who has the key, or who owns a bucket without encryption.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from s3backfs.control import RemoteError, _decode_request
from s3backfs.errors import (
    ConfigurationError,
    FileSystemError,
    IntegrityError,
    S3backfsError,
    UnsupportedFormatError,
)
from s3backfs.format.canonical import encode_json
from s3backfs.format.codec import compress, compress_patch, expand
from s3backfs.format.frame import Encryption
from s3backfs.format.holders import new_holder, read_holder_slot, seal_to_holder
from s3backfs.format.keys import Keyring
from s3backfs.format.lease import (
    Condemned,
    Lease,
    Moved,
    MovedRange,
    decode_condemned,
    decode_lease,
    decode_moved,
)
from s3backfs.format.objects import open_object, seal_object
from s3backfs.format.pack import (
    PackRow,
    SliceRow,
    decode_footer,
    decode_pack_table,
    encode_pack_table,
    encode_pack_tail,
)
from s3backfs.format.parameters import ChunkBounds, Parameters, decode_parameters, encode_parameters
from s3backfs.format.refs import Kind, Ref, Top
from s3backfs.format.root import BackupState, Owner, Root, Seen, Statistics, decode_root
from s3backfs.format.segment import SegmentPack, decode_segment
from s3backfs.format.slots import Cost, open_slot, seal_slot, slot_digest, slot_kind, slot_place
from s3backfs.format.tag import Tag, decode_tag
from s3backfs.format.unlocking import private_keys_of
from s3backfs.format.verified import Verified, decode_verified
from s3backfs.format.words import write_identity
from s3backfs.fs import acl
from s3backfs.manifest.entry import Entry, Extent, ExtentTree, Extra
from s3backfs.manifest.identity import node_id
from s3backfs.manifest.keys import entry_key, extent_key
from s3backfs.manifest.layouts import ENTRY_LEAF, EXTENT_LEAF, INNER, Child
from s3backfs.manifest.node import ENTRIES, EXTENTS, Node, NodeKind, decode_node, encode_node
from s3backfs.repository.index_rows import DamagedRowError, decode_rows, encode_rows
from s3backfs.repository.upload_notes import open_uploads

CLEAR = Keyring(Encryption.NONE, {0: bytes(range(32))})
AES = Keyring(Encryption.AES256_GCM, {0: bytes(range(32))})
PASSPHRASE = b"correct horse"
CHEAP = Cost(lanes=1, memory_kib=8, passes=1)
BASE = bytes(range(256)) * 8
"""The plaintext that patches are made against."""

DAMAGE = (IntegrityError, UnsupportedFormatError)


@dataclass(frozen=True, slots=True)
class Target:
    """A decoder; anything else than `allowed` that `read` raises is a mistake."""

    name: str
    read: Callable[[bytes], object]
    samples: tuple[bytes, ...]
    allowed: tuple[type[Exception], ...] = DAMAGE

    def run(self, data: bytes) -> object:
        """Read arbitrary bytes; None where they were refused as they should be."""
        try:
            return self.read(data)
        except self.allowed:
            return None


def _id(number: int) -> bytes:
    return bytes([number]) * 16


def _ref(number: int, base: Ref | None = None) -> Ref:
    return Ref(
        pack_id=_id(number),
        epoch=0,
        pack_offset=1000 * number,
        frame_length=200,
        chunk_length=300,
        slice_offset=0,
        slice_length=300,
        id=_id(number),
        base=base,
    )


ROWS = (
    PackRow(0, 100, 200, _id(1)),
    PackRow(100, 60, 90, _id(2), (SliceRow(_id(3), 0, 40), SliceRow(_id(4), 40, 50))),
)
TABLE_OFFSET = 1000


# -- single objects: the plaintext is fuzzed, then sealed ----------------------------------------


def _root() -> Root:
    return Root(
        repository_id=CLEAR.repository_id,
        backup_id=_id(6),
        name=b"monday",
        slot=7,
        state=BackupState.SEALED,
        created_ns=1,
        updated_ns=2,
        owner=Owner(1, _id(8), 5, _id(9)),
        host="web1",
        statistics=Statistics(entries=3, files=2),
        top=Top(1, _ref(2, _ref(3)), None, 3),
        seen=(Seen(b"sunday", _id(10)),),
        bases=(_id(11),),
        tags={"host": "web1"},
        incomplete=(_id(12),),
        wandering=bytes(12),
    )


def _lease() -> Lease:
    return Lease(
        repository_id=CLEAR.repository_id,
        writer=_id(1),
        host="web1",
        boot_id="boot",
        process_id=1,
        started_ns=1,
        renewed_ns=2,
        sequence=3,
        duration_ms=4,
        acknowledged=(_id(2),),
    )


def _condemned() -> Condemned:
    return Condemned(
        repository_id=CLEAR.repository_id,
        set_id=_id(1),
        created_ns=1,
        grace_ms=2,
        packs=(_id(2), _id(3)),
    )


def _moved() -> Moved:
    return Moved(
        repository_id=CLEAR.repository_id,
        pack_id=_id(1),
        ranges=(MovedRange(0, 0, 300, _ref(2)), MovedRange(500, 0, 300, _ref(3))),
    )


Decode = Callable[[Keyring, str, bytes], object]


def _read_plain(decode: Decode, kind: Kind, plain: bytes) -> object:
    return decode(CLEAR, "some/key", seal_object(CLEAR, kind, "some/key", plain))


def _object_targets() -> Iterator[Target]:
    rows: list[tuple[str, Decode, Kind, Any]] = [
        ("root", decode_root, Kind.ROOT, _root()),
        ("lease", decode_lease, Kind.LEASE, _lease()),
        ("condemned", decode_condemned, Kind.CONDEMNED, _condemned()),
        ("moved", decode_moved, Kind.MOVED, _moved()),
        (
            "verified",
            decode_verified,
            Kind.VERIFIED,
            Verified(repository_id=CLEAR.repository_id, packs={_id(1): 1}),
        ),
        (
            "tag",
            decode_tag,
            Kind.TAG,
            Tag(repository_id=CLEAR.repository_id, backup_id=_id(1), name="a", value="b"),
        ),
        (
            "segment",
            decode_segment,
            Kind.INDEX,
            (SegmentPack(_id(1), 0, Kind.DATA, TABLE_OFFSET, ROWS),),
        ),
    ]
    for name, decode, kind, value in rows:
        sample = msgspec.msgpack.encode(value)
        yield Target(name, partial(_read_plain, decode, kind), (sample,))


def _sealed_targets() -> Iterator[Target]:
    """The same objects with the header and the frame fuzzed, too."""
    for keyring in (CLEAR, AES):
        sample = seal_object(keyring, Kind.ROOT, "some/key", bytes(1000))
        name = f"object {keyring.encryption}"
        yield Target(name, partial(_open_any, keyring), (sample, sample[:30]))


def _open_any(keyring: Keyring, data: bytes) -> bytes:
    return open_object(keyring, Kind.ROOT, "some/key", data, 1 << 20)


# -- frames and packs ----------------------------------------------------------------------------


def _read_body(data: bytes) -> bytes:
    """The first three bytes say the length that the reference states."""
    return expand(data[3:], int.from_bytes(data[:3], "little"), BASE)


def _read_pack_tail(data: bytes) -> object:
    footer = decode_footer(data, TABLE_OFFSET + len(data))
    return footer.tail_length


def _pack_targets() -> Iterator[Target]:
    plain = b"text" * 500
    length = len(plain).to_bytes(3, "little")
    bodies = (compress(plain, 3), compress(plain, None), compress_patch(plain, BASE))
    yield Target("body", _read_body, tuple(length + body for body in bodies))
    cipher = CLEAR.pack_cipher(Kind.DATA, _id(1), 0)
    tail = encode_pack_tail(cipher, TABLE_OFFSET, ROWS)
    yield Target("pack tail", _read_pack_tail, (tail,))
    yield Target(
        "pack table",
        partial(decode_pack_table, table_offset=TABLE_OFFSET),
        (encode_pack_table(ROWS),),
    )
    yield Target(
        "index rows",
        lambda data: decode_rows(data, 0, Kind.DATA, TABLE_OFFSET),
        # The second has the right checksum over nothing that can be rows.
        (encode_rows(ROWS, 0, Kind.DATA, TABLE_OFFSET), bytes.fromhex("f87f746c")),
        (DamagedRowError,),
    )


# -- nodes ---------------------------------------------------------------------------------------


def _read_node(family: Any, data: bytes) -> object:
    """Decode a node and take everything out of it, as a walk does."""
    node: Node[Any] = decode_node(family, data)
    for number in range(len(node.keys)):
        node.value(number)
    return node_id(data, CLEAR.logical_id)


def _node_targets() -> Iterator[Target]:
    extra = Extra(
        ino=5,
        xattrs={b"user.name": b"value"},
        xattr_ref=_ref(4),
        link_id=_id(5),
        nlink=2,
        extent_tree=ExtentTree(_ref(6), 1, 10, 1000),
    )
    entries = [
        Entry(0o100644, 1, 2, 3, 4, 300, None, (Extent(0, 300, _ref(1), 0),), None),
        Entry(0o100644, 1, 2, 3, 4, 5, b"small", (), extra),
    ]
    keys = [entry_key(b"", b"a"), entry_key(b"dir\0", b"b")]
    hashed = CLEAR.logical_id
    leaf = encode_node(NodeKind.ENTRIES, 0, ENTRY_LEAF, keys, entries, hashed)
    children = [Child(_ref(1), 5), Child(_ref(2, _ref(3)), 6)]
    inner = encode_node(NodeKind.ENTRIES, 1, INNER, keys, children, hashed)
    extents = [Extent(0, 300, _ref(1), 0), Extent(300, 200, _ref(2), 50)]
    extent_keys = [extent_key(extent.file_offset) for extent in extents]
    extent_leaf = encode_node(NodeKind.EXTENTS, 0, EXTENT_LEAF, extent_keys, extents, hashed)
    yield Target("node of entries", partial(_read_node, ENTRIES), (leaf.data, inner.data))
    yield Target("node of extents", partial(_read_node, EXTENTS), (extent_leaf.data,))


# -- keys ----------------------------------------------------------------------------------------


def _key_targets() -> Iterator[Target]:
    parameters = Parameters(
        encryption=Encryption.AES256_GCM,
        compression_level=3,
        chunk_bounds=ChunkBounds(1 << 18, 1 << 20, 1 << 23),
        pack_bytes=1 << 26,
        created_s=1,
    )
    yield Target("repository.json", decode_parameters, (encode_parameters(parameters, AES),))
    key, slot = seal_slot(PASSPHRASE, AES.repository_id, 0, bytes(32), CHEAP)
    yield Target(
        "slot", lambda data: (slot_kind(data), slot_place(data), _open_slot(key, data)), (slot,)
    )
    holder = new_holder("raw", bytes(32), AES.repository_id, "label", 1)
    holder_key, holder_slot = seal_to_holder(holder, AES.repository_id, 0, bytes(32))
    yield Target("holder slot", partial(read_holder_slot, holder_key), (holder_slot,))
    secrets = (b"00" * 32, b"abandon ability", write_identity(bytes(32)).encode())
    yield Target("secret", private_keys_of, secrets, (ConfigurationError,))


def _open_slot(key: str, data: bytes) -> object:
    # Stretching may take long by design: the slot states what it costs.
    if b'"argon2id":{"lanes":1,"memory_kib":8,"passes":1}' not in data:
        raise IntegrityError("not tried")
    try:
        return open_slot(key, data, PASSPHRASE)
    except S3backfsError as error:
        raise IntegrityError("does not open") from error


# -- names, lists, requests, notes ---------------------------------------------------------------


def _other_targets() -> Iterator[Target]:
    for keyring in (CLEAR, AES):
        sample = keyring.encode_name(b"monday").encode()
        yield Target(
            f"name {keyring.encryption}",
            partial(lambda keyring, data: keyring.decode_name(data.decode("latin-1")), keyring),
            (sample, b".8" + b"5" * 253),
        )
    access = acl.encode([acl.AclEntry(tag, 7, 0) for tag in (1, 4, 0x20)])
    yield Target("acl", acl.decode, (access,), (FileSystemError,))
    request = b'{"verb":"seal","args":{"name":"monday"}}'
    yield Target("control request", _decode_request, (request,), (RemoteError,))
    notes = b"+ data/00\n= data/00 id\n- data/00\n"
    yield Target(
        "upload notes", lambda data: open_uploads(data.decode("ascii", "replace")), (notes,), ()
    )


def resigned(data: bytes) -> bytes:
    """Give JSON that was changed the canonical form, and a slot its digest, which has no key."""
    fields = json.loads(data)
    if isinstance(fields, dict) and "digest" in fields:
        rest = {name: value for name, value in fields.items() if name != "digest"}
        fields = rest | {"digest": slot_digest(rest)}
    return encode_json(fields)


TARGETS: tuple[Target, ...] = (
    *_object_targets(),
    *_sealed_targets(),
    *_pack_targets(),
    *_node_targets(),
    *_key_targets(),
    *_other_targets(),
)
