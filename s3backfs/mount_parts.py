"""What a mount puts around its store, and how it opens the repository, by its configuration."""

from __future__ import annotations

from s3backfs.config import MountConfig, make_private_dir
from s3backfs.format.parameters import Parameters
from s3backfs.repository.repository import RepositoryOptions
from s3backfs.store.around import Policy
from s3backfs.store.unlisted import Unlisted


def reading_policies(config: MountConfig) -> list[Policy]:
    """What is put around the store of a mount that only reads."""
    # Who restores one backup may have credentials that list nothing.
    is_one_read = config.is_read_only and config.backup is not None
    return [Unlisted("data/", "meta/", "moved/")] if is_one_read else []


def repository_options(config: MountConfig, parameters: Parameters) -> RepositoryOptions:
    """How the repository is opened; its private directories are made."""
    chosen = config.compression
    return RepositoryOptions(
        state_dir=make_private_dir(config.state_dir),
        cache_dir=make_private_dir(config.cache_dir),
        cache_bytes=config.cache_bytes,
        memory_bytes=config.memory_bytes,
        is_read_only=config.is_read_only,
        lease_s=config.lease_s,
        level=chosen.level if chosen else parameters.compression_level,
    )
