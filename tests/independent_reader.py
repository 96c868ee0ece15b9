"""Read a repository by docs/format.md alone: nothing of the package s3backfs is imported here.

    S3BACKFS_PASSPHRASE=... python tests/independent_reader.py REPOSITORY_DIR
    S3BACKFS_PASSPHRASE=... python tests/independent_reader.py REPOSITORY_DIR BACKUP PATH > out

The first form lists the backups, the second one writes the content of a file (or the target of
a symbolic link). It proves that the document is enough to get the data back.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import struct
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import argon2.low_level
import msgspec
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

DATA, META, ROOT = 1, 2, 3
ROOMS = {DATA: "data", META: "meta"}
unpack = msgspec.msgpack.decode


class Refused(Exception):
    """What is there cannot be used."""


class Ref(NamedTuple):
    pack: bytes
    epoch: int
    offset: int
    frame_length: int
    chunk_length: int
    slice_offset: int
    slice_length: int
    id: bytes
    base: Ref | None


class Found(NamedTuple):
    """An entry, and the sources of its leaf."""

    entry: list[Any]
    sources: list[Ref]

    @property
    def extra(self) -> dict[str, Any]:
        return self.entry[9] or {}


def check(condition: bool, what: str) -> None:
    if not condition:
        raise Refused(what)


def hkdf(master: bytes, info: bytes, length: int, salt: bytes = b"") -> bytes:
    return HKDF(SHA256(), length, salt, info).derive(master)


def canonical(value: dict[str, Any], *without: str) -> bytes:
    kept = {key: value[key] for key in value if key not in without}
    return json.dumps(kept, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def load_json(path: Path) -> dict[str, Any]:
    text = path.read_bytes()
    value = json.loads(text)
    check(value["product"] == "s3backfs", f"{path}: not of this product")
    check(value["format"] <= 1, f"{path}: needs a newer program")
    check(canonical(value) == text, f"{path}: damaged: not in canonical form")
    return value


def read_body(body: bytes, length: int, base: bytes | None) -> bytes:
    codec, payload = body[0], body[1:]
    if codec != 0:
        size = zstandard.get_frame_parameters(payload).content_size
        check(codec in (1, 2) and size == length, "damaged body")
        raw = zstandard.DICT_TYPE_RAWCONTENT
        known = zstandard.ZstdCompressionDict(base, dict_type=raw) if codec == 2 else None
        unpacker = zstandard.ZstdDecompressor(dict_data=known)
        payload = unpacker.decompress(payload, max_output_size=length, allow_extra_data=False)
    check(len(payload) == length, "damaged body: length")
    return payload


class Repository:
    def __init__(self, top: Path, passphrase: bytes) -> None:
        self.top = top
        self.json = load_json(top / "repository.json")
        check(not self.json["requires"], "repository.json: needs a newer program")
        self.is_clear = self.json["encryption"] == "none"
        epoch = self.json["epoch"]
        clear = self.json["master"]
        newest = base64.b64decode(clear) if self.is_clear else self.open_slots(passphrase)
        mac = blake3(canonical(self.json, "mac"), key=hkdf(newest, b"s3backfs 1 parameters", 32))
        check(mac.hexdigest() == self.json["mac"], "repository.json: damaged: mac")
        self.masters = {epoch: newest}
        for older in sorted(self.json["older"], key=lambda row: -row["epoch"]):
            key = hkdf(self.masters[older["epoch"] + 1], b"s3backfs 1 older master", 64)
            wrapped, bound = base64.b64decode(older["wrapped"]), struct.pack("<I", older["epoch"])
            self.masters[older["epoch"]] = AESSIV(key).decrypt(wrapped, [bound])
        self.id = hkdf(self.masters[0], b"s3backfs 1 repository id", 16)
        check(self.id.hex() == self.json["repository"], "repository.json: another id")

    def open_slots(self, passphrase: bytes) -> bytes:
        for path in sorted((self.top / "keys").iterdir()):
            slot = load_json(path)
            digest = blake3(canonical(slot, "digest")).hexdigest()
            check(digest == slot["digest"], f"{path.name}: damaged: digest")
            mine = slot["repository"] == self.json["repository"]
            if slot["kind"] != "passphrase" or not mine:
                continue
            cost = slot["argon2id"]
            lanes, memory, passes = cost["lanes"], cost["memory_kib"], cost["passes"]
            sane = 1 <= lanes <= 16 and 8 * lanes <= memory <= 1 << 20 and 1 <= passes <= 16
            check(sane, f"{path.name}: damaged: argon2id")
            salt, kind = base64.b64decode(slot["salt"]), argon2.low_level.Type.ID
            secret = argon2.low_level.hash_secret_raw(
                passphrase, salt, passes, memory, lanes, 32, kind, 0x13
            )
            commitment = hkdf(secret, b"s3backfs 1 slot commitment", 32)
            if commitment == base64.b64decode(slot["commitment"]):
                key, wrapped = hkdf(secret, b"s3backfs 1 slot key", 32), slot["wrapped"]
                sealed, bound = base64.b64decode(wrapped), canonical(slot, "wrapped", "digest")
                return AESGCM(key).decrypt(sealed[:12], sealed[12:], bound)
        raise Refused("wrong passphrase")

    def open_frame(self, keys: bytes, frame: bytes, bound: bytes) -> bytes:
        if not self.is_clear:
            return AESGCM(keys[:32]).decrypt(frame[:12], frame[12:], bound)
        check(blake3(bound + frame[16:]).digest()[:16] == frame[:16], "damaged frame")
        return frame[16:]

    def load_single(self, object_key: str, kind: int) -> bytes:
        data = (self.top / object_key).read_bytes()
        magic, version, its_kind, epoch, length = struct.unpack("<4sBBII", data[:14])
        check(version <= 1, f"{object_key}: needs a newer program")
        check((magic, version, its_kind) == (b"s3bk", 1, kind), f"{object_key}: damaged header")
        info = b"s3backfs 1 object " + bytes([kind]) + object_key.encode()
        bound = b"s3bk" + bytes([1, kind]) + object_key.encode()
        keys = hkdf(self.masters[epoch], info, 64)
        return read_body(self.open_frame(keys, data[14:], bound), length, None)

    @functools.lru_cache(maxsize=64)  # noqa: B019
    def load(self, ref: Ref, kind: int) -> bytes:
        with (self.top / ROOMS[kind] / ref.pack.hex()).open("rb") as pack:
            pack.seek(ref.offset)
            frame = pack.read(ref.frame_length)
        info = b"s3backfs 1 pack " + bytes([kind])
        bound = b"s3bk" + bytes([1, kind]) + ref.pack + struct.pack("<Q", ref.offset)
        body = self.open_frame(hkdf(self.masters[ref.epoch], info, 64, ref.pack), frame, bound)
        base = self.load(ref.base, kind) if ref.base else None
        chunk = read_body(body, ref.chunk_length, base)
        return chunk[ref.slice_offset : ref.slice_offset + ref.slice_length]

    def name_of(self, text: str) -> bytes:
        if self.is_clear:
            return urllib.parse.unquote_to_bytes(text)
        sealed = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
        key = hkdf(self.masters[0], b"s3backfs 1 backup name", 64)
        return AESSIV(key).decrypt(sealed, [b"s3bk backup name"])

    def backups(self) -> dict[bytes, dict[str, Any]]:
        """The roots by name; a sealed one counts more than an open one."""
        found = {}
        for room in ("open", "backups"):
            for path in sorted((self.top / room).glob("*")):
                root = unpack(self.load_single(f"{room}/{path.name}", ROOT))
                right = (self.name_of(path.name), self.id)
                check((root["name"], root["repository_id"]) == right, f"{path}: another root")
                found[root["name"]] = root
        return found

    def walk(self, root: dict[str, Any], goal: bytes = b"") -> Iterator[tuple[bytes, Found]]:
        """All entries by key; with a goal just the leaf where it is if it is anywhere."""
        if (top := root["top"]) is not None:
            node = top["inline"] or self.load(make_ref(top["ref"]), META)
            for body, sources in self.leaves(node, top["height"], goal):
                for prefix, entries in body:
                    for entry in entries:
                        yield prefix + b"\0" + entry[0], Found(entry, sources)

    def leaves(self, node: bytes, height: int, goal: bytes) -> Iterator[tuple[Any, list[Ref]]]:
        _, its_height, packs, rows, body = unpack(node)
        check(its_height == height, "damaged node")
        sources = [self.source(row, packs, rows) for row in rows]
        if height == 0:
            yield body, sources
            return
        children = [row for row in body if row[0] >= goal]
        for _, row, _ in children[:1] if goal else children:
            yield from self.leaves(self.load(sources[row], META), height - 1, goal)

    def source(self, row: list[Any], packs: list[Any], rows: list[Any]) -> Ref:
        base = self.source(rows[row[7]], packs, rows) if row[7] >= 0 else None
        return Ref(*packs[row[0]], *row[1:7], base)

    def find(self, root: dict[str, Any], path: bytes) -> Found:
        *above, name = path.split(b"/")
        found = self.find_key(root, b"".join(part + b"\0" for part in above) + b"\0" + name)
        link = found.extra.get("l")
        return self.find_key(root, b"\0\0" + link) if link else found

    def find_key(self, root: dict[str, Any], goal: bytes) -> Found:
        for key, found in self.walk(root, goal):
            if key == goal:
                return found
        raise Refused("no such file")

    def content(self, found: Found) -> Iterator[bytes]:
        size, inline, extents, at = found.entry[6], found.entry[7], found.entry[8], 0
        parts = [(extents, found.sources)]
        if inline is not None:
            yield inline
            at = len(inline)
        if tree := found.extra.get("e"):
            parts = list(self.leaves(self.load(found.sources[tree[0]], META), tree[1], b""))
        for rows, sources in parts:
            for offset, length, row, start in rows:
                yield bytes(offset - at)
                yield self.load(sources[row], DATA)[start : start + length]
                at = offset + length
        yield bytes(max(0, size - at))

    def xattrs(self, found: Found) -> dict[bytes, bytes]:
        row = found.extra.get("y", -1)
        return unpack(self.load(found.sources[row], DATA)) if row >= 0 else dict(found.extra["x"])


def make_ref(row: list[Any]) -> Ref:
    return Ref(*row[:8], make_ref(row[8]) if row[8] else None)


def main(directory: str, *which: str) -> None:
    passphrase = os.environb.get(b"S3BACKFS_PASSPHRASE", b"")
    repository = Repository(Path(directory), passphrase)
    backups = repository.backups()
    if not which:
        for name, root in sorted(backups.items()):
            print(root["state"], os.fsdecode(name))
        return
    backup, path = map(os.fsencode, which)
    for piece in repository.content(repository.find(backups[backup], path)):
        sys.stdout.buffer.write(piece)


if __name__ == "__main__":
    main(*sys.argv[1:])
