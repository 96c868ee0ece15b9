"""Finding paths in all backups: each distinct node is read once, however many backups share it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.format.refs import Top
from s3backfs.maintenance.paths import ContentId, Manifest, content_id, join_path
from s3backfs.maintenance.shelf import Shelved
from s3backfs.manifest.entry import Entry
from s3backfs.manifest.keys import is_link_key, key_components, path_key
from s3backfs.manifest.layouts import Child
from s3backfs.manifest.node import Node
from s3backfs.repository.repository import Repository

Report = Callable[[str], None]


@dataclass(slots=True)
class Version:
    """One distinct content of a path, and the backups that have it, the oldest first."""

    path: bytes
    entry: Entry
    backups: list[bytes] = field(default_factory=list)


class Versions:
    """Collects versions by path and content."""

    def __init__(self) -> None:
        self._found: dict[tuple[bytes, ContentId], Version] = {}

    def note(self, path: bytes, entry: Entry, backup: bytes) -> None:
        """Note what a path holds in a backup; call it for the oldest backups first."""
        key = path, content_id(entry)
        version = self._found.setdefault(key, Version(path, entry))
        version.entry = entry
        version.backups.append(backup)

    def all(self) -> list[Version]:
        """All versions, by path, those first that appeared first."""
        return sorted(self._found.values(), key=lambda version: version.path.split(b"/"))


async def find_versions(
    repository: Repository, backups: Sequence[Shelved], path: tuple[bytes, ...], report: Report
) -> list[Version]:
    """Every distinct version of one path; costs a walk down each backup's tree.

    Raises:
        IntegrityError: a node is damaged.
    """
    versions, key = Versions(), path_key(path)
    for number, backup in enumerate(backups):
        report(f"looking into backup {number + 1} of {len(backups)}")
        entry = await Manifest.of(repository, backup.root).find(key)
        if entry is not None:
            versions.note(join_path(path), entry, backup.name)
    return versions.all()


async def find_paths(
    repository: Repository,
    backups: Sequence[Shelved],
    is_wanted: Callable[[bytes], bool],
    newest_ns: int | None,
    report: Report,
) -> list[Version]:
    """Every distinct version of all paths that are wanted, changed at `newest_ns` or later.

    Raises:
        IntegrityError: a node is damaged.
    """
    versions = Versions()
    search = _Search(RepositoryNodes(repository), is_wanted)
    for number, backup in enumerate(backups):
        report(f"looking into backup {number + 1} of {len(backups)}")
        manifest = Manifest.of(repository, backup.root)
        for path, entry in await search.run(backup.root.top):
            whole = await manifest.resolved(entry)
            if whole is not None and (newest_ns is None or whole.mtime_ns >= newest_ns):
                versions.note(path, whole, backup.name)
    return versions.all()


@dataclass(frozen=True, slots=True)
class _Found:
    """What was found below a node; nodes that backups share are shared here too."""

    hits: tuple[tuple[bytes, Entry], ...] = ()
    below: tuple[_Found, ...] = ()

    def all(self) -> Iterator[tuple[bytes, Entry]]:
        yield from self.hits
        for found in self.below:
            yield from found.all()


_NOTHING = _Found()


class _Search:
    """Remembers by the logical ids of nodes what is below them."""

    def __init__(self, nodes: RepositoryNodes, is_wanted: Callable[[bytes], bool]) -> None:
        self._nodes = nodes
        self._is_wanted = is_wanted
        self._known: dict[bytes, _Found] = {}

    async def run(self, top: Top | None) -> Iterator[tuple[bytes, Entry]]:
        return iter(()) if top is None else (await self._below(top)).all()

    async def _below(self, top: Top) -> _Found:
        known = self._known.get(top.ref.id) if top.ref is not None else None
        if known is not None:
            return known
        node = await self._nodes.entries.load_top(top)
        found = await self._inner(node) if node.height else self._leaf(node)
        if top.ref is not None:
            self._known[top.ref.id] = found
        return found

    async def _inner(self, node: Node[Child]) -> _Found:
        children = node.values(0, len(node))
        unknown = [child.ref for child in children if child.ref.id not in self._known]
        self._nodes.expect_nodes(unknown)
        tops = [Top(node.height - 1, child.ref, None, child.entry_count) for child in children]
        below = [found for top in tops if (found := await self._below(top)) is not _NOTHING]
        return _Found(below=tuple(below)) if below else _NOTHING

    def _leaf(self, node: Node[Entry]) -> _Found:
        hits = []
        for number, key in enumerate(node.keys):
            if is_link_key(key):
                continue
            path = join_path(key_components(key))
            if self._is_wanted(path):
                hits.append((path, node.value(number)))
        return _Found(tuple(hits)) if hits else _NOTHING
