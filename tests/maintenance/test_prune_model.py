"""Writers, forgets, prunes and readers at once: nothing that is needed is ever deleted.

In half of the runs packs are damaged and repaired meanwhile: what is stored or linked by those who
have heard of the repair is whole.

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
    ConfigurationError,
    FileSystemError,
    IntegrityError,
    LeaseLapsedError,
    OwnershipLostError,
    RepositoryBusyError,
)
from s3backfs.maintenance.mending import MendOptions, PackRepair
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
    tainted: set[bytes] = field(default_factory=set)
    """Names whose content may have been lost with a damaged pack."""
    is_sealed: bool = False
    is_going: bool = False
    is_gone: bool = False
    is_settling: bool = False

    def content(self, name: bytes) -> bytes:
        return self.now.get(name) or self.acknowledged.get(name, b"")


@dataclass(slots=True)
class Loss:
    """A damaged pack, and the writers that may refer to it anew: they have not heard of it."""

    key: str = ""
    unaware: set[str] = field(default_factory=set)
    is_mended: bool = False


class Play:
    """One run."""

    def __init__(self, world: World, nursery: trio.Nursery, *, has_losses: bool) -> None:
        self.world = world
        self.loss = Loss()
        self.has_losses = has_losses
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
            ["write", "prune", "doze", "crash", "two prunes", "pass", "lose", "repair"],
            [180, 12, 4, 3, 3, 6, *((4, 8) if self.has_losses else (0, 0))],
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
        elif action == "lose":
            self._lose()
        elif action == "repair":
            self.nursery.start_soon(self._repair, self._killed_after())

    def _start(
        self, writer: Participant, work: Callable[[Participant, Machine], Awaitable[None]]
    ) -> None:
        writer.is_busy = True
        scope = self._scopes[writer.name] = trio.CancelScope()

        async def run() -> None:
            machine = writer.machine
            with scope:
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
            (5, lambda: self._hear(writer, machine)),
            (3, lambda: self._forget(machine)),
        ]
        if own:
            known = self.random.choice(own)
            acts += [
                (6, lambda: self._add(writer, machine, known)),
                (4, lambda: self._link(writer, machine, known)),
                (2, lambda: self._unlink(machine, known)),
                (4, lambda: self._checkpoint(machine, known)),
                (2, lambda: self._seal(machine, known)),
            ]
        act = self.random.choices([act for _, act in acts], [weight for weight, _ in acts])[0]
        try:
            await act()
        except (OwnershipLostError, RepositoryBusyError):
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

    async def _add(self, writer: Participant, machine: Machine, known: Known) -> None:
        self._backup(machine, known)
        name, content = self._new_name(), self.random.choice(self.contents)
        known.now[name] = content
        if writer.name in self.loss.unaware:
            known.tainted.add(name)
        await machine.write_file(known.name, name, data=content)

    async def _link(self, writer: Participant, machine: Machine, known: Known) -> None:
        sources = [each for each in self.backups.values() if each.acknowledged and not each.is_gone]
        if not sources:
            return
        source = self.random.choice(sources)
        old = self.random.choice(sorted(source.acknowledged))
        self._backup(machine, known)
        name, content = self._new_name(), source.acknowledged[old]
        is_unaware = writer.name in self.loss.unaware
        await machine.link((source.name, old), (known.name, name))
        if is_unaware or writer.name in self.loss.unaware:
            known.tainted.add(name)
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

    async def _hear(self, writer: Participant, machine: Machine) -> None:
        loss, is_mended = self.loss, self.loss.is_mended
        lease = machine.repository.lease
        assert lease is not None
        await lease.renew()
        await machine.catalogue.standing.hear(machine.fs.files.open_nodes)
        if is_mended:
            loss.unaware.discard(writer.name)

    # -- prunes ------------------------------------------------------------------------------

    def _start_prune(self) -> None:
        self.nursery.start_soon(self._prune, self._killed_after())

    def _killed_after(self) -> int | None:
        return self.random.choice([None, None, self.random.randrange(1, 400)])

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
                    result = await Prune(repository, options, PACK_BYTES, lambda *_: None).run()
                    await repository.end_lease()
                self.counts["deleted"] = self.counts.get("deleted", 0) + result.deleted_packs
                self.counts["copied"] = self.counts.get("copied", 0) + result.copied_packs
        except* (RepositoryBusyError, LeaseLapsedError):
            self._count("prunes refused")
        except* IntegrityError:
            assert self.loss.key
            self._count("prunes that met the damage")
        finally:
            self.prunes_count -= 1

    async def _kill(self, scope: trio.CancelScope, after: int) -> None:
        for _ in range(after):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    # -- losses and repairs ------------------------------------------------------------------

    def _lose(self) -> None:
        """Damage a pack; what is there by now may be lost, until all have heard of the repair."""
        keys = sorted(key for key in self.world.memory.objects if key.startswith("data/"))
        if not keys or (self.loss.key and self.loss.unaware):
            return
        key = self.random.choice(keys)
        data = bytearray(self.world.memory.objects[key])
        data[self.random.randrange(len(data) * 9 // 10)] ^= 1
        self.world.memory.damage(key, bytes(data))
        self.loss = Loss(key, {writer.name for writer in self.writers})
        for known in self.backups.values():
            known.tainted |= {*known.now, *known.acknowledged, *known.unlinked}
        self._count("losses")

    async def _repair(self, kill_after: int | None = None) -> None:
        loss = self.loss
        if not loss.key:
            return
        self.prunes_count += 1
        try:
            with trio.CancelScope() as scope:
                if kill_after is not None:
                    self.nursery.start_soon(self._kill, scope, kill_after)
                async with self.world.booted(
                    self.world.new_store(), self.world.new_home()
                ) as machine:
                    options = MendOptions(wait_s=0)
                    repair = PackRepair(machine.repository, options, [], lambda *_: None)
                    await repair.run([loss.key])
                    await machine.repository.end_lease()
                loss.is_mended = True
                self._count("repairs")
        except* (RepositoryBusyError, LeaseLapsedError):
            self._count("repairs refused")
        except* ConfigurationError:
            # A prune was faster: the pack is gone, and nothing needs it.
            assert loss.key not in self.world.memory.objects
            loss.is_mended = True
            self._count("repairs not needed")
        finally:
            self.prunes_count -= 1

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
        loss, is_mended = self.loss, self.loss.is_mended
        await self.nursery.start(writer.live)
        if is_mended:
            loss.unaware.discard(writer.name)
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
            found = await machine.contents(known.name)
            self._compare(known, found, "adopt")
            known.is_settling = False
            known.is_sealed = backup.is_sealed
            known.now = {name: content or known.content(name) for name, content in found.items()}
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
                self._compare(known, await machine.contents(known.name), note)

    def _compare(self, known: Known, found: dict[bytes, bytes | None], note: str) -> None:
        where = f"{note}: backup {known.name!r}"
        for name, content in found.items():
            assert content is not None or name in known.tainted, f"{where}: {name!r} is damaged"
            expected = known.content(name)
            if expected and content is not None:
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
        await self._repair()
        for _ in range(3):
            for writer in self.writers:
                assert writer.machine is not None
                await self._hear(writer, writer.machine)
            await self._prune()
        await self._check("the end")
        prune = PruneOptions(grace_s=0, max_unused=1.0, is_dry_run=True)
        async with self.world.booted(self.world.memory, self.world.new_home()) as machine:
            result = await Prune(machine.repository, prune, 1, lambda *_: None).run()
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
        play = Play(world, nursery, has_losses=seed // 2 % 2 == 1)
        await play.run()
        nursery.cancel_scope.cancel()
    print(seed, is_conditional, play.counts)
