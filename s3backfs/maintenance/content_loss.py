"""Whether the contents of an entry are still there, by listings and tables alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.errors import IntegrityError
from s3backfs.format.refs import Ref, Top
from s3backfs.maintenance.survey import list_packs
from s3backfs.manifest.entry import Entry, extra_of
from s3backfs.manifest.tree import Tree
from s3backfs.repository.moved import MovedTables, plan_moved
from s3backfs.repository.packing import pack_id_of
from s3backfs.repository.repository import Repository


@dataclass(slots=True)
class Lost:
    """What an entry misses: packs, and perhaps the tree that says where its content is."""

    packs: set[bytes] = field(default_factory=set)
    is_tree: bool = False


class ContentLoss:
    """Knows the packs that are there."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._nodes = RepositoryNodes(repository)
        self._tables = MovedTables(repository.store, repository.keyring)
        self._untabled: set[bytes] = set()
        self._present: set[bytes] = set()

    async def begin(self) -> None:
        """List the packs.

        Raises:
            StoreError: the store would not list.
        """
        self._present = set(await list_packs(self._repository.store))

    async def of(self, entry: Entry) -> Lost:
        """Say what of an entry is gone.

        Raises:
            StoreError: the store would not give something.
        """
        lost, extra = Lost(), extra_of(entry)
        contents: list[object] = [extent.content for extent in entry.extents]
        await self._note(lost, [*contents, extra.xattr_ref])
        tree = extra.extent_tree
        if tree is None:
            return lost
        top = Top(tree.height, tree.top, None, tree.count)
        extents: Tree[Any] = Tree(top, self._nodes.extents)
        try:
            async for page in extents.pages():
                await self._note(lost, [extent.content for _, extent in page])
        except IntegrityError as error:
            lost.is_tree = True
            lost.packs.add(pack_id_of(error.key) or tree.top.pack_id)
        return lost

    async def _note(self, lost: Lost, contents: Iterable[object]) -> None:
        for content in contents:
            if isinstance(content, Ref) and not await self._is_there(content):
                lost.packs.add(content.pack_id)

    async def _is_there(self, ref: Ref) -> bool:
        if ref.pack_id in self._present:
            return True
        if ref.pack_id in self._untabled:
            return False
        moved = self._tables.known(ref.pack_id)
        if moved is None:
            try:
                moved = await self._tables.load(ref.pack_id)
            except IntegrityError:
                moved = None
        if moved is None:
            self._untabled.add(ref.pack_id)
            return False
        parts = plan_moved(moved.ranges, ref.pack_offset, ref.slice_offset, ref.slice_length)
        return parts is not None
