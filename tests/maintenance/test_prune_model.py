"""Writers, forgets, prunes and readers at once: nothing that is needed is ever deleted.

PRUNE_RUNS=300 makes that many runs, PRUNE_SEED=17 does that one alone; a failure names its seed.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from s3backfs.backup.backup import Backup
from s3backfs.errors import (
    FileSystemError,
    LeaseLapsedError,
    OwnershipLostError,
    RepositoryBusyError,
)
from s3backfs.maintenance.prune import Prune, PruneOptions
from tests.crash.machine import Machine
from tests.crash.test_crash import make_repeatable, new_repository
from tests.maintenance.world import LEASE_S, Participant, World

RUNS = int(os.environ.get("PRUNE_RUNS", "12"))
ONLY = os.environ.get("PRUNE_SEED")
SEEDS = [int(ONLY)] if ONLY else list(range(RUNS))
STEPS = 240
CHECK_EVERY = 24
PACK_BYTES = 512 << 10
MIB = 1 << 20

Content = dict[bytes, bytes]


@dataclass(slots=True)
class Known:
    """What a backup must hold."""

    name: bytes
    owner: Participant | None
    now: Content = field(default_factory=dict)
    acknowledged: Content = field(default_factory=dict)
    unlinked: set[bytes] = field(default_factory=set)
    is_sealed: bool = False
    is_going: bool = False
    is_gone: bool = False
    is_settling: bool = False


class Play:
    """One run."""

    def __init__(self, world: World, nursery: trio.Nursery) -> None:
        self.world = world
        self.random = world.random
        self.nursery = nursery
        self.writers = [world.participant(f"w{number}") for number in range(3)]
        self.backups: dict[bytes, Known] = {}
        self.contents = [
            self.random.randbytes(size) for size in [3000] * 8 + [150 << 10, 300 << 10, 70 << 10]
        ]
        self.names_count = 0
        self.prunes_count = 0
        self.counts: dict[str, int] = {}
        self._scopes: dict[str, trio.CancelScope] = {}

    # -- steps -------------------------------------------------------------------------------

    async def run(self) -> None:
        for writer in self.writers:
            await self.nursery.start(writer.live)
        for step in range(STEPS):
            await self._step()
            for _ in range(self.random.randrange(30)):
                await trio.lowlevel.checkpoint()
            if step % CHECK_EVERY == CHECK_EVERY - 1:
                await self._rest()
                await self._check(f"step {step}")
        await self._rest()
        await self._end()

    async def _step(self) -> None:
        action = self.random.choices(
            ["write", "prune", "doze", "crash", "two prunes", "pass"], [180, 12, 4, 3, 3, 6]
        )[0]
        if action == "write":
            writer = self.random.choice(self.writers)
            if writer.is_free:
                self._start(writer, self._write)
        elif action == "prune":
            self._start_prune()
        elif action == "two prunes":
            self._start_prune()
            self._start_prune()
        elif action == "doze":
            await self._doze(self.random.choice(self.writers))
        elif action == "pass":
            await self._pass(LEASE_S / 4)
        elif action == "crash":
            await self._crash(self.random.choice(self.writers))

    def _start(
        self, writer: Participant, work: Callable[[Participant, Machine], Awaitable[None]]
    ) -> None:
        writer.is_busy = True

        async def run() -> None:
            machine = writer.machine
            with trio.CancelScope() as scope:
                self._scopes[writer.name] = scope
                try:
                    if machine is not None:
                        await work(writer, machine)
                except Exception:
                    # What a crash interrupts may end in any way.
                    if not scope.cancel_called:
                        raise
                finally:
                    writer.is_busy = False

        self.nursery.start_soon(run)

    async def _rest(self) -> None:
        """Wait until nobody who is awake has anything under way."""
        while self.prunes_count or any(
            not (writer.is_free or writer.store.is_asleep) for writer in self.writers
        ):
            await trio.lowlevel.checkpoint()

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    # -- what a writer does ------------------------------------------------------------------

    async def _write(self, writer: Participant, machine: Machine) -> None:
        own = [
            known
            for known in self.backups.values()
            if known.owner is writer and not known.is_sealed and not known.is_settling
        ]
        acts: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (2 if len(own) < 2 else 0, lambda: self._make(writer, machine)),
            (5, lambda: self._hear(machine)),
            (3, lambda: self._forget(machine)),
        ]
        if own:
            known = self.random.choice(own)
            acts += [
                (6, lambda: self._add(machine, known)),
                (4, lambda: self._link(machine, known)),
                (2, lambda: self._unlink(machine, known)),
                (4, lambda: self._checkpoint(machine, known)),
                (2, lambda: self._seal(machine, known)),
            ]
        act = self.random.choices([act for _, act in acts], [weight for weight, _ in acts])[0]
        try:
            await act()
        except OwnershipLostError:
            pass
        except FileSystemError as error:
            if error.errno_code not in (errno.ESTALE, errno.ENOENT, errno.EXDEV):
                raise
            self._count(errno.errorcode[error.errno_code])
        lost = {backup.id for backup in machine.catalogue.lost()}
        if lost:
            # What it had not stored is gone: as a user would, mount again.
            self._count("lost")
            self.nursery.start_soon(self._crash, writer)

    def _backup(self, machine: Machine, known: Known) -> Backup:
        backup = machine.catalogue.backups.get(known.name)
        if backup is None or not backup.is_own_open:
            raise FileSystemError(errno.ESTALE)
        return backup

    def _new_name(self) -> bytes:
        self.names_count += 1
        return b"%d" % self.names_count

    async def _make(self, writer: Participant, machine: Machine) -> None:
        name = self._new_name()
        known = Known(name, writer, is_settling=True)
        self.backups[name] = known
        await machine.make_backup(name)
        known.is_settling = False

    async def _add(self, machine: Machine, known: Known) -> None:
        self._backup(machine, known)
        name, content = self._new_name(), self.random.choice(self.contents)
        known.now[name] = content
        await machine.write_file(known.name, name, data=content)

    async def _link(self, machine: Machine, known: Known) -> None:
        sources = [each for each in self.backups.values() if each.acknowledged and not each.is_gone]
        if not sources:
            return
        source = self.random.choice(sources)
        old = self.random.choice(sorted(source.acknowledged))
        self._backup(machine, known)
        name, content = self._new_name(), source.acknowledged[old]
        await machine.link((source.name, old), (known.name, name))
        known.now[name] = content
        self._count("links")

    async def _unlink(self, machine: Machine, known: Known) -> None:
        self._backup(machine, known)
        if known.now:
            name = self.random.choice(sorted(known.now))
            known.unlinked.add(name)
            await machine.remove(known.name, name)
            del known.now[name]

    async def _checkpoint(self, machine: Machine, known: Known) -> None:
        backup, before = self._backup(machine, known), dict(known.now)
        await backup.checkpoint()
        if not backup.is_lost:
            known.acknowledged = before
            self._count("checkpoints")

    async def _seal(self, machine: Machine, known: Known) -> None:
        backup = self._backup(machine, known)
        known.is_settling = True
        await machine.catalogue.seal(backup)
        known.acknowledged = dict(known.now)
        known.is_sealed, known.is_settling = True, False
        self._count("seals")

    async def _forget(self, machine: Machine) -> None:
        sealed = [k for k in self.backups.values() if k.is_sealed and not k.is_going]
        if len(sealed) < 2:
            return
        known = self.random.choice(sealed)
        backup = machine.catalogue.backups.get(known.name)
        if backup is not None and backup.is_sealed:
            known.is_going = True
            await machine.catalogue.forget(backup)
            known.is_gone = True
            self._count("forgets")

    async def _hear(self, machine: Machine) -> None:
        lease = machine.repository.lease
        assert lease is not None
        await lease.renew()
        await machine.catalogue.standing.hear(machine.fs.files.open_nodes)

    # -- prunes ------------------------------------------------------------------------------

    def _start_prune(self) -> None:
        kill_after = self.random.choice([None, None, self.random.randrange(1, 400)])
        self.nursery.start_soon(self._prune, kill_after)

    async def _prune(self, kill_after: int | None = None) -> None:
        self.prunes_count += 1
        store = self.world.new_store()
        options = PruneOptions(grace_s=0, max_unused=self.random.choice([0.0, 0.0, 0.3]))
        try:
            with trio.CancelScope() as scope:
                if kill_after is not None:
                    self.nursery.start_soon(self._kill, scope, kill_after)
                async with self.world.booted(store, self.world.new_home()) as machine:
                    repository = machine.repository
                    result = await Prune(repository, options, PACK_BYTES, lambda _: None).run()
                    await repository.end_lease()
                self.counts["deleted"] = self.counts.get("deleted", 0) + result.deleted_packs
                self.counts["copied"] = self.counts.get("copied", 0) + result.copied_packs
        except* (RepositoryBusyError, LeaseLapsedError):
            self._count("prunes refused")
        finally:
            self.prunes_count -= 1

    async def _kill(self, scope: trio.CancelScope, after: int) -> None:
        for _ in range(after):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    # -- sleeping and crashing ---------------------------------------------------------------

    async def _doze(self, writer: Participant) -> None:
        """Sleep past the lease in the middle of something, while prunes run; then wake."""
        if writer.is_free:
            self._start(writer, self._write)
            for _ in range(self.random.randrange(60)):
                await trio.lowlevel.checkpoint()
        if writer.is_crashing:
            return
        writer.store.fall_asleep()
        for _ in range(self.random.choice([2, 5, 6])):
            await self._pass(LEASE_S / 4)
        for _ in range(self.random.choice([0, 1, 2])):
            await self._prune()
        writer.store.wake()
        self._count("naps")

    async def _pass(self, duration_s: float) -> None:
        """Let time pass, while those who are awake renew their leases."""
        await self._rest()
        self.world.clock.now_s += duration_s
        for writer in self.writers:
            if writer.is_free and not writer.store.is_asleep:
                assert writer.machine is not None
                lease = writer.machine.repository.lease
                assert lease is not None
                await lease.renew()

    async def _crash(self, writer: Participant) -> None:
        if writer.is_crashing or writer.store.is_asleep:
            return
        writer.is_crashing = True
        if writer.is_busy:
            self._scopes[writer.name].cancel()
        while writer.is_busy:
            await trio.lowlevel.checkpoint()
        await writer.crash()
        await self.nursery.start(writer.live)
        assert writer.machine is not None
        await self._adopt(writer, writer.machine)
        writer.is_crashing = False
        self._count("crashes")

    async def _adopt(self, writer: Participant, machine: Machine) -> None:
        """Go on from what is there, which is no less than what was acknowledged."""
        for known in list(self.backups.values()):
            if known.owner is not writer or (known.is_sealed and not known.is_settling):
                continue
            backup = machine.catalogue.backups.get(known.name)
            if backup is None:
                assert known.is_settling
                known.is_gone = known.is_sealed = True
                continue
            found = {
                path[0]: seen for path, seen in (await machine.picture(known.name)).items() if path
            }
            self._compare(known, {name: seen.content for name, seen in found.items()}, "adopt")
            known.is_settling = False
            known.is_sealed = backup.is_sealed
            known.now = {name: seen.content for name, seen in found.items()}
            known.acknowledged = dict(known.now)

    # -- what must hold ----------------------------------------------------------------------

    async def _check(self, note: str) -> None:
        """Read every byte of every backup on a machine that has seen nothing before."""
        memory, home = self.world.memory, self.world.new_home()
        async with self.world.booted(memory, home, is_read_only=True) as machine:
            assert not machine.catalogue.damaged, note
            there = set(await machine.names())
            for known in list(self.backups.values()):
                if known.name not in there:
                    assert known.is_going or known.is_settling or known.is_gone, (note, known.name)
                    continue
                picture = await machine.picture(known.name)
                found = {path[0]: seen.content for path, seen in picture.items() if path}
                self._compare(known, found, note)

    def _compare(self, known: Known, found: Content, note: str) -> None:
        where = f"{note}: backup {known.name!r}"
        for name, content in found.items():
            expected = known.now.get(name) or known.acknowledged.get(name)
            if expected is not None:
                assert content == expected, f"{where}: {name!r} has another content"
        missing = set(known.acknowledged) - set(found)
        if not known.is_sealed:
            missing -= known.unlinked
        assert not missing, f"{where}: {missing} is gone"

    async def _end(self) -> None:
        """When all are awake and have agreed, prune leaves nothing that is not needed."""
        for writer in self.writers:
            await self._crash(writer)
        for _ in range(5):
            await self._pass(LEASE_S / 4)
        for _ in range(3):
            for writer in self.writers:
                assert writer.machine is not None
                await self._hear(writer.machine)
            await self._prune()
        await self._check("the end")
        prune = PruneOptions(grace_s=0, max_unused=1.0, is_dry_run=True)
        async with self.world.booted(self.world.memory, self.world.new_home()) as machine:
            result = await Prune(machine.repository, prune, 1, lambda _: None).run()
        assert not result.condemned_packs


@pytest.mark.anyio
@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_that_is_needed_is_deleted(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each step every backup is fully readable, and nothing acknowledged is gone."""
    randomness = random.Random(seed)
    make_repeatable(randomness, monkeypatch)
    objects, opened = await new_repository(PACK_BYTES)
    is_conditional = seed % 2 == 0
    world = World(objects, opened, randomness, tmp_path, enforce_conditions=is_conditional)
    async with trio.open_nursery() as nursery:
        play = Play(world, nursery)
        await play.run()
        nursery.cancel_scope.cancel()
    print(seed, is_conditional, play.counts)
