"""Repair of packs: what can be read goes to new packs, then the damaged ones go.

    copy what can be read, and what is elsewhere -> tables stored -> packs condemned
      -> all writers agree -> a second look -> packs deleted

The damaged packs go as prune's do, so that no writer refers to them meanwhile. A run may end, or
be killed, anywhere; the next one goes on.
Source: docs/design.md, "Check and repair", "Writers and prune".
"""

from __future__ import annotations

import logging
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from s3backfs.errors import ConfigurationError, IntegrityError, OwnershipLostError
from s3backfs.format.lease import Condemned, encode_condemned
from s3backfs.format.refs import ID_BYTES, Kind
from s3backfs.maintenance.agreement import Agreement
from s3backfs.maintenance.compaction import store_table
from s3backfs.maintenance.elsewhere import Elsewhere, OtherPacks
from s3backfs.maintenance.marking import Marking
from s3backfs.maintenance.marks import Marks
from s3backfs.maintenance.pack_rows import PackRows
from s3backfs.maintenance.salvage import Salvage, Salvaged
from s3backfs.maintenance.segments import tidy_segments
from s3backfs.maintenance.survey import PackListed, check_exceptions, list_packs, load_every_root
from s3backfs.reporting import Report
from s3backfs.repository.condemned import condemned_key
from s3backfs.repository.moved import MovedTables, plan_moved
from s3backfs.repository.packing import pack_id_of
from s3backfs.repository.repository import Repository

log = logging.getLogger(__name__)

ASK_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class MendOptions:
    """How long to wait for writers, and whether damaged packs may go."""

    wait_s: float = 300.0
    no_delete: bool = False
    exceptions: tuple[bytes, ...] = ()
    """Names of backups that need not be readable."""


@dataclass(slots=True)
class MendResult:
    """What was done; counts are of contents (nodes, chunks, slices of bundles)."""

    salvaged: int = 0
    recreated: int = 0
    lost: int = 0
    sound_packs: list[str] = field(default_factory=list)
    deleted_packs: list[str] = field(default_factory=list)
    gone_packs: list[str] = field(default_factory=list)
    """Those that were not there any more."""
    kept_packs: list[str] = field(default_factory=list)
    waiting_for: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class PackRepair:
    """One run."""

    def __init__(
        self,
        repository: Repository,
        options: MendOptions,
        elsewhere: Sequence[Elsewhere],
        report: Report,
    ) -> None:
        if repository.lease is None:
            raise ConfigurationError("a repair needs a repository that is open for writing")
        self._repository = repository
        self._lease = repository.lease
        self._options = options
        self._report = report
        self._agreement = Agreement(repository, options.exceptions)
        places = [OtherPacks(repository), *elsewhere]
        self._salvage = Salvage(repository, PackRows(repository, options.exceptions), places)
        self._result = MendResult()

    async def run(self, keys: Sequence[str]) -> MendResult:
        """Repair the packs under some keys.

        Raises:
            ConfigurationError: a key is not a pack's, or nothing knows of the pack.
            S3backfsError: the store did not give or take something; nothing was deleted since.
        """
        await self._lease.renew()
        repository = self._repository
        await check_exceptions(repository.store, repository.keyring, self._options.exceptions)
        packs = await self._find(keys)
        await self._agreement.begin()
        try:
            await self._run(packs)
        finally:
            await self._agreement.end()
        return self._result

    async def _find(self, keys: Sequence[str]) -> list[PackListed]:
        listed = await list_packs(self._repository.store)
        found = []
        for key in dict.fromkeys(keys):
            pack_id = pack_id_of(key)
            if pack_id is None:
                raise ConfigurationError(f"{key!r} is no key of a pack, like data/<id>")
            kind = Kind.META if key.startswith("meta/") else Kind.DATA
            found.append(listed.get(pack_id) or PackListed(pack_id, kind, 0, 0))
        return found

    async def _run(self, packs: Sequence[PackListed]) -> None:
        # Nothing that is copied may be found again in what is damaged.
        self._repository.writer.shun([pack.pack_id for pack in packs])
        damaged = await self._read(packs)
        if not damaged:
            return
        self._report("looking elsewhere for what is lost")
        self._result.recreated = await self._salvage.recreate(damaged)
        self._result.lost = sum(len(each.lost) for each in damaged)
        await self._repository.writer.barrier()
        for each in damaged:
            await store_table(self._repository, each.table(self._repository.keyring.repository_id))
        await self._make_sure()
        set_id = await self._condemn(damaged)
        await self._carry_out(set_id, damaged)
        await self._repository.writer.store_segment()

    async def _read(self, packs: Sequence[PackListed]) -> list[Salvaged]:
        damaged = []
        for number, pack in enumerate(packs):
            self._report(f"reading damaged packs: {number} of {len(packs)}", number, len(packs))
            salvaged = await self._salvage.read(pack)
            if not (pack.length_bytes or salvaged.lost or salvaged.known):
                raise ConfigurationError(f"{pack.key}: there is no such pack, and nothing needs it")
            if salvaged.lost or not salvaged.is_table_readable:
                damaged.append(salvaged)
                self._result.salvaged += len(salvaged.copies)
            else:
                self._result.sound_packs.append(pack.key)
        return damaged

    async def _make_sure(self) -> None:
        """Make sure that nobody took the copies for garbage before the tables were there."""
        if not self._lease.is_sure:
            await self._lease.renew()
        self._lease.check()

    async def _condemn(self, damaged: Sequence[Salvaged]) -> bytes:
        """Let every writer shun the damaged packs."""
        keyring = self._repository.keyring
        condemned = Condemned(
            repository_id=keyring.repository_id,
            set_id=secrets.token_bytes(ID_BYTES),
            created_ns=self._lease.renewed_ns,
            grace_ms=0,
            packs=tuple(sorted(each.pack.pack_id for each in damaged)),
            tables=(),
        )
        key = condemned_key(condemned.set_id)
        await self._repository.store.put(key, encode_condemned(keyring, key, condemned))
        return condemned.set_id

    # -- the end of the damaged packs ---------------------------------------------------------

    async def _carry_out(self, set_id: bytes, damaged: Sequence[Salvaged]) -> None:
        """Delete the damaged packs when everybody has agreed; else the set stays in force."""
        self._result.kept_packs = [each.pack.key for each in damaged]
        if self._options.no_delete or not await self._is_agreed(set_id):
            return
        try:
            free = await self._second_look(damaged)
        except IntegrityError as error:
            self._result.notes.append(f"no pack was deleted, since not all can be read: {error}")
            return
        await self._delete(free)
        # While anything refers to what is lost, the set keeps links from doing so anew.
        if not (self._result.kept_packs or self._result.lost):
            self._lease.check()
            await self._repository.store.delete([condemned_key(set_id)])

    async def _is_agreed(self, set_id: bytes) -> bool:
        self._report("waiting for writers that are at work")
        try:
            waiting = await self._agreement.waits_for(set_id)
            with trio.move_on_after(self._options.wait_s):
                while waiting:
                    await trio.sleep(ASK_EVERY_S)
                    waiting = await self._agreement.waits_for(set_id)
        except OwnershipLostError as error:
            self._result.notes.append(f"the damaged packs stay for now: {error}")
            return False
        self._result.waiting_for = sorted({lease.host for lease in waiting})
        return not waiting

    async def _second_look(self, damaged: Sequence[Salvaged]) -> list[Salvaged]:
        """Say which packs hold nothing more that is needed and can be read."""
        self._report("looking at all backups")
        repository, exceptions = self._repository, self._options.exceptions
        with (
            tempfile.TemporaryDirectory(prefix="s3backfs-repair-") as scratch,
            Marks(Path(scratch) / "marks.sqlite") as marks,
        ):
            roots = await load_every_root(repository.store, repository.keyring, exceptions)
            await Marking(repository, marks, self._report).take(roots)
            return [each for each in damaged if await self._is_spent(each, marks)]

    async def _is_spent(self, salvaged: Salvaged, marks: Marks) -> bool:
        """Whether each range that is needed stands in the stored table, or was read in vain."""
        repository = self._repository
        pack_id = salvaged.pack.pack_id
        moved = await MovedTables(repository.store, repository.keyring).load(pack_id)
        lost = {part.row.offset for part in salvaged.lost}
        return moved is not None and all(
            found.pack_offset in lost
            or plan_moved(moved.ranges, found.pack_offset, found.slice_offset, found.slice_length)
            is not None
            for found in marks.ranges(pack_id)
        )

    async def _delete(self, spent: Sequence[Salvaged]) -> None:
        keys = [each.pack.key for each in spent]
        self._lease.check()
        await self._repository.store.delete(keys)
        self._repository.forget_packs([each.pack.pack_id for each in spent])
        self._result.deleted_packs = [each.pack.key for each in spent if each.pack.length_bytes]
        self._result.gone_packs = [each.pack.key for each in spent if not each.pack.length_bytes]
        self._result.kept_packs = [key for key in self._result.kept_packs if key not in keys]
        await tidy_segments(self._repository)
