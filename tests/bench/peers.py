"""What is measured: this project, its peers, and the floors and ceilings."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.meter import Meter
from tests.servers import ACCESS_KEY, SECRET_KEY, program_of_venv

_PASSPHRASE = "correct horse battery staple"


@dataclass(frozen=True)
class Place:
    """Where one peer works: a home that is new on each machine, a bucket, the way to it."""

    home: Path
    bucket: str
    endpoint: str
    local: Path
    """Where a peer without S3 keeps its repository."""

    @property
    def mountpoint(self) -> Path:
        return self.home / "mnt"

    def environment(self) -> dict[str, str]:
        """What all peers find."""
        return {
            "HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "XDG_STATE_HOME": str(self.home / "state"),
            "XDG_RUNTIME_DIR": str(self.home),
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            "S3BACKFS_PASSPHRASE": _PASSPHRASE,
            "RESTIC_PASSWORD": _PASSPHRASE,
            "BORG_PASSPHRASE": _PASSPHRASE,
            "BORG_BASE_DIR": str(self.home),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        }


class Peer:
    """Something that stores trees and gives them back."""

    name: str
    is_mount = False
    """It can be read through a mount."""
    writes_by_mount = False
    keeps_data = True
    is_plain = False
    """It does not encrypt."""
    servers = frozenset({"rclone", "moto"})
    """Where it works."""

    def is_installed(self) -> bool:
        return True

    def url(self, place: Place) -> str:
        """The name of the repository."""
        raise NotImplementedError

    def trial(self) -> list[str]:
        """A command that brings its programs into memory and does nothing else; may be empty."""
        return []

    def begin(self, place: Place, meter: Meter) -> None:
        """Make an empty repository; not measured."""

    def store(self, place: Place, meter: Meter, source: Path, name: str) -> None:
        """Store a tree until it is durable."""
        raise NotImplementedError

    def fetch(self, place: Place, meter: Meter, name: str, target: Path) -> None:
        """Bring a tree back."""
        raise NotImplementedError

    @contextlib.contextmanager
    def mounted(self, place: Place, meter: Meter, *, read_only: bool) -> Iterator[Path]:
        """Hold a mount, and give its top."""
        raise NotImplementedError
        yield place.home

    def tree(self, top: Path, name: str) -> Path:
        """Where in a mount a tree is that was stored."""
        return top / name


class S3backfs(Peer):
    name = "s3backfs"
    is_mount = writes_by_mount = True

    def trial(self) -> list[str]:
        return [sys.executable, "-c", "import s3backfs.cli.main, s3backfs.mount, s3backfs.store.s3"]

    def url(self, place: Place) -> str:
        return f"s3://{place.bucket}/prefix"

    def begin(self, place: Place, meter: Meter) -> None:
        meter.run([sys.executable, "-m", "s3backfs.cli", "init", self.url(place)])

    @contextlib.contextmanager
    def mounted(self, place: Place, meter: Meter, *, read_only: bool) -> Iterator[Path]:
        program = [sys.executable, "-m", "s3backfs.cli"]
        options = ["--foreground", *(["--read-only"] if read_only else [])]
        command = [*program, "mount", *options, self.url(place), str(place.mountpoint)]
        unmount = [*program, "umount", str(place.mountpoint)]
        with meter.mounted(command, place.mountpoint, unmount):
            yield place.mountpoint


class NullFs(Peer):
    name = "nullfs"
    is_mount = writes_by_mount = True
    keeps_data = False
    is_plain = True

    def trial(self) -> list[str]:
        return [sys.executable, "-c", "import tests.bench.nullfs"]

    @contextlib.contextmanager
    def mounted(self, place: Place, meter: Meter, *, read_only: bool) -> Iterator[Path]:
        command = [sys.executable, "-m", "tests.bench.nullfs", str(place.mountpoint)]
        unmount = ["umount", str(place.mountpoint)]
        with meter.mounted(command, place.mountpoint, unmount):
            yield place.mountpoint


class RcloneCrypt(Peer):
    name = "rclone"
    is_mount = writes_by_mount = True

    def trial(self) -> list[str]:
        return [program_of_venv("rclone"), "version"]

    @contextlib.contextmanager
    def mounted(self, place: Place, meter: Meter, *, read_only: bool) -> Iterator[Path]:
        rclone = program_of_venv("rclone")
        (place.home / "rclone.conf").write_text(
            "[s3]\ntype = s3\nprovider = Rclone\n"
            f"endpoint = {place.endpoint}\naccess_key_id = {ACCESS_KEY}\n"
            f"secret_access_key = {SECRET_KEY}\n"
            f"[crypt]\ntype = crypt\nremote = s3:{place.bucket}\n"
            # The word `bench`, obscured as rclone wants it.
            "password = XkJDhbbGRStB2_vLeabcWqDS4tCE\n"
        )
        command = [rclone, "mount", "--config", str(place.home / "rclone.conf")]
        command += ["--vfs-cache-mode", "writes", "--vfs-write-back", "0s", "--links"]
        command += ["crypt:", str(place.mountpoint)]
        with meter.mounted(command, place.mountpoint, ["umount", str(place.mountpoint)]):
            yield place.mountpoint


class Restic(Peer):
    name = "restic"

    def trial(self) -> list[str]:
        return ["restic", "version"]

    def is_installed(self) -> bool:
        return shutil.which("restic") is not None

    def _command(self, place: Place, *words: str) -> list[str]:
        return ["restic", "-r", f"s3:{place.endpoint}/{place.bucket}/restic", *words]

    def begin(self, place: Place, meter: Meter) -> None:
        meter.run(self._command(place, "init"))

    def store(self, place: Place, meter: Meter, source: Path, name: str) -> None:
        meter.run(self._command(place, "backup", "--ignore-inode", "--tag", name, str(source)))

    def fetch(self, place: Place, meter: Meter, name: str, target: Path) -> None:
        meter.run(self._command(place, "restore", "latest", "--tag", name, "--target", str(target)))


class ResticMount(Restic):
    """Stores by `restic backup`, and reads through `restic mount`."""

    name = "resticmount"
    is_mount = True

    def store(self, place: Place, meter: Meter, source: Path, name: str) -> None:
        # From within: the tree is then at the top of the snapshot.
        backup = shlex.join(self._command(place, "backup", "--tag", name, "."))
        meter.run(["sh", "-c", f"cd {shlex.quote(str(source))} && exec {backup}"])

    @contextlib.contextmanager
    def mounted(self, place: Place, meter: Meter, *, read_only: bool) -> Iterator[Path]:
        command = self._command(place, "mount", str(place.mountpoint))
        with meter.mounted(command, place.mountpoint, ["umount", str(place.mountpoint)]):
            yield place.mountpoint

    def tree(self, top: Path, name: str) -> Path:
        return (top / "tags" / name / "latest").resolve()


class S3fs(Peer):
    """Files as plain objects, without encryption."""

    name = "s3fs"
    is_mount = writes_by_mount = True
    is_plain = True
    # To rclone's server a name cannot be a directory's marker and a directory.
    servers = frozenset({"moto"})

    def trial(self) -> list[str]:
        return ["s3fs", "--version"]

    def is_installed(self) -> bool:
        return shutil.which("s3fs") is not None

    @contextlib.contextmanager
    def mounted(self, place: Place, meter: Meter, *, read_only: bool) -> Iterator[Path]:
        options = f"use_path_request_style,url={place.endpoint}"
        command = ["s3fs", place.bucket, str(place.mountpoint), "-f", "-o", options]
        unmount = ["umount", str(place.mountpoint)]
        with meter.mounted(command, place.mountpoint, unmount):
            yield place.mountpoint


class Borg(Peer):
    """Keeps its repository on the local disk: it has no S3."""

    name = "borg"

    def trial(self) -> list[str]:
        return ["borg", "--version"]

    def is_installed(self) -> bool:
        return shutil.which("borg") is not None

    def begin(self, place: Place, meter: Meter) -> None:
        meter.run(["borg", "init", "-e", "repokey-blake2", str(place.local)])

    def store(self, place: Place, meter: Meter, source: Path, name: str) -> None:
        meter.run(["borg", "create", "-C", "zstd,3", f"{place.local}::{name}", str(source)])

    def fetch(self, place: Place, meter: Meter, name: str, target: Path) -> None:
        target.mkdir(parents=True)
        command = f'cd "{target}" && exec borg extract "{place.local}::{name}"'
        meter.run(["sh", "-c", command])


class Boto3(Peer):
    """A raw multipart upload, without compression or encryption; large files alone."""

    name = "boto3"
    is_plain = True

    def trial(self) -> list[str]:
        return [sys.executable, "-c", "import boto3.session; boto3.session.Session().client('s3')"]

    def store(self, place: Place, meter: Meter, source: Path, name: str) -> None:
        program = "import boto3, sys; boto3.client('s3').upload_file(sys.argv[1], *sys.argv[2:])"
        meter.run([sys.executable, "-c", program, str(source / "file"), place.bucket, name])

    def fetch(self, place: Place, meter: Meter, name: str, target: Path) -> None:
        target.mkdir(parents=True)
        program = "import boto3, sys; boto3.client('s3').download_file(*sys.argv[1:])"
        meter.run([sys.executable, "-c", program, place.bucket, name, str(target / "file")])


class AwsCli(Peer):
    """`aws s3 cp --recursive`; AWS_CLI names the program."""

    name = "aws"
    is_plain = True

    def trial(self) -> list[str]:
        return [os.environ["AWS_CLI"], "--version"]

    def is_installed(self) -> bool:
        return "AWS_CLI" in os.environ

    def store(self, place: Place, meter: Meter, source: Path, name: str) -> None:
        words = ["s3", "cp", "--recursive", "--no-follow-symlinks", "--only-show-errors"]
        meter.run([os.environ["AWS_CLI"], *words, str(source), f"s3://{place.bucket}/{name}"])

    def fetch(self, place: Place, meter: Meter, name: str, target: Path) -> None:
        words = ["s3", "cp", "--recursive", "--only-show-errors"]
        meter.run([os.environ["AWS_CLI"], *words, f"s3://{place.bucket}/{name}", str(target)])


class Copy(Peer):
    """cp to the local disk."""

    name = "cp"
    is_plain = True

    def store(self, place: Place, meter: Meter, source: Path, name: str) -> None:
        place.local.mkdir(exist_ok=True)
        meter.run(["cp", "-a", str(source), str(place.local / name)])
        meter.run(["sync", "-f", str(place.local)])

    def fetch(self, place: Place, meter: Meter, name: str, target: Path) -> None:
        meter.run(["cp", "-a", str(place.local / name), str(target)])


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        *(S3backfs(), NullFs(), Restic(), ResticMount(), RcloneCrypt()),
        *(S3fs(), Borg(), AwsCli(), Boto3(), Copy()),
    )
}
