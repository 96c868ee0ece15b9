"""Check: is everything there that backups need, and is it what was written?

    roots -> nodes -> packs by listing -> small objects -> contents -> who is hit

Source: docs/design.md, "Check and repair".
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

from s3backfs.backup.backup import printable
from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.errors import IntegrityError, ObjectMissingError, UnsupportedFormatError
from s3backfs.format.refs import Kind
from s3backfs.format.root import BackupState
from s3backfs.maintenance.affected import AffectedWalk
from s3backfs.maintenance.content import PackReader, rows_of_refs
from s3backfs.maintenance.findings import CheckResult, Damage, What, newer_remedy, pack_remedy
from s3backfs.maintenance.missing import find_missing
from s3backfs.maintenance.references import References
from s3backfs.maintenance.stored_again import note_stored_again
from s3backfs.maintenance.structure import Structure
from s3backfs.maintenance.survey import PackListed
from s3backfs.maintenance.verified import VerifiedState
from s3backfs.reporting import Report
from s3backfs.repository.repository import Repository
from s3backfs.repository.tables import load_pack_table
from s3backfs.repository.writer import PACKS_PER_SEGMENT

log = logging.getLogger(__name__)

READERS_COUNT = 4
REMEMBER_EVERY_BYTES = 4 * 1024 * 1024 * 1024
REMEMBER_EVERY_S = 60.0
MUCH_UNINDEXED = 0.1
"""A smaller share of the packs that the index does not know is not worth a word."""
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What to look at; of contents nothing, a share, or so many bytes."""

    names: tuple[bytes, ...] = ()
    read_share: float = 0.0
    read_max_bytes: int | None = None
    since_s: float = 0.0
    """What was read within this time is not read again."""


class Check:
    """One run."""

    def __init__(self, repository: Repository, options: CheckOptions, report: Report) -> None:
        self._repository = repository
        self._options = options
        self._report = report
        self._result = CheckResult()
        self._verified = VerifiedState(repository.store, repository.keyring)
        self._reader = PackReader(repository)
        self._now_s = 0
        self._began_s = trio.current_time()
        self._unremembered_bytes, self._remembered_s = 0, self._began_s
        self._wanted_bytes = 0

    async def run(self) -> CheckResult:
        """Look at everything that was asked for.

        Raises:
            StoreError: the store would not list or give, so that nothing can be said.
        """
        with (
            tempfile.TemporaryDirectory(prefix="s3backfs-check-") as scratch,
            References(Path(scratch) / "references.sqlite") as references,
        ):
            structure = Structure(self._repository, references)
            await structure.run(self._options.names, self._report)
            await self._read_contents(structure)
            if structure.lost:
                await self._find_affected(structure, Path(scratch))
            await self._finish(structure)
        return self._result

    async def _finish(self, structure: Structure) -> None:
        result = self._result
        result.roots, result.nodes = len(structure.roots), structure.references.nodes_count
        result.packs = len(structure.packs)
        result.packs_bytes = sum(pack.length_bytes for pack in structure.packs.values())
        result.damages = structure.damages
        result.notes += incomplete_backups(structure)
        result.notes += unindexed_packs(structure)
        result.notes += await note_stored_again(self._repository, structure)
        if not self._options.names:
            result.damages += await find_missing(self._repository, structure)
        packs = structure.packs.values()
        result.oldest_unproven_s = self._verified.oldest_unproven_s(packs, self._now_s)

    # -- contents ----------------------------------------------------------------------------

    async def _read_contents(self, structure: Structure) -> None:
        await self._verified.load()
        self._now_s = await self._server_time_s()
        chosen = self._choose(structure)
        self._wanted_bytes = sum(pack.length_bytes for pack in chosen)
        waiting = iter(chosen)
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(min(READERS_COUNT, len(chosen))):
                    nursery.start_soon(self._read_packs, waiting, structure)
        finally:
            if chosen:
                with trio.move_on_after(10, shield=True):
                    await self._remember(structure)

    def _choose(self, structure: Structure) -> list[PackListed]:
        """The packs to read: those first whose last proof is oldest."""
        options = self._options
        packs = list(structure.packs.values())
        if options.names:
            needed = structure.references.packs()
            packs = [pack for pack in packs if pack.pack_id in needed]
        limit = int(sum(pack.length_bytes for pack in packs) * options.read_share)
        if options.read_max_bytes is not None:
            limit = options.read_max_bytes
        fresh_s = self._now_s - options.since_s
        stale = [pack for pack in packs if not options.since_s or self._proven_s(pack) < fresh_s]
        chosen: list[PackListed] = []
        # New packs wait for their turn: else those of each night would push the old ones out.
        for pack in sorted(stale, key=lambda pack: (self._verified.sound_s(pack), pack.pack_id)):
            if limit <= 0:
                break
            chosen.append(pack)
            limit -= pack.length_bytes
        return chosen

    def _proven_s(self, pack: PackListed) -> int:
        return self._verified.proven_s.get(pack.pack_id, 0)

    async def _server_time_s(self) -> int:
        fetched = await self._repository.store.get("repository.json")
        return fetched.server_time_ns // _NS

    async def _read_packs(self, waiting: Iterator[PackListed], structure: Structure) -> None:
        for pack in waiting:
            try:
                is_sound = await self._read_pack(pack, structure)
            except ObjectMissingError:
                # Prune has removed it meanwhile; the listing before said that it was there.
                continue
            result = self._result
            result.read_packs += 1
            result.read_bytes += pack.length_bytes
            if is_sound:
                self._verified.note(pack.pack_id, self._now_s)
            else:
                self._verified.disprove(pack.pack_id)
            self._unremembered_bytes += pack.length_bytes
            if self._must_remember():
                self._unremembered_bytes, self._remembered_s = 0, trio.current_time()
                await self._remember(structure)
            self._report("reading packs", result.read_bytes, self._wanted_bytes)

    def _must_remember(self) -> bool:
        """Whether enough was read that a kill should not make it be read again."""
        late = trio.current_time() - self._remembered_s >= REMEMBER_EVERY_S
        return late or self._unremembered_bytes >= REMEMBER_EVERY_BYTES

    async def _remember(self, structure: Structure) -> None:
        if not await self._verified.store(structure.packs):
            text = "what was read could not be noted in the repository: it is read again next time"
            if text not in self._result.notes:
                self._result.notes.append(text)

    async def _read_pack(self, pack: PackListed, structure: Structure) -> bool:
        store, keyring = self._repository.store, self._repository.keyring
        is_sound = True
        try:
            contents = await load_pack_table(
                store, keyring, pack.kind, pack.pack_id, pack.length_bytes
            )
            tables = [(contents.epoch, contents.rows)]
        except (IntegrityError, UnsupportedFormatError) as error:
            structure.damages.append(_table_damage(pack, error))
            refs = structure.references.refs(pack.pack_id)
            tables = [(epoch, (row,)) for epoch, row in rows_of_refs(list(refs))]
            is_sound = False
        for epoch, rows in tables:
            async for row, plain in self._reader.rows(pack, epoch, rows):
                if isinstance(plain, IntegrityError):
                    is_sound = False
                    self._note_frame(structure, pack, row.offset, plain.message)
        return is_sound

    def _note_frame(
        self, structure: Structure, pack: PackListed, offset: int, message: str
    ) -> None:
        what = What.NODE if pack.kind == Kind.META else What.FRAME
        structure.note_frame(what, pack.key, pack.pack_id, offset, message)

    # -- who is hit --------------------------------------------------------------------------

    async def _find_affected(self, structure: Structure, scratch: Path) -> None:
        self._report("looking which backups are affected")
        nodes = RepositoryNodes(self._repository)
        with References(scratch / "sound.sqlite") as sound:
            walk = AffectedWalk(nodes, structure.lost, sound)
            for held in structure.roots:
                affected = await walk.run(held)
                if affected.paths_count:
                    self._result.affected.append(affected)


def _table_damage(pack: PackListed, error: IntegrityError | UnsupportedFormatError) -> Damage:
    text = f"its table cannot be read: {getattr(error, 'message', error)}"
    remedy, is_newer = pack_remedy(pack.pack_id), isinstance(error, UnsupportedFormatError)
    if is_newer:
        remedy = newer_remedy(remedy)
    return Damage(What.PACK, pack.key, 0, text, remedy, pack.pack_id, is_newer)


def incomplete_backups(structure: Structure) -> list[str]:
    """Name the backups that say themselves that something of them was lost."""
    names = {held.root.name for held in structure.roots if held.root.incomplete}
    return [f"backup {printable(name)} is incomplete" for name in sorted(names)]


def unindexed_packs(structure: Structure) -> list[str]:
    """Say that later backups would store much again, if the index does not know what there is.

    Writers name their packs some at a time, and the last ones when they seal.
    """
    if structure.indexed is None:
        return []
    needed = set(structure.references.packs()) & set(structure.packs)
    unknown_count = len(needed - structure.indexed)
    open_count = sum(held.root.state == BackupState.OPEN for held in structure.roots)
    waiting_count = PACKS_PER_SEGMENT * open_count
    if unknown_count <= waiting_count or unknown_count < len(needed) * MUCH_UNINDEXED:
        return []
    return [
        f"{unknown_count} of {len(needed)} packs are not in the index, so that what they hold is "
        "stored again by the next backup: s3backfs repair index URL"
    ]
