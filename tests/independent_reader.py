"""Read a repository by docs/format.md alone: nothing of the package s3backfs is imported here.

    S3BACKFS_PASSPHRASE=... python tests/independent_reader.py REPOSITORY_DIR [BACKUP PATH > out]

Lists the backups, or writes the content of a file (of a symbolic link: its target). What opens
may be a passphrase, a raw key, the words of a recovery key, or the line of an identity file.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import struct
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec.msgpack import decode as unpack
from zstandard import DICT_TYPE_RAWCONTENT, ZstdCompressionDict, ZstdDecompressor
from zstandard import frame_content_size as content_size

DATA, META, ROOT, MOVED, VERIFIED, TAG, REMOVAL = 1, 2, 3, 6, 8, 9, 10
Ref = tuple[Any, ...]
Found = tuple[list[Any], list[Ref]]  # an entry and the sources of its leaf


def check(condition: bool, what: str) -> None:
    if not condition:
        raise SystemExit(what)


def hkdf(master: bytes, info: bytes, length: int, salt: bytes = b"") -> bytes:
    return HKDF(SHA256(), length, salt, info).derive(master)


def canonical(value: dict[str, Any], *without: str) -> bytes:
    kept = {key: value[key] for key in value if key not in without}
    return json.dumps(kept, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def load_json(path: Path) -> dict[str, Any]:
    text = path.read_bytes()
    value: dict[str, Any] = json.loads(text)
    check(value["format"] <= 1, f"{path}: needs a newer program")
    check((value["product"], canonical(value)) == ("s3backfs", text), f"{path}: damaged")
    return value


def stretched(slot: dict[str, Any], passphrase: bytes) -> bytes:
    lanes, memory, passes = (slot["argon2id"][k] for k in ("lanes", "memory_kib", "passes"))
    sane = 1 <= lanes <= 16 and 8 * lanes <= memory <= 1 << 20 and 1 <= passes <= 16
    check(sane, "damaged: argon2id")
    salt = base64.b64decode(slot["salt"])
    return hash_secret_raw(passphrase, salt, passes, memory, lanes, 32, Type.ID, 0x13)


def from_digits(text: str, digits: str, bits: int) -> int:
    return functools.reduce(lambda value, digit: value << bits | digits.index(digit), text, 0)


def words_secret(given: str) -> bytes:
    letters = "".join(c for c in given if c.isalpha())
    check(len(letters) == 60, "no recovery key")
    pieces = ((c, "bdfghjklmnprstvz", 4) if c not in "aiou" else (c, "aiou", 2) for c in letters)
    value = functools.reduce(lambda v, p: v << p[2] | from_digits(*p), pieces, 0).to_bytes(24)
    secret = value[:20]
    check(blake3(b"s3backfs 1 recovery" + secret).digest()[:4] == value[20:], "no recovery key")
    return secret


def holder_secret(slot: dict[str, Any], given: bytes) -> bytes:
    text = given.decode("ascii", "replace").strip().lower()
    if slot["kind"] == "argon2id":
        return stretched(slot, given)
    if slot["kind"] == "raw":
        return bytes.fromhex(text)
    if slot["kind"] == "recovery":
        return words_secret(text)
    check(text.startswith("age-secret-key-1"), "no identity")
    value = from_digits(text[16:-6], "qpzry9x8gf2tvdw0s3jn54khce6mua7l", 5)
    return (value >> 4).to_bytes(32)


def as_ref(row: list[Any]) -> Ref:
    *ref, base = row
    return (*ref, base and (*base[:8], None))


def read_body(body: bytes, length: int, base: bytes | None) -> bytes:
    codec, payload = body[0], body[1:]
    if codec != 0:
        check(codec in (1, 2) and content_size(payload) == length, "damaged: body")
        known = ZstdCompressionDict(base, dict_type=DICT_TYPE_RAWCONTENT) if codec == 2 else None
        unpacker = ZstdDecompressor(dict_data=known)
        payload = unpacker.decompress(payload, max_output_size=length, allow_extra_data=False)
    check(len(payload) == length, "damaged: length of a body")
    return payload


class Repository:
    def __init__(self, top: Path, passphrase: bytes) -> None:
        self.top, self.json = top, load_json(top / "repository.json")
        check(not self.json["requires"], "repository.json: needs a newer program")
        self.is_clear = self.json["encryption"] == "none"
        newest = base64.b64decode(self.json["master"] or "") or self.open_slots(passphrase)
        mac = blake3(canonical(self.json, "mac"), key=hkdf(newest, b"s3backfs 1 parameters", 32))
        check(mac.hexdigest() == self.json["mac"], "repository.json: damaged: mac")
        self.masters = {self.json["epoch"]: newest}
        for older in sorted(self.json["older"], key=lambda row: -row["epoch"]):
            key = hkdf(self.masters[older["epoch"] + 1], b"s3backfs 1 older master", 64)
            wrapped, bound = base64.b64decode(older["wrapped"]), struct.pack("<I", older["epoch"])
            self.masters[older["epoch"]] = AESSIV(key).decrypt(wrapped, [bound])
        self.id = hkdf(self.masters[0], b"s3backfs 1 repository id", 16)
        check(self.id.hex() == self.json["repository"], "repository.json: damaged: id")

    def open_slots(self, passphrase: bytes) -> bytes:
        for path in sorted((self.top / "keys").iterdir()):
            slot = load_json(path)
            intact = blake3(canonical(slot, "digest")).hexdigest() == slot["digest"]
            place = (self.json["repository"], self.json["epoch"])
            if not intact or (slot["repository"], slot["epoch"]) != place:
                continue
            if slot["kind"] in ("argon2id", "raw", "recovery", "x25519"):
                with contextlib.suppress(SystemExit, ValueError):
                    return self.open_holder(slot, holder_secret(slot, passphrase))
            if slot["kind"] != "passphrase":
                continue
            secret = stretched(slot, passphrase)
            commitment = hkdf(secret, b"s3backfs 1 slot commitment", 32)
            if commitment == base64.b64decode(slot["commitment"]):
                key, wrapped = hkdf(secret, b"s3backfs 1 slot key", 32), slot["wrapped"]
                sealed, bound = base64.b64decode(wrapped), canonical(slot, "wrapped", "digest")
                return AESGCM(key).decrypt(sealed[:12], sealed[12:], bound)
        raise SystemExit("no key slot opens with this passphrase")

    @staticmethod
    def open_holder(slot: dict[str, Any], secret: bytes) -> bytes:
        share, recipient, sealed, proof = (
            base64.b64decode(slot[name]) for name in ("share", "recipient", "wrapped", "proof")
        )
        is_private = slot["kind"] == "x25519"
        info = b"s3backfs 1 holder "
        private = secret if is_private else hkdf(secret, info + slot["kind"].encode(), 32)
        own = X25519PrivateKey.from_private_bytes(private)
        check(own.public_key().public_bytes_raw() == recipient, "another secret")
        proven = blake3(
            recipient + bytes.fromhex(slot["repository"]), key=hkdf(private, info + b"proof", 32)
        )
        check(proven.digest() == proof, "damaged: proof")
        shared = own.exchange(X25519PublicKey.from_public_bytes(share))
        key = hkdf(shared, info + b"seal", 32, share + recipient)
        bound = canonical(slot, "wrapped", "mac", "digest")
        master = AESGCM(key).decrypt(bytes(12), sealed, bound)
        mac_key = hkdf(master, b"s3backfs 1 slot mac", 32)
        mac = blake3(canonical(slot, "mac", "digest"), key=mac_key).hexdigest()
        check(mac == slot["mac"], "damaged: mac of a slot")
        return master

    def open_frame(self, keys: bytes, frame: bytes, bound: bytes) -> bytes:
        if not self.is_clear:
            return AESGCM(keys[:32]).decrypt(frame[:12], frame[12:], bound)
        check(blake3(bound + frame[16:]).digest()[:16] == frame[:16], "damaged: frame")
        return frame[16:]

    def load_object(self, object_key: str, kind: int) -> dict[str, Any]:
        data, where = (self.top / object_key).read_bytes(), object_key.encode()
        *header, epoch, length = struct.unpack("<4sBBII", data[:14])
        check(header[1] <= 1, f"{object_key}: needs a newer program")
        check(header == [b"s3bk", 1, kind], f"{object_key}: damaged: header")
        keys = hkdf(self.masters[epoch], b"s3backfs 1 object " + bytes([kind]) + where, 64)
        body = self.open_frame(keys, data[14:], b"s3bk" + bytes([1, kind]) + where)
        opened: dict[str, Any] = unpack(read_body(body, length, None))
        return opened

    def tags(self, root: dict[str, Any]) -> dict[str, str]:
        """Those in the root, and over them those that stand alone."""
        tags = dict(root["tags"])
        for path in (self.top / "tags" / root["backup_id"].hex()).glob("*"):
            tag = self.load_object(str(path.relative_to(self.top)), TAG)
            right = (self.id, root["backup_id"], self.name_of(path.name).decode())
            told = (tag["repository_id"], tag["backup_id"], tag["name"])
            check(told == right, f"{path}: damaged: tag")
            tags[tag["name"]] = tag["value"]
        return {name: value for name, value in tags.items() if value is not None}

    def load_root(self, object_key: str) -> dict[str, Any]:
        root = self.load_object(object_key, ROOT)
        right = (self.name_of(object_key.split("/")[1]), self.id)
        check((root["name"], root["repository_id"]) == right, f"{object_key}: damaged: name")
        return root

    @functools.lru_cache(maxsize=64)  # noqa: B019
    def load(self, ref: Ref, kind: int) -> bytes:
        pack_id, epoch, offset, frame_length, chunk_length, start, length, _, base = ref
        pack = self.top / {DATA: "data", META: "meta"}[kind] / pack_id.hex()
        if not pack.exists():
            return self.load_moved(ref, kind)
        frame = pack.read_bytes()[offset : offset + frame_length]
        keys = hkdf(self.masters[epoch], b"s3backfs 1 pack " + bytes([kind]), 64, pack_id)
        bound = b"s3bk" + bytes([1, kind]) + pack_id + struct.pack("<Q", offset)
        body = self.open_frame(keys, frame, bound)
        chunk = read_body(body, chunk_length, self.load(base, kind) if base else None)
        return chunk[start : start + length]

    def load_moved(self, ref: Ref, kind: int) -> bytes:
        pack_id, _, offset, _, _, start, length, *_ = ref
        table = self.load_object(f"moved/{pack_id.hex()}", MOVED)
        right = (table["repository_id"], table["pack_id"]) == (self.id, pack_id)
        check(right, "damaged: a table of another pack")
        found, at, end = b"", start, start + length
        for pack_offset, first, size, target in table["ranges"]:
            if pack_offset == offset and first <= at < min(first + size, end):
                found += self.load(as_ref(target), kind)[at - first : end - first]
                at = start + len(found)
        check(at == end, "lost: what a table does not have")
        return found

    def name_of(self, text: str) -> bytes:
        if self.is_clear:
            return urllib.parse.unquote_to_bytes(text)
        sealed = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
        key = hkdf(self.masters[0], b"s3backfs 1 backup name", 64)
        return AESSIV(key).decrypt(sealed, [b"s3bk backup name"])

    def backups(self) -> dict[bytes, dict[str, Any]]:
        paths = [path for room in ("open", "backups") for path in (self.top / room).glob("*")]
        roots = (self.load_root(f"{path.parent.name}/{path.name}") for path in paths)
        return {root["name"]: root for root in roots}

    def walk(self, root: dict[str, Any], goal: bytes = b"") -> Iterator[tuple[bytes, Found]]:
        """All entries by key; with a goal those of the one leaf that may have it."""
        if top := root["top"]:
            node = self.load(as_ref(top["ref"]), META) if top["ref"] else top["inline"]
            for body, sources in self.leaves(node, top["height"], goal):
                for prefix, entries in body:
                    yield from ((prefix + b"\0" + entry[0], (entry, sources)) for entry in entries)

    def leaves(self, node: bytes, height: int, goal: bytes) -> Iterator[tuple[Any, list[Ref]]]:
        _, its_height, packs, rows, body = unpack(node)
        check(its_height == height, "damaged: height of a node")
        plain: list[Ref] = [(*packs[row[0]], *row[1:7], None) for row in rows] + [None]
        sources = [(*packs[row[0]], *row[1:7], plain[row[7]]) for row in rows]
        children = [row for row in body if row[0] >= goal] if height else []
        for _, row, _ in children[:1] if goal else children:
            yield from self.leaves(self.load(sources[row], META), height - 1, goal)
        if not height:
            yield body, sources

    def find(self, root: dict[str, Any], path: bytes) -> Found:
        *above, name = path.split(b"/")
        key = b"".join(part + b"\0" for part in above) + b"\0" + name
        found = dict(self.walk(root, key))[key]
        link = (found[0][9] or {}).get("l")
        return dict(self.walk(root, b"\0\0" + link))[b"\0\0" + link] if link else found

    def content(self, found: Found) -> Iterator[bytes]:
        (*_, size, inline, extents, extra), sources = found
        tree = (extra or {}).get("e")
        at, node = len(inline or b""), self.load(sources[tree[0]], META) if tree else b""
        yield inline or b""
        for rows, refs in self.leaves(node, tree[1], b"") if tree else [(extents, sources)]:
            for offset, length, row, start in rows:
                yield bytes(offset - at) + self.load(refs[row], DATA)[start : start + length]
                at = offset + length
        yield bytes(max(0, size - at))

    def xattrs(self, found: Found) -> dict[bytes, bytes]:
        extra, row = found[0][9] or {}, (found[0][9] or {}).get("y")
        return dict(extra.get("x", [])) if row is None else unpack(self.load(found[1][row], DATA))


def main(directory: str, *which: str) -> None:
    repository = Repository(Path(directory), os.environb.get(b"S3BACKFS_PASSPHRASE", b""))
    backups = repository.backups()
    if not which:
        print(*sorted(f"{os.fsdecode(k)} {root['state']}" for k, root in backups.items()), sep="\n")
    for path in which[1:]:
        found = repository.find(backups[os.fsencode(which[0])], os.fsencode(path))
        sys.stdout.buffer.writelines(repository.content(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
