"""Checking all but contents: every root, each distinct node, packs by listing, small objects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

import msgspec

from s3backfs.backup.copies import list_beside
from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.backup.removals import REMOVED_PREFIX
from s3backfs.backup.roots import OPEN_PREFIX, SEALED_PREFIX, HeldRoot, load_copy, without_seen
from s3backfs.backup.tags import TAGS_PREFIX
from s3backfs.errors import (
    IntegrityError,
    ObjectMissingError,
    S3backfsError,
    StoreError,
    UnsupportedFormatError,
)
from s3backfs.format.lease import Moved, decode_condemned, decode_lease, decode_moved
from s3backfs.format.refs import Kind, Ref
from s3backfs.format.removal import decode_removal
from s3backfs.format.root import Root
from s3backfs.format.segment import decode_segment
from s3backfs.format.tag import decode_tag
from s3backfs.maintenance.findings import Damage, What, damage_remedy, newer_remedy, pack_remedy
from s3backfs.maintenance.references import References
from s3backfs.maintenance.shelf import no_backup
from s3backfs.maintenance.survey import (
    ROOTS_AT_ONCE,
    TRASH_PREFIX,
    PackListed,
    decode_trashed,
    list_ids,
    list_packs,
)
from s3backfs.maintenance.walking import Step, Walk
from s3backfs.manifest.entry import Entry, extra_of
from s3backfs.manifest.node import Node
from s3backfs.reporting import Report
from s3backfs.repository.condemned import CONDEMNED_PREFIX
from s3backfs.repository.index_sync import SEGMENT_PREFIX
from s3backfs.repository.leases import LEASES_PREFIX
from s3backfs.repository.moved import MAX_HOPS, MovedTables, plan_moved
from s3backfs.repository.packing import pack_key
from s3backfs.repository.repository import Repository
from s3backfs.store.together import open_together

ROOT_REMEDY = "bring an older version of the object back, or delete it"
INDEX_REMEDY = "s3backfs repair index URL"
DELETE_REMEDY = "delete the object: it is made anew"


class Structure:
    """Walks all that roots lead to, and collects what is wrong on the way."""

    def __init__(self, repository: Repository, references: References) -> None:
        self._repository = repository
        self._store = repository.store
        self._keyring = repository.keyring
        self.references = references
        self.roots: list[HeldRoot] = []
        self.packs: dict[bytes, PackListed] = {}
        self._met: set[bytes] = set()
        """Names of the backups that were met, whether they can be read or not."""
        self.newest: Root | None = None
        """The sealed root that stands in its place and was sealed last."""
        self.damages: list[Damage] = []
        self.indexed: set[bytes] | None = None
        """The packs that index segments name, if these were looked at."""
        self.lost: set[tuple[bytes, int]] = set()
        """Pack and offset of each frame that is known to be lost."""

    async def run(self, names: Collection[bytes], report: Report) -> None:
        """Look at everything, or only at what some backups need.

        Raises:
            ConfigurationError: there is no backup of one of the names.
            StoreError: the store would not list or give.
        """
        report("reading roots")
        await self._load_roots(names)
        nodes = RepositoryNodes(self._repository)
        walk = Walk(nodes, self.references, self._visit, self._on_node, report)
        tops = [held.root.top for held in self.roots if held.root.top is not None]
        self.references.mark((top.ref for top in tops if top.ref is not None), Kind.META)
        await walk.run(tops)
        # After the walk: what a root refers to was stored before it.
        report("listing packs")
        self.packs = await list_packs(self._store)
        await self._check_packs()
        report("reading segments, leases and tables")
        if not names:
            await self._check_small_objects()

    # -- roots -------------------------------------------------------------------------------

    async def _load_roots(self, names: Collection[bytes]) -> None:
        seen: set[tuple[str, str]] = set()
        # There and back: a root that is sealed or forgotten meanwhile is met where it went.
        for prefix in (OPEN_PREFIX, SEALED_PREFIX, TRASH_PREFIX, SEALED_PREFIX, OPEN_PREFIX):
            async for page in self._store.list(prefix):
                fresh = [listed for listed in page if (listed.key, listed.etag) not in seen]
                seen.update((listed.key, listed.etag) for listed in fresh)
                await self._load_page([listed.key for listed in fresh], names)
        # They came as they were answered.
        self.roots.sort(key=lambda held: held.key)
        self.damages.sort(key=lambda damage: damage.key)
        for copy in (await list_beside(self._store)).copies:
            await self._guarded(What.ROOT, copy.key, DELETE_REMEDY, self._load_copy(copy, names))
        for name in names:
            if name not in self._met:
                raise no_backup(name)

    async def _load_page(self, keys: Sequence[str], names: Collection[bytes]) -> None:
        """Read some roots, several at once."""
        waiting = iter(keys)

        async def load() -> None:
            for key in waiting:
                await self._load_root(key, names)

        async with open_together() as nursery:
            for _ in range(min(ROOTS_AT_ONCE, len(keys))):
                nursery.start_soon(load)

    async def _load_root(self, key: str, names: Collection[bytes]) -> None:
        async def load() -> None:
            fetched = await self._store.get(key)
            root = decode_trashed(self._keyring, key, fetched.data)
            self._take_root(HeldRoot(root, key, fetched.etag))

        name = self._name(key)
        if not names or name in names:
            # What is in the trash alone was forgotten: nobody should take it for a backup.
            if not key.startswith(TRASH_PREFIX):
                self._met.add(name)
            await self._guarded(What.ROOT, key, ROOT_REMEDY, load())

    def _take_root(self, held: HeldRoot) -> None:
        """Keep a root; only of the newest sealed one it matters what it has seen."""
        newest = self.newest
        if held.is_in_place and (newest is None or held.root.sealed_ns > newest.sealed_ns):
            self.newest = held.root
        self.roots.append(without_seen(held))

    async def _load_copy(self, copy: Any, names: Collection[bytes]) -> None:
        root = await load_copy(self._store, self._keyring, copy)
        if not names or root.name in names:
            self._met.add(root.name)
            self.roots.append(HeldRoot(root, copy.key, ""))

    def sealed_key(self, name: bytes) -> str:
        """The key of a sealed backup's root."""
        return SEALED_PREFIX + self._keyring.encode_name(name)

    def _name(self, key: str) -> bytes:
        try:
            return self._keyring.decode_name(key.rpartition("/")[2])
        except IntegrityError:
            return b""

    async def _guarded(self, what: What, key: str, remedy: str, work: Awaitable[None]) -> None:
        """Do something; if an object is damaged, note it. One that is gone went elsewhere."""
        try:
            await work
        except ObjectMissingError:
            return
        except IntegrityError as error:
            text = damage_remedy(error, remedy)
            self.damages.append(Damage(what, key, 0, error.message, text))
        except UnsupportedFormatError as error:
            text = newer_remedy(remedy)
            self.damages.append(Damage(what, key, 0, str(error), text, is_newer=True))

    # -- nodes -------------------------------------------------------------------------------

    def _visit(self, step: Step, node: Node[Any]) -> None:
        metas: set[tuple[bytes, int]] = set()
        if not node.height:
            for value in node.values(0, len(node)):
                tree = extra_of(value).extent_tree if isinstance(value, Entry) else None
                if tree is not None:
                    metas.add((tree.top.pack_id, tree.top.pack_offset))
        for ref in node.refs():
            is_meta = node.height or (ref.pack_id, ref.pack_offset) in metas
            self.references.mark([ref], Kind.META if is_meta else Kind.DATA)

    def _on_node(self, step: Step, error: S3backfsError) -> None:
        if isinstance(error, StoreError):
            raise error
        if step.ref is None:
            self.damages.append(Damage(What.NODE, "", 0, str(error), ROOT_REMEDY))
            return
        if not isinstance(error, IntegrityError):
            raise error
        # Of a patch it may be the base that is damaged, and of a moved node its new place.
        pack_id, offset = _place(error, step.ref)
        self.note_frame(What.NODE, error.key, pack_id, offset, error.message)

    def note_lost(self, kind: Kind, ref: Ref, message: str) -> None:
        """Note that a frame is lost that something refers to."""
        what = What.NODE if kind == Kind.META else What.FRAME
        self.note_frame(what, pack_key(kind, ref.pack_id), ref.pack_id, ref.pack_offset, message)

    def note_frame(self, what: What, key: str, pack_id: bytes, offset: int, message: str) -> None:
        """Note that a frame is lost, once."""
        if (pack_id, offset) not in self.lost:
            self.lost.add((pack_id, offset))
            self.damages.append(Damage(what, key, offset, message, pack_remedy(pack_id), pack_id))

    # -- packs -------------------------------------------------------------------------------

    async def _check_packs(self) -> None:
        """Hold what is referred to against the listing; tables lead on where packs are gone."""
        moved = MovedTables(self._store, self._keyring)
        done = set(self.packs)
        # Again and again: where contents went there may be patches of nodes somewhere else.
        while waiting := {
            each: kind for each, kind in self.references.packs().items() if each not in done
        }:
            for pack_id, kind in waiting.items():
                done.add(pack_id)
                await self._check_gone(pack_id, kind, moved)
        for pack_id in self.references.packs():
            if listed := self.packs.get(pack_id):
                self._check_end(listed)

    def _check_end(self, listed: PackListed) -> None:
        """Whether the object is as long as what is referred to."""
        if self.references.end_bytes(listed.pack_id) <= listed.length_bytes:
            return
        text = f"the object ends at byte {listed.length_bytes}, before what it must hold"
        for ref in self.references.refs(listed.pack_id):
            if ref.pack_offset + ref.frame_length > listed.length_bytes:
                self.note_lost(listed.kind, ref, text)

    async def _check_gone(self, pack_id: bytes, kind: Kind, moved: MovedTables) -> None:
        table = await self._load_table(pack_id, moved)
        for ref in list(self.references.refs(pack_id)):
            found = await self._follow(ref, table, moved, MAX_HOPS)
            if found is None:
                self.note_lost(kind, ref, "the pack is gone")
            else:
                self.references.mark(found, kind)

    async def _follow(
        self, ref: Ref, table: Moved | None, moved: MovedTables, hops_left: int
    ) -> list[Ref] | None:
        """Where a content is that was moved, perhaps several times; None if it is nowhere."""
        if table is None or not hops_left:
            return None
        plan = plan_moved(table.ranges, ref.pack_offset, ref.slice_offset, ref.slice_length)
        if plan is None:
            return None
        found: list[Ref] = []
        for part in plan:
            target: Ref = msgspec.structs.replace(
                part.target, slice_offset=part.offset, slice_length=part.length
            )
            if target.pack_id in self.packs:
                found.append(target)
                continue
            known = moved.known(target.pack_id) or await self._load_table(target.pack_id, moved)
            below = await self._follow(target, known, moved, hops_left - 1)
            if below is None:
                return None
            found += below
        return found

    async def _load_table(self, pack_id: bytes, moved: MovedTables) -> Moved | None:
        key, remedy = f"moved/{pack_id.hex()}", pack_remedy(pack_id)
        try:
            return await moved.load(pack_id)
        except IntegrityError as error:
            text = damage_remedy(error, remedy)
            damage = Damage(What.MOVED, key, 0, error.message, text, pack_id)
        except UnsupportedFormatError as error:
            text = newer_remedy(remedy)
            damage = Damage(What.MOVED, key, 0, str(error), text, pack_id, is_newer=True)
        if damage not in self.damages:
            self.damages.append(damage)
        return None

    # -- what is neither root, node nor pack ---------------------------------------------------

    async def _check_small_objects(self) -> None:
        lengths: dict[bytes, int] = {}

        def segment(key: str, data: bytes) -> None:
            lengths.update((p.pack_id, p.length) for p in decode_segment(self._keyring, key, data))

        await self._decode_all(SEGMENT_PREFIX, What.INDEX, INDEX_REMEDY, segment)
        self._check_lengths(lengths)
        self.indexed = set(lengths)
        keyring = self._keyring
        await self._decode_all(
            CONDEMNED_PREFIX, What.CONDEMNED, "delete the object: prune makes a new one",
            lambda key, data: decode_condemned(keyring, key, data),
        )  # fmt: skip
        await self._decode_all(
            LEASES_PREFIX, What.LEASE, DELETE_REMEDY,
            lambda key, data: decode_lease(keyring, key, data), suffix="/lease",
        )  # fmt: skip
        await self._decode_all(
            TAGS_PREFIX, What.TAG, "set the tag again: s3backfs tag",
            lambda key, data: decode_tag(keyring, key, data),
        )  # fmt: skip
        await self._decode_all(
            REMOVED_PREFIX, What.REMOVAL, DELETE_REMEDY.partition(":")[0],
            lambda key, data: decode_removal(keyring, key, data),
        )  # fmt: skip
        for pack_id in await list_ids(self._store, "moved/"):
            key = f"moved/{pack_id.hex()}"
            if not any(damage.key == key for damage in self.damages):
                await self._decode(
                    key, What.MOVED, pack_remedy(pack_id),
                    lambda key, data: decode_moved(keyring, key, data),
                )  # fmt: skip

    def _check_lengths(self, lengths: dict[bytes, int]) -> None:
        for pack_id, length in lengths.items():
            listed = self.packs.get(pack_id)
            if listed is not None and listed.length_bytes != length:
                text = f"the object has {listed.length_bytes} bytes, not {length}"
                remedy = pack_remedy(pack_id)
                self.damages.append(Damage(What.PACK, listed.key, 0, text, remedy, pack_id))

    async def _decode_all(
        self,
        prefix: str,
        what: What,
        remedy: str,
        decode: Callable[[str, bytes], object],
        suffix: str = "",
    ) -> None:
        async for page in self._store.list(prefix):
            for listed in page:
                if listed.key.endswith(suffix):
                    await self._decode(listed.key, what, remedy, decode)

    async def _decode(
        self, key: str, what: What, remedy: str, decode: Callable[[str, bytes], object]
    ) -> None:
        async def work() -> None:
            decode(key, (await self._store.get(key)).data)

        await self._guarded(what, key, remedy, work())


def _place(error: IntegrityError, ref: Ref) -> tuple[bytes, int]:
    """The pack and offset that an error names, else those of the ref that led to it."""
    prefix, _, text = error.key.partition("/")
    if prefix + "/" == pack_key(Kind.META, b""):
        return bytes.fromhex(text), error.offset
    return ref.pack_id, ref.pack_offset
