"""Walking all that roots lead to: each distinct node once, however many backups share it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.errors import S3backfsError
from s3backfs.format.refs import Ref, Top
from s3backfs.manifest.entry import Entry, extra_of
from s3backfs.manifest.layouts import Child
from s3backfs.manifest.node import Node
from s3backfs.manifest.tree import Nodes
from s3backfs.reporting import Report, silent

WALKERS_COUNT = 8
"""So many nodes are read at once."""


@dataclass(frozen=True, slots=True)
class Step:
    """A node that is to be visited; `ref` is None for a top that lies in its root."""

    nodes: Nodes[Any]
    ref: Ref | None
    top: Top
    weight: float = 1.0
    """How much of a backup lies below it, as far as is known before it is read."""


class Seen(Protocol):
    """Remembers which nodes were visited."""

    def add(self, ref: Ref) -> bool:
        """Note a node; False where it was noted before."""
        ...


class Walk:
    """Visits nodes below the tops of manifests, and of the extent trees in them.

    `visit` gets each distinct node that was read, once; `on_damage` each that could not be, and the
    walk goes on around it. Without `on_damage` the error ends the walk.
    """

    def __init__(
        self,
        nodes: RepositoryNodes,
        seen: Seen,
        visit: Callable[[Step, Node[Any]], None],
        on_damage: Callable[[Step, S3backfsError], None] | None = None,
        report: Report = silent,
    ) -> None:
        self._nodes = nodes
        self._seen = seen
        self._visit = visit
        self._on_damage = on_damage
        self._report = report
        self._done = 0.0
        self._total = 0
        self._stack: list[Step] = []
        self._busy_count = 0
        self._failure: S3backfsError | None = None
        self._changed = trio.Event()

    async def run(self, tops: Iterable[Top | None]) -> None:
        """Visit all that lies below some tops and was not visited before.

        Raises:
            S3backfsError: a node could not be read, and nobody wanted to hear of that.
        """
        for top in tops:
            if top is not None:
                self._total += 1
                self._push(Step(self._nodes.entries, top.ref, top))
        async with trio.open_nursery() as nursery:
            for _ in range(WALKERS_COUNT):
                nursery.start_soon(self._work, nursery.cancel_scope)
        if self._failure is not None:
            raise self._failure

    def _push(self, step: Step) -> bool:
        is_new = step.ref is None or self._seen.add(step.ref)
        if is_new:
            self._stack.append(step)
        else:
            self._done += step.weight
        return is_new

    async def _work(self, scope: trio.CancelScope) -> None:
        while True:
            if self._failure is not None:
                scope.cancel()
                return
            if self._stack:
                await self._take(self._stack.pop())
            elif self._busy_count:
                await self._changed.wait()
            else:
                return

    async def _take(self, step: Step) -> None:
        self._busy_count += 1
        try:
            node = await step.nodes.load_top(step.top)
            self._visit(step, node)
            self._push_below(step, node)
            self._report(f"walking {self._total} backups", self._done, self._total)
        except S3backfsError as error:
            self._done += step.weight
            if self._on_damage is None:
                self._failure = error
            else:
                self._on_damage(step, error)
        finally:
            self._busy_count -= 1
            self._changed.set()
            self._changed = trio.Event()

    def _push_below(self, step: Step, node: Node[Any]) -> None:
        values = node.values(0, len(node))
        if node.height:
            tops = [_top(child.ref, node.height - 1, child) for child in values]
            steps = [Step(step.nodes, top.ref, top, step.weight / len(tops)) for top in tops]
        else:
            # Extent trees come on top of the leaf, which is done.
            steps = list(self._extent_trees(values))
            self._done += step.weight
        # Reversed: the stack gives them in order then.
        fresh = [each.ref for each in reversed(steps) if self._push(each)]
        self._nodes.expect_nodes([ref for ref in fresh if ref is not None])

    def _extent_trees(self, values: Iterable[Any]) -> Iterable[Step]:
        for value in values:
            tree = extra_of(value).extent_tree if isinstance(value, Entry) else None
            if tree is not None:
                top = Top(tree.height, tree.top, None, tree.count)
                yield Step(self._nodes.extents, tree.top, top, 0.0)


def _top(ref: Ref, height: int, child: Child) -> Top:
    return Top(height, ref, None, child.entry_count)
