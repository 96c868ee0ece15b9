"""Writers, forgets, rotations and prunes that rewrap, at once: all that is needed stays readable.

PRUNE_RUNS and PRUNE_SEED as for the model of prune.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from s3backfs.maintenance.epochs import measure_epochs
from s3backfs.maintenance.prune import PruneOptions
from tests.crash.test_crash import make_repeatable, new_repository
from tests.maintenance import test_prune_model
from tests.maintenance.test_prune_model import ONLY, PACK_BYTES, Play
from tests.maintenance.world import World

RUNS = int(os.environ.get("PRUNE_RUNS", "4"))
SEEDS = [int(ONLY)] if ONLY else list(range(RUNS))
ROTATION_SHARE = 0.02


class RotatingPlay(Play):
    """A play in which keys are rotated, and all mount anew, now and then."""

    async def _step(self) -> None:
        if self.random.random() < ROTATION_SHARE:
            await self._rotate()
        else:
            await super()._step()

    async def _rotate(self) -> None:
        await self._rest()
        if not all(writer.is_free and not writer.store.is_asleep for writer in self.writers):
            return
        opened = self.world.opened
        keyring = opened.keyring.with_next(self.random.randbytes(32))
        self.world.opened = replace(opened, keyring=keyring)
        for writer in self.writers:
            await self._crash(writer)
        self._count("rotations")


@pytest.mark.anyio
@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_that_is_needed_is_lost_by_rewraps(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every backup is readable at any time; at the end all packs are under the newest key."""
    monkeypatch.setattr(test_prune_model, "PruneOptions", partial(PruneOptions, rewrap=True))
    randomness = random.Random(seed)
    make_repeatable(randomness, monkeypatch)
    objects, opened = await new_repository(PACK_BYTES)
    world = World(objects, opened, randomness, tmp_path, enforce_conditions=seed % 2 == 0)
    async with trio.open_nursery() as nursery:
        play = RotatingPlay(world, nursery, has_losses=False)
        await play.run()
        nursery.cancel_scope.cancel()
    uses = await measure_epochs(world.memory, world.opened.keyring)
    assert {use.epoch for use in uses if use.packs} == {world.opened.keyring.epoch}
    print(seed, play.counts)
