"""Everything that derives from the master keys: ids, cuts, names, and ciphers.

HKDF-SHA256 derives each key, with an info string of its own. Ids and cuts stay those of epoch 0 for
ever, so that contents keep their ids when the master changes.
Source: docs/format.md, "Keys"; RFC 5869 (HKDF), RFC 5297 (AES-SIV).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from functools import lru_cache

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from s3backfs.errors import IntegrityError, NewerKeyError
from s3backfs.format.frame import Encryption, FrameCipher
from s3backfs.format.names import quote_name, read_encrypted, unquote_name, write_encrypted
from s3backfs.format.refs import ID_BYTES, Buffer, Kind

MASTER_BYTES = 32
CIPHERS_KEPT = 4096


def derive(master: bytes, info: bytes, length: int, salt: bytes = b"") -> bytes:
    """Derive a key; `info` says what for.

    Source: RFC 5869.
    """
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(master)


def new_master() -> bytes:
    """Make a master key."""
    return secrets.token_bytes(MASTER_BYTES)


class Keyring:
    """The master keys of a repository by epoch, and what derives from them. Threads share one."""

    def __init__(self, encryption: Encryption, masters: Mapping[int, bytes]) -> None:
        """Take the masters; that of epoch 0 must be among them."""
        oldest = masters[0]
        self.encryption = encryption
        self.epoch = max(masters)
        self._masters = dict(masters)
        self._id_key = derive(oldest, b"s3backfs 1 chunk id", 32)
        self._cut_key = derive(oldest, b"s3backfs 1 tree cut", 32)
        self._path_key = derive(oldest, b"s3backfs 1 path", 32)
        self._names = AESSIV(derive(oldest, b"s3backfs 1 backup name", 64))
        self.repository_id = derive(oldest, b"s3backfs 1 repository id", ID_BYTES)
        self._pack_cipher = lru_cache(CIPHERS_KEPT)(self._make_pack_cipher)

    @classmethod
    def generate(cls, encryption: Encryption) -> Keyring:
        """Make the keyring of a new repository."""
        return cls(encryption, {0: new_master()})

    def __repr__(self) -> str:
        return f"Keyring({self.encryption}, epoch={self.epoch})"

    def master(self, epoch: int) -> bytes:
        """Return the master key of an epoch.

        Raises:
            NewerKeyError: it is newer than all that are known.
            IntegrityError: there is none.
        """
        if epoch > self.epoch:
            raise NewerKeyError(epoch, self.epoch)
        try:
            return self._masters[epoch]
        except KeyError:
            raise IntegrityError(f"it names key epoch {epoch}, which is not known here") from None

    def fingerprint(self, epoch: int) -> str:
        """Return what a machine may remember of a master without knowing it.

        Raises:
            IntegrityError: there is no master of this epoch.
        """
        return derive(self.master(epoch), b"s3backfs 1 fingerprint", ID_BYTES).hex()

    def with_next(self, master: bytes) -> Keyring:
        """Return the keyring after a rotation to a new master."""
        return Keyring(self.encryption, {**self._masters, self.epoch + 1: master})

    # -- hashes ------------------------------------------------------------------------------

    def chunk_id(self, data: Buffer) -> bytes:
        """Return the id of a content."""
        return blake3(data, key=self._id_key).digest(length=ID_BYTES)

    def logical_id(self, preimage: bytes) -> bytes:
        """Return the logical id of a node."""
        return blake3(preimage, key=self._id_key).digest(length=ID_BYTES)

    def cut_hash(self, level: int, key: bytes) -> int:
        """Return the 32 bits that decide where a tree is cut; `level` 0 are the leaves."""
        digest = blake3(bytes((level,)) + key, key=self._cut_key).digest(length=4)
        return int.from_bytes(digest, "little")

    def path_hash(self, path_key: bytes, attempt: int) -> int:
        """Return the 48 bits an inode number is made of, never 0 or 1."""
        preimage = b"ino" + attempt.to_bytes(4, "little") + path_key
        digest = blake3(preimage, key=self._path_key).digest(length=6)
        return max(int.from_bytes(digest, "little"), 2)

    def link_id(self, path_key: bytes, attempt: int) -> bytes:
        """Return the id of a link record."""
        preimage = b"link" + attempt.to_bytes(4, "little") + path_key
        return blake3(preimage, key=self._path_key).digest(length=ID_BYTES)

    # -- ciphers -----------------------------------------------------------------------------

    def pack_cipher(self, kind: Kind, pack_id: bytes, epoch: int | None = None) -> FrameCipher:
        """Return the cipher of a pack's frames; without `epoch` that of a new pack.

        Raises:
            IntegrityError: there is no master of this epoch.
        """
        return self._pack_cipher(kind, pack_id, self.epoch if epoch is None else epoch)

    def _make_pack_cipher(self, kind: Kind, pack_id: bytes, epoch: int) -> FrameCipher:
        key = self._cipher_key(epoch, b"s3backfs 1 pack " + bytes((kind,)), pack_id)
        return FrameCipher(kind, pack_id, epoch, key, has_offsets=True)

    def object_cipher(self, kind: Kind, key: str, epoch: int | None = None) -> FrameCipher:
        """Return the cipher of a single object; `key` is relative to the repository.

        Raises:
            IntegrityError: there is no master of this epoch.
        """
        place = key.encode("ascii")
        chosen = self.epoch if epoch is None else epoch
        secret = self._cipher_key(chosen, b"s3backfs 1 object " + bytes((kind,)) + place, b"")
        return FrameCipher(kind, place, chosen, secret, has_offsets=False)

    def _cipher_key(self, epoch: int, info: bytes, salt: bytes) -> bytes | None:
        master = self.master(epoch)
        return None if self.encryption is Encryption.NONE else derive(master, info, 64, salt)

    # -- names of backups --------------------------------------------------------------------

    def encode_name(self, name: bytes) -> str:
        """Return a backup's name as a part of an object key.

        Raises:
            FileSystemError: ENAMETOOLONG, or EINVAL for what is no name.
        """
        if self.encryption is Encryption.NONE:
            return quote_name(name)
        return write_encrypted(self._names, name)

    def decode_name(self, text: str) -> bytes:
        """Return the name that a part of an object key stands for.

        Raises:
            IntegrityError: this program has not written it.
        """
        if self.encryption is Encryption.NONE:
            return unquote_name(text)
        return read_encrypted(self._names, text)
