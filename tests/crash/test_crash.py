"""Crashes at every kind of moment, simulated.

CRASH_RUNS=300 makes that many runs, CRASH_FIRST=900 begins there, CRASH_SEED=17 does one;
a failure names its seed.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from s3backfs.repository import uploading
from s3backfs.repository.opening import CreateOptions, OpenedRepository, create_repository
from s3backfs.store.memory import MemoryStore
from tests.crash.journal import Journal
from tests.crash.machine import Machine, booted
from tests.crash.model import State, Track, Tree, difference, digest, distance
from tests.crash.workload import Workload

RUNS = int(os.environ.get("CRASH_RUNS", "24"))
ONLY = os.environ.get("CRASH_SEED")
FIRST = int(os.environ.get("CRASH_FIRST", "0"))
SEEDS = [int(ONLY)] if ONLY else list(range(FIRST, FIRST + RUNS))
MOMENTS = 12
GENERATIONS = 2
STEPS = 80


async def what_is_there(machine: Machine) -> dict[bytes, list[State]]:
    """Every visible backup by its id: name, whether it is sealed, and its whole content."""
    assert not machine.catalogue.damaged
    found: dict[bytes, list[State]] = {}
    for name in await machine.names():
        backup = machine.catalogue.backups[name]
        picture = await machine.picture(name)
        seen = State(0, name, backup.is_sealed, digest(picture), picture)
        found.setdefault(backup.id, []).append(seen)
    return found


async def check(machine: Machine, tracks: list[Track], moment: int, note: str) -> None:
    """Compare what a crash left with what it may leave."""
    found = await what_is_there(machine)
    for track in tracks:
        allowed = track.allowed(moment)
        seen = found.pop(track.backup_id, [])
        assert len(seen) <= 1, f"{note}: one backup under two names: {seen}"
        if not seen:
            assert any(state.name is None for state in allowed), f"{note}: gone: {allowed}"
        elif seen[0].says() not in [state.says() for state in allowed]:
            raise AssertionError(f"{note}: {explain(seen[0], allowed, track)}")
    assert not found, f"{note}: unknown {found}"


def explain(seen: State, allowed: list[State], track: Track) -> str:
    """Say how what was found differs from what comes nearest to it."""
    older = [number for number, state in enumerate(track.states) if state.says() == seen.says()]
    if older:
        floor = track.number + 1 - len(track.states[track.states.index(allowed[0]) :])
        return f"{seen} is state {older}, too old or too new: {floor} is acknowledged"
    nearest = min(allowed, key=lambda state: distance(seen.picture, state.picture))
    return f"{seen} is not {nearest}: {difference(seen.picture, nearest.picture)}"


async def tracks_of(machine: Machine) -> list[Track]:
    """Begin the model anew with what is there."""
    tracks = []
    for name in await machine.names():
        backup = machine.catalogue.backups[name]
        picture = await machine.picture(name)
        state = State(0, name, backup.is_sealed, digest(picture))
        tracks.append(Track(backup.id, Tree.of(picture), [state], [(0, 0)]))
    return tracks


def make_repeatable(randomness: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a seed lead to the same run again: order of tasks, work of threads, ids."""

    async def run_here(work: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return work(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_here)
    monkeypatch.setattr(secrets, "token_bytes", randomness.randbytes)
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    trio._core._run._r.seed(randomness.random())


async def new_repository(pack_bytes: int) -> tuple[dict[str, bytes], OpenedRepository]:
    """Make an empty repository; without encryption, for speed."""
    store = MemoryStore()
    options = CreateOptions(is_encrypted=False, chunk_bytes=64 << 10, pack_bytes=pack_bytes)
    opened = await create_repository(store, options, None)
    return store.objects, opened


@pytest.mark.anyio
@pytest.mark.parametrize("seed", SEEDS)
async def test_every_crash_leaves_a_state_that_was_checkpointed(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was not acknowledged is lost or late: each backup is whole, and none is too old."""
    randomness = random.Random(seed)
    make_repeatable(randomness, monkeypatch)
    monkeypatch.setattr(uploading, "PART_BYTES", 128 << 10)
    objects, opened = await new_repository(randomness.choice([64 << 10, 512 << 10]))
    is_conditional = randomness.random() < 0.5
    home = tmp_path / "home"
    tracks: list[Track] | None = None
    for generation in range(GENERATIONS):
        journal = Journal(objects, randomness, enforce_conditions=is_conditional)
        async with booted(journal, opened, home) as machine:
            workload = Workload(machine, journal, randomness)
            if generation:
                await workload.adopt(await tracks_of(machine))
            await workload.run(STEPS)
        tracks = workload.tracks
        moments = [randomness.randrange(journal.now + 1) for _ in range(MOMENTS)]
        for moment in moments:
            store = await journal.crashed(moment, randomness)
            await journal.duplicate(moment, store, randomness)
            note = f"seed {seed}, generation {generation}, moment {moment} of {journal.now}"
            async with booted(store, opened, tmp_path / "other", is_read_only=True) as machine:
                await check(machine, tracks, moment, note)
            shutil.rmtree(tmp_path / "other")
            objects = store.objects
        # The machine that goes on crashed at that moment too: what came later it cannot remember.
        for memory in (home / "state").glob("*/open"):
            shutil.rmtree(memory)
        if randomness.random() < 0.5:
            shutil.rmtree(home / "cache")
