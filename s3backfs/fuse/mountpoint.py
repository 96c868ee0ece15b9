"""The place in the tree where the mount is: holding it, and unmounting this mount and no other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyfuse3
import trio

from s3backfs.errors import FuseUnavailableError, MountpointError
from s3backfs.fs.filesystem import FileSystem
from s3backfs.fuse.door import Door
from s3backfs.fuse.place import is_on_top
from s3backfs.fuse.read_ahead import widen_read_ahead
from s3backfs.fuse.unmounting import run_unmount


class Mountpoint:
    """One mount, from where it is made until it is gone."""

    def __init__(self, path: Path, url: str) -> None:
        self._path = path
        self._url = url
        self._device: int | None = None

    @contextlib.contextmanager
    def held(self, filesystem: FileSystem, fuse_options: Iterable[str]) -> Iterator[None]:
        """Hold the mount; whatever happens it is gone afterwards, and no other one is.

        Raises:
            FuseUnavailableError: it could not be made.
        """
        options = {"default_permissions", *fuse_options}
        options |= {"fsname=" + self._url, "subtype=s3backfs"}
        try:
            pyfuse3.init(Door(filesystem), os.fspath(self._path), options)
        except RuntimeError as error:
            raise FuseUnavailableError(
                f"cannot mount at {self._path}: FUSE refused; check /dev/fuse, fusermount3 and "
                "the -o options (allow_other needs user_allow_other in /etc/fuse.conf)"
            ) from error
        try:
            yield
        finally:
            pyfuse3.close(unmount=self.is_on_top())

    async def wait_until_it_answers(self) -> None:
        """Wait, and note the number of the mount's device.

        Raises:
            MountpointError: it does not answer.
        """
        try:
            self._device = (await trio.to_thread.run_sync(os.stat, self._path)).st_dev
        except OSError as error:
            raise MountpointError(f"{self._path} does not answer: {error.strerror}") from error
        widen_read_ahead(self._device)

    def is_on_top(self) -> bool:
        """Whether unmounting by path would reach this mount and nothing else."""
        return self._device is None or is_on_top(self._path, self._device)

    def unmount(self) -> None:
        """Take the mount out of the tree; it may be out of it already.

        Raises:
            MountpointError: it is busy.
        """
        if not self.is_on_top():
            return
        done = run_unmount(self._path, lazily=False)
        if done.returncode and self.is_on_top():
            text = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["?"]
            raise MountpointError(
                f"{self._path} cannot be unmounted ({text[0]}); close what is open "
                "there (see: fuser -vm) and try again"
            )

    def unmount_lazily(self) -> None:
        """Take the mount out of the tree, whoever is in it."""
        with contextlib.suppress(OSError):
            run_unmount(self._path, lazily=True)
