"""Prune: reclaim the packs that nothing refers to any more, while others write and read.

    carry out older sets (all agree, grace is over, a second look)
      -> look -> copy what is alive in poor packs -> condemn those and the dead -> carry out

With `rewrap` packs under the keys of older epochs are copied like poor ones, into packs under the
newest. A run may end, or be killed, anywhere; the next one goes on. Nothing is deleted while
anything that may refer to it cannot be read.
Source: docs/design.md, "Writers and prune", "Compaction".
"""

from __future__ import annotations

import logging
import secrets
import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

from s3backfs.errors import (
    ConfigurationError,
    ObjectMissingError,
    OwnershipLostError,
    S3backfsError,
    StoreError,
)
from s3backfs.format.lease import Condemned, encode_condemned
from s3backfs.format.refs import ID_BYTES
from s3backfs.maintenance.agreement import Agreement
from s3backfs.maintenance.choosing import Limits, choose_packs, measure_live, older_packs
from s3backfs.maintenance.collapsing import collapse_tables
from s3backfs.maintenance.compaction import Compaction, moved_key
from s3backfs.maintenance.covering import Covering
from s3backfs.maintenance.left_behind import tidy_leases
from s3backfs.maintenance.leftover_removals import tidy_removals
from s3backfs.maintenance.leftover_tags import tidy_tags
from s3backfs.maintenance.marking import Marking
from s3backfs.maintenance.marks import Marks
from s3backfs.maintenance.segments import tidy_segments
from s3backfs.maintenance.survey import (
    TRASH_PREFIX,
    PackListed,
    check_exceptions,
    list_packs,
    load_every_root,
)
from s3backfs.reporting import Report
from s3backfs.repository.condemned import condemned_key, list_condemned, load_condemned
from s3backfs.repository.repository import Repository

log = logging.getLogger(__name__)

PACKS_AT_ONCE = 8
"""So many packs are copied before their tables are stored."""

KEYS_AT_ONCE = 1000
ASK_EVERY_S = 5.0
UPLOAD_AGE_S = 24 * 3600.0
"""An upload that is older was left by a writer that is gone, or will be sent again."""
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """What may go, how much may be copied, and how long to wait for others."""

    grace_s: float = 24 * 3600.0
    wait_s: float = 0.0
    max_unused: float = 0.05
    max_repack_bytes: int | None = None
    rewrap: bool = False
    """Whether to copy all that is under the keys of older epochs."""
    is_dry_run: bool = False
    no_delete: bool = False
    exceptions: tuple[bytes, ...] = ()
    """Names of backups that need not be readable; what only they need is lost."""


@dataclass(slots=True)
class PruneResult:
    """What a run did, or with a dry run would do; bytes are those of whole packs."""

    roots: int = 0
    packs: int = 0
    packs_bytes: int = 0
    unused_bytes: int = 0
    condemned_packs: int = 0
    condemned_bytes: int = 0
    deleted_packs: int = 0
    deleted_bytes: int = 0
    copied_packs: int = 0
    older_packs: int = 0
    """Packs under keys of older epochs that are needed and were not condemned before this run."""
    older_bytes: int = 0
    rewrapped_packs: int = 0
    """Those of them that this run has condemned, since they are copied."""
    young_older_packs: int = 0
    """Those of them that were asked for and are younger than the grace."""
    trashed_roots: int = 0
    aborted_uploads: int = 0
    removed_segments: int = 0
    waiting_for: list[str] = field(default_factory=list)
    pending_sets: int = 0


class Prune:
    """One run."""

    def __init__(
        self, repository: Repository, options: PruneOptions, pack_bytes: int, report: Report
    ) -> None:
        if repository.lease is None:
            raise ConfigurationError("prune needs a repository that is open for writing")
        self._repository = repository
        self._store = repository.store
        self._lease = repository.lease
        self._options = options
        self._pack_bytes = pack_bytes
        self._report = report
        self._agreement = Agreement(repository, options.exceptions)
        self._result = PruneResult()
        self._given_up: set[str] = set()

    async def run(self) -> PruneResult:
        """Do all that can be done now.

        Raises:
            ConfigurationError: there is no backup of a name that was excepted.
            S3backfsError: something that may be needed cannot be read; nothing was deleted since.
        """
        with (
            tempfile.TemporaryDirectory(prefix="s3backfs-prune-") as scratch,
            Marks(Path(scratch) / "marks.sqlite") as marks,
        ):
            await self._lease.renew()
            keyring, exceptions = self._repository.keyring, self._options.exceptions
            await check_exceptions(self._store, keyring, exceptions)
            if self._options.is_dry_run:
                await self._run(marks, Marking(self._repository, marks, self._report))
                return self._result
            await self._agreement.begin()
            try:
                await self._run(marks, Marking(self._repository, marks, self._report))
            finally:
                await self._agreement.end()
        return self._result

    async def _run(self, marks: Marks, marking: Marking) -> None:
        await self._empty_trash()
        await self._carry_out(await self._ripe_sets(), marks, marking)
        packs = await self._look(marks, marking)
        fresh = await self._condemn(packs, marks, marking)
        if fresh is not None and not self._options.grace_s:
            await self._wait_for(fresh.set_id)
            await self._carry_out([fresh], marks, marking)
        if not self._options.is_dry_run:
            await self._tidy()
            self._result.pending_sets = len(await list_condemned(self._store))

    # -- looking -----------------------------------------------------------------------------

    async def _look(self, marks: Marks, marking: Marking) -> dict[bytes, PackListed]:
        """List the packs, then mark all that is referred to."""
        self._report("listing packs")
        packs = await list_packs(self._store)
        self._report("reading roots")
        keyring = self._repository.keyring
        roots = await load_every_root(self._store, keyring, self._options.exceptions)
        roots = [held for held in roots if held.key not in self._given_up]
        await marking.take(roots)
        self._result.roots = len(roots)
        return packs

    # -- condemning --------------------------------------------------------------------------

    async def _condemn(
        self, packs: dict[bytes, PackListed], marks: Marks, marking: Marking
    ) -> Condemned | None:
        """Copy what is alive in poor packs, and store a set of those and of what nothing needs."""
        known = {each for condemned in await self._sets() for each in condemned.packs}
        needed = marks.packs()
        dead = self._aged(packs, set(packs) - needed - known)
        epoch = self._repository.keyring.epoch
        there = needed.intersection(packs)
        live = await measure_live(
            self._repository, marks, there, marking.moved_packs, set(packs) - known
        )
        candidates = {each: packs[each] for each in self._aged(packs, there - known)}
        choice = choose_packs(marks, candidates, live, epoch, self._limits())
        poor = choice.packs
        older = older_packs(marks, epoch)
        gone = marking.moved_packs - set(packs) - needed
        self._note(packs, dead, poor, live)
        self._note_older(packs, (older & needed & set(packs)) - known, poor)
        if self._options.is_dry_run:
            return None
        # Nothing is copied into packs that are to go, or that the next run copies again.
        shunned = dead.union(pack.pack_id for pack in poor)
        self._repository.writer.shun(shunned | older if self._options.rewrap else shunned)
        await self._copy(choice.to_copy, marks)
        await collapse_tables(self._repository, needed, marking.moved_packs, set(packs))
        if not (dead or poor or gone):
            return None
        keyring = self._repository.keyring
        condemned = Condemned(
            repository_id=keyring.repository_id,
            set_id=secrets.token_bytes(ID_BYTES),
            created_ns=self._lease.renewed_ns,
            grace_ms=int(self._options.grace_s * 1000),
            packs=tuple(sorted({*dead, *(pack.pack_id for pack in poor)})),
            tables=tuple(sorted(gone)),
        )
        key = condemned_key(condemned.set_id)
        self._report(f"condemning {len(condemned.packs)} packs")
        await self._store.put(key, encode_condemned(keyring, key, condemned))
        return condemned

    def _limits(self) -> Limits:
        options = self._options
        return Limits(
            options.max_unused, options.max_repack_bytes, self._pack_bytes, options.rewrap
        )

    def _aged(self, packs: dict[bytes, PackListed], chosen: Collection[bytes]) -> set[bytes]:
        """Those that are older than the grace: the newest belong to writers that are at work."""
        if not self._options.grace_s:
            return set(chosen)
        newest_ns = self._lease.renewed_ns - int(self._options.grace_s * _NS)
        return {each for each in chosen if packs[each].modified_ns <= newest_ns}

    def _note(
        self,
        packs: dict[bytes, PackListed],
        dead: set[bytes],
        poor: Sequence[PackListed],
        live: Mapping[bytes, int],
    ) -> None:
        result = self._result
        result.packs = len(packs)
        result.packs_bytes = sum(pack.length_bytes for pack in packs.values())
        # What was cut holds less than is needed of it.
        result.unused_bytes = sum(
            max(0, pack.length_bytes - live.get(pack_id, 0)) for pack_id, pack in packs.items()
        )
        result.condemned_packs = len(dead) + len(poor)
        result.condemned_bytes = sum(packs[each].length_bytes for each in dead)
        result.condemned_bytes += sum(pack.length_bytes for pack in poor)

    def _note_older(
        self, packs: dict[bytes, PackListed], older: set[bytes], chosen: Sequence[PackListed]
    ) -> None:
        self._result.older_packs = len(older)
        self._result.older_bytes = sum(packs[each].length_bytes for each in older)
        self._result.rewrapped_packs = sum(pack.pack_id in older for pack in chosen)
        if self._options.rewrap:
            self._result.young_older_packs = len(older - self._aged(packs, older))

    async def _copy(self, poor: Sequence[PackListed], marks: Marks) -> None:
        """Copy what is alive, and store where it went."""
        compaction = Compaction(self._repository, marks)
        for start in range(0, len(poor), PACKS_AT_ONCE):
            self._report(f"copying what is alive in {len(poor)} packs", start, len(poor))
            batch = poor[start : start + PACKS_AT_ONCE]
            await compaction.run(batch)
            self._result.copied_packs += len(batch)
        await self._repository.writer.store_segment()

    async def _ripe_sets(self) -> list[Condemned]:
        """The sets whose grace is over."""
        if self._options.is_dry_run:
            return []
        return [
            condemned
            for condemned in await self._sets()
            if condemned.created_ns + self._grace_ns(condemned) <= self._lease.renewed_ns
        ]

    def _grace_ns(self, condemned: Condemned) -> int:
        return min(condemned.grace_ms * 1_000_000, int(self._options.grace_s * _NS))

    async def _sets(self) -> list[Condemned]:
        """The sets in force."""
        found = []
        for set_id in await list_condemned(self._store):
            # Another prune may be done with it just now.
            with suppress(ObjectMissingError):
                found.append(await load_condemned(self._store, self._repository.keyring, set_id))
        return found

    async def _wait_for(self, set_id: bytes) -> None:
        """Give live writers time to agree."""
        with trio.move_on_after(self._options.wait_s):
            while await self._agreement.waits_for(set_id):
                self._report("waiting for writers that are at work")
                await trio.sleep(ASK_EVERY_S)

    # -- carrying out ------------------------------------------------------------------------

    async def _carry_out(self, sets: Sequence[Condemned], marks: Marks, marking: Marking) -> None:
        """Delete what sets name and nothing needs, where everybody has agreed to the set."""
        agreed = [condemned for condemned in sets if await self._is_agreed(condemned)]
        if not agreed:
            return
        packs = await self._look(marks, marking)
        if self._options.no_delete:
            return
        guarded: set[bytes] = set()
        for condemned in agreed:
            guarded |= await self._carry_out_one(condemned, packs, marks, guarded)

    async def _is_agreed(self, condemned: Condemned) -> bool:
        try:
            waiting = await self._agreement.waits_for(condemned.set_id)
        except OwnershipLostError as error:
            log.info("a condemned set is left for the next run: %s", error)
            return False
        if waiting:
            self._result.waiting_for = sorted({lease.host for lease in waiting})
        return not waiting

    async def _carry_out_one(
        self,
        condemned: Condemned,
        packs: dict[bytes, PackListed],
        marks: Marks,
        guarded: Collection[bytes],
    ) -> set[bytes]:
        """Return the packs for whose losses the set stays; others stay for those `guarded`."""
        needed = marks.packs()
        covering, stay, lost = Covering(self._repository, marks), set[bytes](), set[bytes]()
        for pack_id in needed.intersection(condemned.packs):
            if ranges := await covering.uncovered(pack_id):
                stay.add(pack_id)
                if await covering.is_lost(packs.get(pack_id), ranges):
                    lost.add(pack_id)
        await self._delete(set(condemned.packs) - stay, packs)
        # Where the packs of this very set went may be needed still: a later set names their tables.
        tables = set(condemned.tables) - needed - set(packs)
        await self._delete_keys([moved_key(each) for each in sorted(tables)])
        if lost.issubset(guarded):
            await self._delete_keys([condemned_key(condemned.set_id)])
            return set()
        return lost

    async def _delete(self, pack_ids: Collection[bytes], packs: dict[bytes, PackListed]) -> None:
        present = [packs.pop(each) for each in sorted(pack_ids) if each in packs]
        await self._delete_keys([pack.key for pack in present])
        self._repository.forget_packs(pack_ids)
        self._result.deleted_packs += len(present)
        self._result.deleted_bytes += sum(pack.length_bytes for pack in present)

    async def _delete_keys(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), KEYS_AT_ONCE):
            self._lease.check()
            await self._store.delete(keys[start : start + KEYS_AT_ONCE])

    # -- what else is left over --------------------------------------------------------------

    async def _empty_trash(self) -> None:
        """Remove forgotten roots that nobody has brought back in time."""
        oldest_ns = self._lease.renewed_ns - int(self._options.grace_s * _NS)
        self._given_up = {
            listed.key
            async for page in self._store.list(TRASH_PREFIX)
            for listed in page
            if 0 < listed.modified_ns <= oldest_ns
        }
        self._result.trashed_roots = len(self._given_up)
        if not (self._options.is_dry_run or self._options.no_delete):
            await self._store.delete(sorted(self._given_up))
            self._given_up = set()

    async def _tidy_leases(self) -> None:
        keyring, now_ns = self._repository.keyring, self._lease.renewed_ns
        try:
            count = await tidy_leases(self._store, keyring, now_ns)
        except S3backfsError as error:
            # They do no harm, and packs may be reclaimed all the same.
            log.warning("leases of writers that are long gone stay: %s", error)
        else:
            log.info("removed %d objects that writers have left that are long gone", count)

    async def _tidy_tags(self) -> None:
        # Of a backup that need not be readable nobody knows the id.
        if not self._options.exceptions:
            now_ns = self._lease.renewed_ns
            await tidy_tags(self._store, self._repository.keyring, now_ns)
            await tidy_removals(self._store, self._repository.keyring, now_ns)

    async def _tidy(self) -> None:
        if self._options.is_dry_run or self._options.no_delete:
            return
        self._result.removed_segments = await tidy_segments(self._repository)
        await self._tidy_leases()
        await self._tidy_tags()
        try:
            await self._abort_uploads()
        except StoreError as error:
            # Several stores cannot list uploads.
            log.info("abandoned uploads could not be aborted: %s", error)

    async def _abort_uploads(self) -> None:
        oldest_ns = self._lease.renewed_ns - int(UPLOAD_AGE_S * _NS)
        async for page in self._store.list_uploads(""):
            for upload in page:
                if 0 < upload.started_ns <= oldest_ns:
                    await self._store.abort_upload(upload)
                    self._result.aborted_uploads += 1
