"""What has changed in an open backup at one instant, and the edits that bring it into the tree.

`capture` runs while the backup is frozen and only copies references: entries are values. The
edits are made from the captured values afterwards, while the backup changes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from s3backfs.backup.live import INO_MASK
from s3backfs.backup.names import NameTree, link_pointer
from s3backfs.backup.node import Directory, Node
from s3backfs.backup.statistics import Tally
from s3backfs.backup.wandering import Wandering
from s3backfs.manifest.entry import Entry

LINK_MARK = b"\0"
"""Link records stand among the top directory's names, with a NUL before the id."""


@dataclass(slots=True)
class CapturedNode:
    """One inode as it was: its entry, its 48 bits of number, and what it was cloned from."""

    node: Node
    entry: Entry
    ino: int
    clone_of: Entry | None


@dataclass(slots=True)
class CapturedDirectory:
    """The changes in one directory and below it.

    `base` is the prefix in the old tree that unchanged names come from (None: there are none),
    `prefix` the one in the new tree. `puts` hold None for a name that is gone.
    """

    node: Node
    prefix: bytes
    base: bytes | None
    puts: dict[bytes, CapturedNode | Entry | None] = field(default_factory=dict)
    below: dict[bytes, CapturedDirectory] = field(default_factory=dict)
    gone: set[bytes] = field(default_factory=set)

    @property
    def is_grafted(self) -> bool:
        """Whether unchanged names come from another place of the old tree."""
        return self.base is not None and self.base != self.prefix


@dataclass(slots=True)
class Capture:
    """All changes of a backup at one instant.

    `rebased` are the directories whose prefix in the new tree differs from their base in the old.
    """

    top: CapturedDirectory
    tally: Tally
    wandering: bytes | None
    nodes: list[CapturedNode] = field(default_factory=list)
    links: set[bytes] = field(default_factory=set)
    is_top_changed: bool = False
    rebased: list[tuple[Node, bytes]] = field(default_factory=list)

    def directories(self) -> Iterator[CapturedDirectory]:
        """Every captured directory, the top first."""
        waiting = [self.top]
        while waiting:
            directory = waiting.pop()
            yield directory
            waiting.extend(directory.below.values())


def capture(names: NameTree, tally: Tally, wandering: Wandering) -> Capture:
    """Take all changes over: from now on they are `flying`, and new ones are collected anew.

    The backup must be frozen and its open files settled.
    """
    top = CapturedDirectory(names.top, b"", b"")
    taken = Capture(top, replace(tally), wandering.stored())
    _capture_directory(taken, taken.top)
    _capture_links(taken, names)
    if names.is_top_changed:
        taken.is_top_changed, names.is_top_changed = True, False
        taken.top.puts[b""] = _capture_node(taken, names.top)
    names.changed_count = 0
    return taken


def _capture_directory(taken: Capture, captured: CapturedDirectory) -> None:
    """Walk the changed directories without recursion: paths may be deep."""
    waiting = [captured]
    while waiting:
        current = waiting.pop()
        names = current.node.directory
        assert names is not None
        if current.base != current.prefix:
            taken.rebased.append((current.node, current.prefix))
        for name in names.changed:
            current.puts[name] = _capture_name(taken, names.children.get(name))
        for name, child in _directories_to_visit(current):
            assert child.directory is not None
            below = CapturedDirectory(child, current.prefix + name + b"\0", child.directory.base)
            current.below[name] = below
            waiting.append(below)
        current.gone = names.gone
        names.flying, names.changed = names.changed, set()
        names.below, names.gone = set(), set()


def _directories_to_visit(current: CapturedDirectory) -> list[tuple[bytes, Node]]:
    names = current.node.directory
    assert names is not None
    # Below a graft every directory in memory gets a new base, changed or not.
    chosen = names.children if current.is_grafted else names.below | names.changed
    found = []
    for name in chosen:
        child = names.children.get(name)
        if child is not None and child.directory is not None:
            found.append((name, child))
    return found


def _capture_name(taken: Capture, node: Node | None) -> CapturedNode | Entry | None:
    if node is None:
        return None
    if node.link_id is not None:
        assert node.entry is not None
        return link_pointer(node.entry, node.link_id)
    return _capture_node(taken, node)


def _capture_node(taken: Capture, node: Node) -> CapturedNode:
    assert node.entry is not None
    node.pins += 1
    captured = CapturedNode(node, node.entry, node.number & INO_MASK, node.clone_of)
    taken.nodes.append(captured)
    return captured


def _capture_links(taken: Capture, names: NameTree) -> None:
    for link_id in names.changed_links:
        node = names.links.get(link_id)
        taken.top.puts[LINK_MARK + link_id] = None if node is None else _capture_node(taken, node)
    taken.links = names.changed_links
    names.flying_links, names.changed_links = names.changed_links, set()


def give_back(taken: Capture, names: NameTree) -> None:
    """Undo a capture whose checkpoint failed: its changes are changes again."""
    for directory in taken.directories():
        live = directory.node.directory
        assert live is not None
        if directory.node.parent is None and directory.node is not names.top:
            # It was removed meanwhile, and so was everything in it.
            continue
        live.changed |= live.flying
        live.gone |= directory.gone
        live.flying = set()
        names.mark_below(directory.node)
    names.changed_links |= taken.links
    names.flying_links = set()
    names.is_top_changed = names.is_top_changed or taken.is_top_changed
    names.changed_count += len(taken.nodes)
    for captured in taken.nodes:
        captured.node.pins -= 1
    for captured in taken.nodes:
        # Some were removed meanwhile, and forgotten.
        names.release(captured.node)


def land(taken: Capture, names: NameTree) -> None:
    """Make the new tree the base of what is in memory; call it when the tree has been swapped.

    No await may stand between the swap and the end of this function.
    """
    _rebase(taken, names)
    names.flying_links = set()
    idle: list[Node] = []
    for directory in taken.directories():
        idle.extend(_land_directory(directory))
    for captured in taken.nodes:
        captured.node.pins -= 1
        _forget_entry(captured, names)
        idle.append(captured.node)
    for node in idle:
        names.release(node)


def _rebase(taken: Capture, names: NameTree) -> None:
    """Point every directory in memory to its prefix in the new tree.

    One that was loaded from the old tree since the capture, and perhaps moved away, went where the
    nearest captured directory above its old place went.
    """
    moved = {captured.base: captured.prefix for captured in taken.directories()}
    made = [(node, prefix) for node, prefix in taken.rebased if _base(node) is None]
    if len(made) < len(taken.rebased):
        for directory in _directories(names.top):
            if directory.base is not None:
                directory.base = _moved_prefix(moved, directory.base)
    for node, prefix in made:
        # A directory that was removed meanwhile stays without names.
        if node.directory is not None and node.parent is not None:
            node.directory.base = prefix


def _base(node: Node) -> bytes | None:
    return node.directory.base if node.directory is not None else None


def _directories(top: Node) -> Iterator[Directory]:
    """Every directory in memory, from the top down."""
    waiting = [top]
    while waiting:
        directory = waiting.pop().directory
        if directory is not None:
            yield directory
            waiting.extend(child for child in directory.children.values() if child is not None)


def _moved_prefix(moved: dict[bytes | None, bytes], base: bytes) -> bytes:
    """Where the new tree has what the old one had at `base`; the top is always in `moved`."""
    end = len(base)
    while (prefix := moved.get(base[:end])) is None:
        end = base.rfind(b"\0", 0, end - 1) + 1
    return prefix + base[end:]


def _land_directory(directory: CapturedDirectory) -> list[Node]:
    live = directory.node.directory
    assert live is not None
    live.flying = set()
    idle = [directory.node]
    for name in directory.puts:
        if name in live.changed:
            continue
        child = live.children.get(name)
        if child is not None:
            idle.append(child)
        elif name in live.children:
            del live.children[name]
    return idle


def _forget_entry(captured: CapturedNode, names: NameTree) -> None:
    """Let go of attributes that the manifest holds now, unless they changed since."""
    node = captured.node
    node.clone_of = None
    is_stored = node.entry is captured.entry and not names.is_changed(node)
    if is_stored and node.content is None and node is not names.top and any(node.places()):
        node.entry = None
