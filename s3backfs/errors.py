"""Every exception that s3backfs raises on purpose.

Three class attributes say how an error leaves the program: `errno_code` through the mount,
`exit_code` through the command line, and `can_retry` whether doing the same again can help.
"""

from __future__ import annotations

import errno


class S3backfsError(Exception):
    """The root of the tree; its text is one line that names the thing and the remedy."""

    errno_code: int = errno.EIO
    exit_code: int = 1
    can_retry: bool = False


# -- configuration: what the user asked for cannot be done as asked -------------------------


class ConfigurationError(S3backfsError):
    """An impossible option, URL, passphrase source or environment."""

    errno_code = errno.EINVAL
    exit_code = 2


class MountpointError(ConfigurationError):
    """The mount point is missing, busy or not a directory."""

    exit_code = 3


class FuseUnavailableError(ConfigurationError):
    """There is no /dev/fuse, no fusermount3, or no permission to use them."""

    exit_code = 4


class NotMountedError(ConfigurationError):
    """No s3backfs process answers for this mount point."""

    exit_code = 5


# -- file system: what a system call answers -------------------------------------------------


class FileSystemError(S3backfsError):
    """A plain errno for the caller of a system call; `FileSystemError(errno.ENOENT)`."""

    def __init__(self, errno_code: int, message: str = "") -> None:
        super().__init__(message or errno.errorcode.get(errno_code, str(errno_code)))
        self.errno_code = errno_code


# -- repository: it is not there, not ours, or not for this version --------------------------


class RepositoryError(S3backfsError):
    """Something about the repository as a whole."""

    exit_code = 10


class RepositoryMissingError(RepositoryError):
    """There is no repository at this URL."""

    exit_code = 11


class RepositoryExistsError(RepositoryError):
    """There is a repository, or something foreign, at this URL already."""

    exit_code = 12


class WrongKeyError(RepositoryError):
    """No key slot opens with the passphrase given."""

    errno_code = errno.EACCES
    exit_code = 13


class UnsupportedFormatError(RepositoryError):
    """Written by a newer version of the format than this program knows."""

    exit_code = 14


class OwnershipLostError(RepositoryError):
    """Another writer has taken this open backup over."""

    errno_code = errno.ESTALE
    exit_code = 15


class RolledBackError(RepositoryError):
    """A backup's root is older than the one that this machine stored last."""

    errno_code = errno.EROFS


class LeaseLapsedError(RepositoryError):
    """Others may have taken this process for gone, so that it must not go on."""

    exit_code = 17


class LockedError(RepositoryError):
    """The backup has the tag that keeps it from being forgotten."""

    errno_code = errno.EPERM
    exit_code = 18


class OldKeysError(RepositoryError):
    """The keys that the bucket shows are older than those its objects name."""

    def __init__(self, newer: NewerKeyError) -> None:
        super().__init__(
            f"the bucket holds objects of key epoch {newer.epoch} ({newer.key}), but the key slots "
            f"and repository.json that it shows are of epoch {newer.known_epoch}: somebody put old "
            "keys back, and with those revoked ones would open what is written from now on; put "
            "back the newest versions of repository.json and keys/, or delete repository.json and "
            "use `s3backfs key import`; meanwhile mount with --read-only"
        )


class RepositoryBusyError(RepositoryError):
    """Another process of this machine holds what is needed."""

    errno_code = errno.EBUSY
    exit_code = 16


# -- integrity: bytes in the bucket are not what was written ----------------------------------


class IntegrityError(S3backfsError):
    """An object was damaged, swapped, truncated or forged; never retried.

    `key` is the object's key, `offset` the byte in it where the damaged part begins.
    """

    exit_code = 20

    def __init__(self, message: str, *, key: str = "", offset: int = 0) -> None:
        where = f"{key} at byte {offset}: " if key else ""
        super().__init__(where + message)
        self.message = message
        self.key = key
        self.offset = offset


class NewerKeyError(IntegrityError):
    """An object names a key epoch that the repository's keys do not reach."""

    def __init__(self, epoch: int, known_epoch: int, *, key: str = "") -> None:
        super().__init__(
            f"it names key epoch {epoch}, which is not known here, where the newest is "
            f"{known_epoch}: after `s3backfs key rotate` mount anew",
            key=key,
        )
        self.epoch = epoch
        self.known_epoch = known_epoch


class IncompleteError(IntegrityError):
    """Packs that a backup needs are lost."""


# -- store: the bucket answered something else than wanted -----------------------------------


class StoreError(S3backfsError):
    """The object store failed; `key` names the object where there is one."""

    exit_code = 30

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(f"{key}: {message}" if key else message)
        self.key = key


class ObjectMissingError(StoreError):
    """No object has this key (or listing is not allowed and the store will not say)."""

    exit_code = 31


class PreconditionFailedError(StoreError):
    """A conditional write found another object, or none, than its condition names."""

    exit_code = 32


class BucketMissingError(StoreError):
    """The bucket, or the directory, is not there."""

    exit_code = 33


class RefusedError(StoreError):
    """The store refused for good: wrong credentials, no permission, clock skew."""

    errno_code = errno.EACCES
    exit_code = 34


class DeniedError(RefusedError):
    """These credentials may not do that; where listing is not allowed, also "no such object"."""


class EncryptionRefusedError(RefusedError):
    """The server has encrypted the object by a key that was not given, or may not be used."""


class QuotaError(StoreError):
    """The store is full."""

    errno_code = errno.ENOSPC
    exit_code = 35


class UnavailableError(StoreError):
    """Unreachable, throttled, timed out or broken in transit; the same request may succeed."""

    exit_code = 36
    can_retry = True


class UploadMissingError(StoreError):
    """The multipart upload is unknown to the store: completed, aborted or lost."""

    exit_code = 37
