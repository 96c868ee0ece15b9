"""What a damaged pack held: by its own table, by the index, or by what refers to it."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from itertools import groupby
from pathlib import Path
from typing import Any

from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.errors import IntegrityError, ObjectMissingError, UnsupportedFormatError
from s3backfs.format.pack import PackRow
from s3backfs.format.refs import Kind
from s3backfs.format.segment import SegmentPack, decode_segment
from s3backfs.maintenance.content import rows_of_refs
from s3backfs.maintenance.references import References
from s3backfs.maintenance.survey import PackListed, load_every_root
from s3backfs.maintenance.walking import Step, Walk
from s3backfs.manifest.node import Node
from s3backfs.repository.index_sync import SEGMENT_PREFIX
from s3backfs.repository.repository import Repository
from s3backfs.repository.tables import load_pack_table

Rows = list[tuple[int, tuple[PackRow, ...]]]
"""Epochs, and the rows that were written under each, in order."""


class PackRows:
    """Finds rows of packs; what is expensive is done only where it must be."""

    def __init__(self, repository: Repository, exceptions: Collection[bytes]) -> None:
        self._repository = repository
        self._exceptions = exceptions
        self._segments: dict[bytes, SegmentPack] | None = None

    async def own_table(self, pack: PackListed) -> Rows | None:
        """Read a pack's own table; None where it cannot be read.

        Raises:
            StoreError: the store did not give it.
        """
        if not pack.length_bytes:
            return None
        repository = self._repository
        try:
            contents = await load_pack_table(
                repository.store, repository.keyring, pack.kind, pack.pack_id, pack.length_bytes
            )
        except (IntegrityError, UnsupportedFormatError, ObjectMissingError):
            return None
        return [(contents.epoch, contents.rows)]

    async def from_elsewhere(self, pack: PackListed) -> Rows:
        """Say what a pack without a table held; empty where nothing is known of it.

        Raises:
            S3backfsError: roots or segments could not be read.
        """
        if self._segments is None:
            self._segments = await self._load_segments()
        found = self._segments.get(pack.pack_id)
        if found is not None:
            return [(found.epoch, found.rows)]
        return await self._referred(pack)

    async def _load_segments(self) -> dict[bytes, SegmentPack]:
        store, keyring = self._repository.store, self._repository.keyring
        found: dict[bytes, SegmentPack] = {}
        async for page in store.list(SEGMENT_PREFIX):
            for listed in page:
                try:
                    data = (await store.get(listed.key)).data
                    packs = decode_segment(keyring, listed.key, data)
                except (IntegrityError, UnsupportedFormatError, ObjectMissingError):
                    continue
                found.update((pack.pack_id, pack) for pack in packs)
        return found

    async def _referred(self, pack: PackListed) -> Rows:
        repository = self._repository
        roots = await load_every_root(repository.store, repository.keyring, self._exceptions)
        with (
            tempfile.TemporaryDirectory(prefix="s3backfs-repair-") as scratch,
            References(Path(scratch) / "references.sqlite") as references,
        ):

            def visit(step: Step, node: Node[Any]) -> None:
                references.mark(node.refs(), Kind.META if node.height else Kind.DATA)
                if step.ref is not None:
                    references.mark([step.ref], Kind.META)

            nodes = RepositoryNodes(repository)
            # Nodes that cannot be read refer to something all the same: that stays lost.
            walk = Walk(nodes, references, visit, lambda step, error: None)
            await walk.run([held.root.top for held in roots])
            refs = list(references.refs(pack.pack_id))
        grouped = groupby(rows_of_refs(refs), key=lambda found: found[0])
        return [(epoch, tuple(row for _, row in found)) for epoch, found in grouped]
