"""What a backup should hold, and what of it a crash may leave."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from blake3 import blake3

from tests.crash.machine import Picture, Seen

Path = tuple[bytes, ...]


@dataclass(eq=False)
class Inode:
    """A file, symbolic link or directory of the model."""

    mode: int
    content: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    children: dict[bytes, Inode] = field(default_factory=dict)
    links: int = 1

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)


class Tree:
    """One backup's names, changed as the file system would change them."""

    def __init__(self) -> None:
        self.top = Inode(0o40755)

    def walk(self) -> Iterator[tuple[Path, Inode]]:
        """Every name below the top, sorted, a directory before what is in it."""
        waiting: list[tuple[Path, Inode]] = [((), self.top)]
        while waiting:
            path, inode = waiting.pop()
            if path:
                yield path, inode
            waiting += [
                ((*path, name), inode.children[name]) for name in sorted(inode.children)[::-1]
            ]

    def find(self, path: Path) -> Inode:
        inode = self.top
        for name in path:
            inode = inode.children[name]
        return inode

    def put(self, path: Path, inode: Inode) -> None:
        self.find(path[:-1]).children[path[-1]] = inode

    def drop(self, path: Path) -> None:
        self.find(path[:-1]).children.pop(path[-1]).links -= 1

    def rename(self, path: Path, new_path: Path) -> None:
        inode = self.find(path)
        old = self.find(new_path[:-1]).children.get(new_path[-1])
        if old is inode:
            return
        if old is not None:
            old.links -= 1
        del self.find(path[:-1]).children[path[-1]]
        self.put(new_path, inode)

    def link(self, path: Path, new_path: Path) -> None:
        inode = self.find(path)
        inode.links += 1
        self.put(new_path, inode)

    def picture(self) -> Picture:
        """What a walk should see."""
        found: Picture = {}
        numbers: dict[int, int] = {}
        for path, inode in self.walk():
            links = 1 if inode.is_directory else inode.links
            group = numbers.setdefault(id(inode), len(numbers)) if links > 1 else -1
            xattrs = tuple(sorted(inode.xattrs.items()))
            found[path] = Seen(inode.mode, inode.content, xattrs, group, links)
        return found

    @classmethod
    def of(cls, picture: Picture) -> Tree:
        """Make the model of what was seen."""
        tree = cls()
        groups: dict[int, Inode] = {}
        for path, seen in sorted(picture.items()):
            inode = groups.get(seen.group) if seen.group >= 0 else None
            if inode is None:
                inode = Inode(seen.mode, seen.content, dict(seen.xattrs), links=seen.links)
            if seen.group >= 0:
                groups[seen.group] = inode
            tree.put(path, inode)
        return tree


def digest(picture: Picture) -> str:
    """One word for a whole picture."""
    hasher = blake3()
    for path, seen in sorted(picture.items()):
        content = blake3(seen.content).digest()
        row = (path, seen.mode, len(seen.content), content, seen.xattrs, seen.group, seen.links)
        hasher.update(repr(row).encode())
    return hasher.hexdigest(length=8)


def difference(found: Picture, wanted: Picture) -> list[str]:
    """Say what is not alike, for a person."""
    texts = []
    for path in sorted({*found, *wanted}):
        left, right = found.get(path), wanted.get(path)
        if left != right:
            text = f"{path}: found {_shown(left)}, wanted {_shown(right)}"
            if left is not None and right is not None:
                text += f" differ at {_ranges(left.content, right.content)}"
            texts.append(text)
    return texts


def distance(found: Picture, wanted: Picture) -> int:
    """How unlike two pictures are."""
    total = 0
    for path in {*found, *wanted}:
        left, right = found.get(path), wanted.get(path)
        if left is None or right is None:
            total += 1_000_000
        elif left != right:
            ranges = _ranges(left.content, right.content)
            total += 1 + sum(end - start for start, end in ranges)
    return total


def _ranges(left: bytes, right: bytes) -> list[tuple[int, int]]:
    """Where two contents differ, at a coarse view."""
    found: list[tuple[int, int]] = []
    for start in range(0, max(len(left), len(right)), 512):
        if left[start : start + 512] != right[start : start + 512]:
            if found and found[-1][1] == start:
                found[-1] = (found[-1][0], start + 512)
            else:
                found.append((start, start + 512))
    return found


def _shown(seen: Seen | None) -> str:
    if seen is None:
        return "nothing"
    content = f"{len(seen.content)}:{blake3(seen.content).hexdigest(length=4)}"
    return f"{seen.mode:o} {content} group {seen.group} links {seen.links} {len(seen.xattrs)}"


@dataclass(frozen=True, slots=True)
class State:
    """One state that a backup may be found in from the moment `begun` on; no name: not there."""

    begun: int
    name: bytes | None = None
    is_sealed: bool = False
    digest: str = ""
    picture: Picture = field(default_factory=dict, repr=False, compare=False)

    def says(self) -> tuple[bytes | None, bool, str]:
        return self.name, self.is_sealed, self.digest


@dataclass(eq=False)
class Track:
    """One backup's life: its states in order, and which of them were acknowledged when."""

    backup_id: bytes
    tree: Tree
    states: list[State] = field(default_factory=list)
    acknowledged: list[tuple[int, int]] = field(default_factory=list)
    done: int = 0
    """The newest state whose step has returned: what is asked to be durable from now on."""

    @property
    def last(self) -> State:
        return self.states[-1]

    @property
    def number(self) -> int:
        """The number of the newest state."""
        return len(self.states) - 1

    def become(self, moment: int, **changes: object) -> None:
        """Note a state that may be found from now on."""
        self.states.append(replace(self.last, begun=moment, **changes))  # type: ignore[arg-type]

    def changed(self, moment: int) -> None:
        """Note that the tree is about to be as the model is now."""
        picture = self.tree.picture()
        self.become(moment, digest=digest(picture), picture=picture)

    def acknowledge(self, moment: int, number: int) -> None:
        """Note that no older state than `number` may be found from now on."""
        self.acknowledged.append((moment, number))

    def allowed(self, moment: int) -> list[State]:
        """The states that a crash at a moment may leave."""
        floor = max((number for at, number in self.acknowledged if at <= moment), default=0)
        return [state for state in self.states[floor:] if state.begun <= moment]
