"""Finding paths in all backups: each distinct node is read once, however many backups share it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.backup.paths import Manifest, join_path
from s3backfs.backup.versions import FINDS_AT_ONCE, Version, Versions, find_in_all
from s3backfs.errors import S3backfsError
from s3backfs.format.refs import Top
from s3backfs.maintenance.shelf import Shelved
from s3backfs.manifest.entry import Entry
from s3backfs.manifest.keys import is_link_key, key_components, path_key
from s3backfs.manifest.layouts import Child
from s3backfs.manifest.node import Node
from s3backfs.reporting import Report
from s3backfs.repository.repository import Repository


async def find_versions(
    repository: Repository, backups: Sequence[Shelved], path: tuple[bytes, ...], report: Report
) -> list[Version]:
    """Every distinct version of one path; costs a walk down each backup's tree.

    Raises:
        IntegrityError: a node is damaged.
    """
    versions, key = Versions(), path_key(path)
    for done in range(0, len(backups), FINDS_AT_ONCE):
        report(f"looking into backup {done + 1} of {len(backups)}", done, len(backups))
        some = backups[done : done + FINDS_AT_ONCE]
        manifests = [Manifest.of(repository, each.root) for each in some]
        for backup, entry in zip(some, await find_in_all(manifests, key), strict=True):
            if isinstance(entry, S3backfsError):
                raise entry
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
        report(f"looking into backup {number + 1} of {len(backups)}", number, len(backups))
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
