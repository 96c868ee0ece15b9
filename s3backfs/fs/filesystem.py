"""The parts of a mounted file system, put together."""

from __future__ import annotations

from dataclasses import dataclass

from s3backfs.backup.catalogue import Catalogue
from s3backfs.backup.live import LiveNodes
from s3backfs.fs.control_files import ControlFiles
from s3backfs.fs.files import Files
from s3backfs.fs.root import RootDirectory
from s3backfs.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class FileSystem:
    """What the door calls into."""

    repository: Repository
    live: LiveNodes
    catalogue: Catalogue
    files: Files
    root: RootDirectory
    control: ControlFiles
    is_read_only: bool
