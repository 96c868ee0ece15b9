"""Marking all that roots refer to, through nodes and through tables of moved packs."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.backup.roots import HeldRoot
from s3backfs.format.lease import Moved, MovedRange
from s3backfs.maintenance.marks import Marks, Range
from s3backfs.maintenance.survey import list_ids
from s3backfs.maintenance.walking import Step, Walk
from s3backfs.manifest.node import Node
from s3backfs.reporting import Report, silent
from s3backfs.repository.moved import MovedTables
from s3backfs.repository.repository import Repository

MOVED_PREFIX = "moved/"


class Marking:
    """Fills marks. Called again after a while it reads only what is new since."""

    def __init__(self, repository: Repository, marks: Marks, report: Report = silent) -> None:
        self._repository = repository
        self._marks = marks
        self._report = report
        self.moved_packs: set[bytes] = set()
        """The packs that have a table of where their contents went."""

    async def take(self, roots: Iterable[HeldRoot]) -> None:
        """Mark all that some roots refer to.

        Raises:
            S3backfsError: something cannot be read, so that it is not known what is needed.
        """
        tops = [held.root.top for held in roots if held.root.top is not None]
        self._marks.mark(top.ref for top in tops if top.ref is not None)
        nodes = RepositoryNodes(self._repository)
        await Walk(nodes, self._marks, self._visit, report=self._report).run(tops)
        await self._follow_moved()

    def _visit(self, step: Step, node: Node[Any]) -> None:
        self._marks.mark(node.refs())

    async def _follow_moved(self) -> None:
        """What was moved keeps the place alive where it is now."""
        repository = self._repository
        tables = MovedTables(repository.store, repository.keyring)
        self.moved_packs = set(await list_ids(repository.store, MOVED_PREFIX))
        # Until nothing is added: a pack that contents went to may have been moved itself.
        count = -1
        while count != self._marks.count:
            count = self._marks.count
            for pack_id in sorted(self.moved_packs & self._marks.packs()):
                moved = await tables.load(pack_id)
                if moved is not None:
                    self._mark_targets(moved)

    def _mark_targets(self, moved: Moved) -> None:
        ranges = list(self._marks.ranges(moved.pack_id))
        for offset, parts in groupby(moved.ranges, key=lambda part: part.pack_offset):
            wanted = [found for found in ranges if found.pack_offset == offset]
            self._marks.mark(
                part.target for part in parts if any(overlaps(part, found) for found in wanted)
            )


def overlaps(part: MovedRange, found: Range) -> bool:
    """Whether a moved range has bytes of a range that is referred to."""
    return (
        part.offset < found.slice_offset + found.slice_length
        and found.slice_offset < part.offset + part.length
    )
