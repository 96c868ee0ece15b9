"""The vectors of format 1: bytes that must never change, in a form any language can read.

`vectors.json` belongs to docs/format.md. Values are text, numbers or hex; "written" ones are what
a writer must produce, "read" ones (compressed, or with random parts) are what a reader must take.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from s3backfs.format.codec import compress, compress_patch
from s3backfs.format.frame import open_frame, seal_frame
from s3backfs.format.keys import Keyring, derive
from s3backfs.format.lease import decode_condemned, decode_lease, decode_moved
from s3backfs.format.objects import open_object, seal_object
from s3backfs.format.pack import (
    FOOTER_BYTES,
    Footer,
    decode_footer,
    encode_footer,
    encode_pack_table,
    open_pack_table,
)
from s3backfs.format.parameters import Parameters, decode_parameters, encode_parameters
from s3backfs.format.refs import Kind
from s3backfs.format.removal import Removal, decode_removal
from s3backfs.format.root import decode_root
from s3backfs.format.segment import decode_segment
from s3backfs.format.slots import open_slot
from s3backfs.format.tag import Tag, decode_tag
from s3backfs.format.verified import Verified, decode_verified
from tests.format.samples import (
    AES,
    CLEAR,
    MASTER_0,
    MASTER_1,
    PACK_ID,
    ROTATED,
    ROWS,
    sample_id,
    sample_root,
)
from tests.format.test_objects import CONDEMNED, LEASE, MOVED, SEGMENT

VECTORS: dict[str, Any] = json.loads(Path(__file__).with_name("vectors.json").read_text())
PLAIN = b"to be stored, and stored again; " * 8
BASE = b"to be stored, and found again; " * 8
VERIFIED = Verified(
    repository_id=AES.repository_id, packs={sample_id(1): 1_700_000_000, sample_id(2): 0}
)
TAG = Tag(
    repository_id=AES.repository_id, backup_id=sample_id(1), name="b\u00e4r", value="\u00e4 = b/c"
)
TAG_REMOVED = Tag(
    repository_id=AES.repository_id, backup_id=sample_id(1), name="locked", value=None
)
REMOVAL = Removal(
    repository_id=AES.repository_id,
    backup_id=sample_id(1),
    name=b"mon\xffday",
    nonce=sample_id(2),
    newest_sealed_ns=1_700_000_000_000_000_000,
)


def written_keys() -> dict[str, Any]:
    """What derives from master 000102..1f."""
    return {
        "master_epoch_0": MASTER_0.hex(),
        "master_epoch_1": MASTER_1.hex(),
        "pack_id": PACK_ID.hex(),
        "chunk_id_key": derive(MASTER_0, b"s3backfs 1 chunk id", 32).hex(),
        "tree_cut_key": derive(MASTER_0, b"s3backfs 1 tree cut", 32).hex(),
        "path_key": derive(MASTER_0, b"s3backfs 1 path", 32).hex(),
        "backup_name_key": derive(MASTER_0, b"s3backfs 1 backup name", 64).hex(),
        "pack_keys_data": derive(MASTER_0, b"s3backfs 1 pack \x01", 64, PACK_ID).hex(),
        "object_keys_root": derive(MASTER_0, b"s3backfs 1 object \x03backups/a", 64).hex(),
        "repository_id": AES.repository_id.hex(),
        "chunk_id_of_abc": AES.chunk_id(b"abc").hex(),
        "logical_id_of_nodeabc": AES.logical_id(b"nodeabc").hex(),
        "cut_hash_level_1_of_abc": AES.cut_hash(1, b"abc"),
        "path_hash_of_abc_attempt_0": AES.path_hash(b"abc", 0),
        "link_id_of_abc_attempt_1": AES.link_id(b"abc", 1).hex(),
        "name_monday_encrypted": AES.encode_name(b"monday"),
        "name_monday_eve_quoted": CLEAR.encode_name(b"monday eve"),
    }


def written_frames(keyring: Keyring) -> dict[str, Any]:
    """Frames and objects with stored bodies, so that no compressor has a say."""
    cipher = keyring.pack_cipher(Kind.DATA, PACK_ID)
    return {
        "data_frame_of_abc_at_7": seal_frame(cipher, 7, compress(b"abc", None)).hex(),
        "root_object_of_abc_at_backups_a": seal_object(
            keyring, Kind.ROOT, "backups/a", b"abc"
        ).hex(),
    }


def written_plain() -> dict[str, Any]:
    """What has no secret in it."""
    return {
        "pack_table": encode_pack_table(ROWS).hex(),
        "footer": encode_footer(Footer(300, 400, 5, Kind.META)).hex(),
        "repository_json_encrypted": encode_parameters(_parameters(AES), AES).decode(),
        "repository_json_rotated": encode_parameters(_parameters(AES), ROTATED).decode(),
        "repository_json_clear": encode_parameters(_parameters(CLEAR), CLEAR).decode(),
    }


def _parameters(keyring: Keyring) -> Parameters:
    return Parameters(encryption=keyring.encryption, created_s=1_700_000_000)


def written() -> dict[str, Any]:
    """Everything that a writer must produce byte by byte."""
    return {
        "keys": written_keys(),
        "aes256-gcm": written_frames(AES),
        "none": written_frames(CLEAR),
        "plain": written_plain(),
    }


@pytest.mark.parametrize("section", ["keys", "aes256-gcm", "none", "plain"])
def test_written(section: str) -> None:
    """What is written for fixed inputs is byte by byte what it always was."""
    assert written()[section] == VECTORS["written"][section]


MODES = [("aes256-gcm", AES), ("none", CLEAR)]
each_mode = pytest.mark.parametrize(("mode", "keyring"), MODES)


def read(mode: str, name: str) -> bytes:
    return bytes.fromhex(VECTORS["read"][mode][name])


@each_mode
def test_read_frames(mode: str, keyring: Keyring) -> None:
    """Frames with compressed bodies, and patches, open to what was sealed."""
    cipher = keyring.pack_cipher(Kind.META, PACK_ID)
    frame = read(mode, "zstd_meta_frame_at_0")
    assert open_frame(cipher, 0, frame, len(PLAIN)) == PLAIN
    patch = read(mode, "patch_meta_frame_at_100")
    assert open_frame(cipher, 100, patch, len(PLAIN), BASE) == PLAIN


@each_mode
def test_read_objects(mode: str, keyring: Keyring) -> None:
    """Roots, segments, leases and moved tables are read with every field."""
    assert decode_root(keyring, "backups/a", read(mode, "root")) == sample_root(keyring)
    assert decode_segment(keyring, "index/a", read(mode, "segment")) == SEGMENT
    assert decode_lease(keyring, "leases/a/lease", read(mode, "lease")) == LEASE
    assert decode_moved(keyring, "moved/a", read(mode, "moved")) == MOVED
    assert decode_condemned(keyring, "prune/a", read(mode, "condemned")) == CONDEMNED
    stored = bytes.fromhex(VECTORS["written"][mode]["root_object_of_abc_at_backups_a"])
    assert open_object(keyring, Kind.ROOT, "backups/a", stored, 3) == b"abc"


@each_mode
def test_read_objects_of_maintenance(mode: str, keyring: Keyring) -> None:
    """Verified states, tags (one takes the root's away) and removals are read with every field."""
    assert decode_verified(keyring, "verified/a", read(mode, "verified")) == VERIFIED
    assert decode_tag(keyring, "tags/a/b", read(mode, "tag")) == TAG
    assert decode_tag(keyring, "tags/a/b", read(mode, "tag_removed")) == TAG_REMOVED
    assert decode_removal(keyring, "removed/a", read(mode, "removal")) == REMOVAL


@each_mode
def test_read_pack_tail(mode: str, keyring: Keyring) -> None:
    """The end of a pack gives its rows."""
    tail = read(mode, "meta_pack_tail_at_200")
    footer = decode_footer(tail, 200 + len(tail))
    cipher = keyring.pack_cipher(footer.kind, PACK_ID, footer.epoch)
    assert open_pack_table(cipher, footer, tail[:-FOOTER_BYTES], 200 + len(tail)) == ROWS


def test_read_slot_and_parameters() -> None:
    """A slot opens with its passphrase, and its master opens repository.json."""
    slot = VECTORS["read"]["slot"]
    unlocked = open_slot(slot["key"], slot["json"].encode(), slot["passphrase"].encode())
    assert (unlocked.epoch, unlocked.master) == (1, MASTER_1)
    locked = decode_parameters(VECTORS["written"]["plain"]["repository_json_rotated"].encode())
    assert locked.unlock(1, unlocked.master).master(0) == MASTER_0


def test_patches_are_still_made() -> None:
    """A patch made today opens with its base too, whatever bytes it has."""
    cipher = AES.pack_cipher(Kind.META, PACK_ID)
    frame = seal_frame(cipher, 100, compress_patch(PLAIN, BASE))
    assert open_frame(cipher, 100, frame, len(PLAIN), BASE) == PLAIN
