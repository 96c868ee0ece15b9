"""Which s3backfs mounts there are, and whether one can be made at a place."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from s3backfs.control import canonical_mountpoint
from s3backfs.errors import (
    ConfigurationError,
    FuseUnavailableError,
    MountpointError,
    NotMountedError,
)

MOUNT_TYPE = "fuse.s3backfs"
_MOUNTINFO = Path("/proc/self/mountinfo")
_FUSE_DEVICE = Path("/dev/fuse")
_FUSE_CONF = Path("/etc/fuse.conf")
_OCTAL = re.compile(rb"\\([0-7]{3})")
_USER_ID = re.compile(rb"(?:^|,)user_id=(\d+)")


@dataclass(frozen=True, slots=True)
class Mount:
    """One s3backfs mount that the kernel knows."""

    mountpoint: Path
    source: str
    owner_uid: int


def parse_mountinfo(text: bytes) -> tuple[Mount, ...]:
    """Find the s3backfs mounts in /proc/PID/mountinfo.

    Source: proc(5).
    """
    found = []
    for line in text.splitlines():
        place, _, kind = line.partition(b" - ")
        fields, rest = place.split(b" "), kind.split(b" ")
        if len(fields) < 5 or len(rest) < 3 or rest[0] != MOUNT_TYPE.encode():
            continue
        owner = _USER_ID.search(rest[2])
        found.append(
            Mount(
                mountpoint=Path(os.fsdecode(_unescape(fields[4]))),
                source=os.fsdecode(_unescape(rest[1])),
                owner_uid=int(owner[1]) if owner else 0,
            )
        )
    return tuple(found)


def _unescape(field: bytes) -> bytes:
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field)


def list_mounts() -> tuple[Mount, ...]:
    """List the s3backfs mounts that this process sees."""
    return parse_mountinfo(_MOUNTINFO.read_bytes())


def find_mount(mountpoint: Path) -> Mount | None:
    """Find the mount whose root is exactly here; nothing asks the mount itself."""
    canonical = canonical_mountpoint(mountpoint)
    return next((mount for mount in list_mounts() if mount.mountpoint == canonical), None)


def locate_backup(path: Path, mounts: Iterable[Mount]) -> tuple[Mount, bytes]:
    """Split MOUNTPOINT/NAME into one of `mounts` and the name of the backup.

    Raises:
        NotMountedError: no s3backfs mount holds this path.
        ConfigurationError: it does not name a directory at the root of the mount.
    """
    canonical = canonical_mountpoint(path)
    holders = [m for m in mounts if canonical.is_relative_to(m.mountpoint)]
    if not holders:
        raise NotMountedError(f"{path} is not inside an s3backfs mount; give MOUNTPOINT/NAME")
    mount = max(holders, key=lambda holder: len(holder.mountpoint.parts))
    parts = canonical.relative_to(mount.mountpoint).parts
    if len(parts) != 1:
        example = mount.mountpoint / "NAME"
        raise ConfigurationError(f"{path} is not a backup; backups are {example}")
    return mount, os.fsencode(parts[0])


def is_dead(mountpoint: Path) -> bool:
    """Say whether the process behind a mount is gone."""
    try:
        # Not stat(2), which the kernel may answer itself from what it remembers.
        os.statvfs(mountpoint)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def unmount_lazily(mountpoint: Path) -> None:
    """Detach a mount whose process is gone.

    Raises:
        MountpointError: the kernel refused.
    """
    command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
    ended = subprocess.run(
        [*command, "--", str(mountpoint)],
        capture_output=True,
        text=True,
        check=False,
        # The credentials in the environment are none of its business.
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
    )
    if ended.returncode != 0:
        raise MountpointError(f"cannot unmount {mountpoint}: {' '.join(ended.stderr.split())}")


def prepare_mountpoint(mountpoint: Path) -> bool:
    """Check that something can be mounted here; True if a dead s3backfs mount was removed.

    Raises:
        MountpointError: missing, no directory, not ours to mount on, or mounted already.
    """
    if mountpoint == Path("/"):
        # Nothing could see it, and to unmount "/" is to take away what is below.
        raise MountpointError("/ cannot be a mount point; give another directory")
    mount = find_mount(mountpoint)
    if mount is not None and not is_dead(mountpoint):
        raise MountpointError(f"{mount.source} is mounted on {mountpoint} already")
    if mount is not None:
        unmount_lazily(mountpoint)
    _require_directory(mountpoint)
    return mount is not None


def _require_directory(mountpoint: Path) -> None:
    try:
        mode = mountpoint.stat().st_mode
    except FileNotFoundError as error:
        raise MountpointError(f"{mountpoint} does not exist; make it with mkdir") from error
    except OSError as error:
        raise MountpointError(f"{mountpoint}: {error.strerror}; unmount it first") from error
    if not stat.S_ISDIR(mode):
        raise MountpointError(f"{mountpoint} is not a directory")
    if not os.access(mountpoint, os.W_OK):
        raise MountpointError(f"{mountpoint} is not writable by this user, so FUSE refuses it")


def require_fuse(fuse_options: tuple[str, ...]) -> None:
    """Check that this user can make FUSE mounts with these options.

    Raises:
        FuseUnavailableError: what is missing, and how to get it.
    """
    try:
        os.close(os.open(_FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError as error:
        raise FuseUnavailableError(
            f"{_FUSE_DEVICE} is not open to this user or container; run as root or allow it"
        ) from error
    except OSError as error:
        raise FuseUnavailableError(
            f"{_FUSE_DEVICE}: {error.strerror}; load it with `modprobe fuse`, "
            "or give it to the container with --device /dev/fuse --cap-add SYS_ADMIN"
        ) from error
    if os.geteuid() == 0:
        return
    if shutil.which("fusermount3") is None:
        raise FuseUnavailableError("there is no fusermount3; install the package fuse3")
    if {"allow_other", "allow_root"} & set(fuse_options) and not _others_are_allowed():
        raise FuseUnavailableError(
            f"allow_other needs the line user_allow_other in {_FUSE_CONF} for users but root"
        )


def _others_are_allowed() -> bool:
    try:
        lines = _FUSE_CONF.read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)
