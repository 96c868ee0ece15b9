"""Whether an entry may be taken over into another backup: what it refers to must stay."""

from __future__ import annotations

from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.format.refs import Ref, Top
from s3backfs.manifest.entry import Entry, ExtentTree, extra_of
from s3backfs.manifest.layouts import Child
from s3backfs.repository.piece import Piece


async def may_refer(nodes: RepositoryNodes, entry: Entry) -> bool:
    """Whether no place that an entry refers to is condemned, or known to be lost.

    Raises:
        IntegrityError: a node of its extent tree is damaged.
    """
    condemned, losses = nodes.repository.condemned, nodes.repository.losses
    if not (condemned.packs or condemned.tables or losses.version):
        return True
    for ref in await _refs(nodes, entry):
        if not await condemned.allow(ref) or await losses.is_lost(ref):
            return False
    return True


async def _refs(nodes: RepositoryNodes, entry: Entry) -> list[Ref]:
    extra = extra_of(entry)
    contents = [*(extent.content for extent in entry.extents), extra.xattr_ref]
    # A piece without a place gets one that is not condemned.
    placed = [each.ref if isinstance(each, Piece) else each for each in contents]
    refs = [ref for ref in placed if ref is not None]
    if extra.extent_tree is not None:
        refs += await _tree_refs(nodes, extra.extent_tree)
    return refs


async def _tree_refs(nodes: RepositoryNodes, tree: ExtentTree) -> list[Ref]:
    found = [tree.top]
    tops = [Top(tree.height, tree.top, None, tree.count)]
    while tops:
        top = tops.pop()
        node = await nodes.extents.load_top(top)
        found += node.refs()
        if top.height:
            children: list[Child] = node.values(0, len(node))
            tops += [Top(top.height - 1, each.ref, None, each.entry_count) for each in children]
    return found
