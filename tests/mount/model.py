"""Walks of chance on a real mount, each step also made on a plain directory and compared.

    python tests/mount/model.py MOUNTED_BACKUP PLAIN_DIRECTORY [SEED [COUNT]]

takes two empty directories and prints the shortest list of steps that it finds for a difference.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.mount import model_looks
from tests.mount.model_calls import ACL_NAMES, CALLS, World, acting_as, outcome
from tests.mount.model_choices import Choices, Step
from tests.mount.model_looks import Look

SHOWN_STEPS = 25
COMPARE_EVERY = 25
CLEARING = frozenset(
    ("open_file", "write", "pwrite", "map_shared", "truncate", "ftruncate", "chown", "fchown")
)
"""What takes setuid and setgid away."""


class Difference(AssertionError):
    """The mount is not what the plain directory is."""


@dataclass
class Walk:
    """Two worlds that must stay alike.

    Where the mounted one `has_base`, what equals the other backup takes its ctime from there.
    """

    mounted: World
    plain: World
    has_base: bool = False
    done: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.looks = self._look()

    def _look(self) -> tuple[dict[str, Look], dict[str, Look]]:
        return model_looks.look(self.mounted.top), model_looks.look(self.plain.top)

    def fail(self, *why: str) -> None:
        steps = "\n".join(map(str, self.done[-SHOWN_STEPS:]))
        raise Difference("\n".join(why) + f"\nafter {len(self.done)} steps:\n{steps}")

    def step(self, step: Step) -> None:
        """Make one step in both worlds.

        Raises:
            Difference: the answers, the attributes or what has changed are not the same.
        """
        self.done.append(step)
        with acting_as(step.who, step.umask):
            wanted = outcome(CALLS[step.name], self.plain, *step.arguments)
            got = outcome(CALLS[step.name], self.mounted, *step.arguments)
        if got != wanted and not self._is_known(step, got, wanted):
            self.fail(f"answered {_short(got)}, not {_short(wanted)}")
        self._even_out()
        self._compare_looks()

    def _even_out(self) -> None:
        """Make modes equal where docs/semantics.md says that setuid and setgid may differ."""
        if self.done[-1].name not in CLEARING:
            return
        for name in self.looks[1]:
            self._even_out_one(self.mounted.path(name), self.plain.path(name))
        for slot in self.plain.slots:
            self._even_out_one(self.mounted.descriptor(slot), self.plain.descriptor(slot))

    def _even_out_one(self, mounted: bytes | int, plain: bytes | int) -> None:
        try:
            got, wanted = (os.stat(place).st_mode for place in (mounted, plain))
        except OSError:
            return
        if got != wanted and _is_known_mode(got, wanted):
            for place in (mounted, plain):
                os.chmod(place, stat.S_IMODE(got) & ~(stat.S_ISUID | stat.S_ISGID))

    def _is_known(self, step: Step, got: Any, wanted: Any) -> bool:
        """Whether docs/semantics.md says that the mount answers otherwise; then make it even."""
        if step.name == "map_shared" and got == "ENODEV":
            slot, offset, _, seed = step.arguments
            CALLS["pwrite"](self.mounted, slot, offset, len(wanted), seed)
            return True
        if step.name == "map_keep" and got == "ENODEV":
            for world in (self.mounted, self.plain):
                world.unmap(step.arguments[0])
            return True
        return False

    def _compare_looks(self) -> None:
        before, self.looks = self.looks, self._look()
        problems = model_looks.differing(*self.looks)
        changed = [model_looks.touched(b, a) for b, a in zip(before, self.looks, strict=True)]
        for name in sorted(set(changed[0]) | set(changed[1])):
            got, wanted = changed[0].get(name), changed[1].get(name)
            if got != wanted and not self._is_known_time(got, wanted):
                problems.append(f"(mtime, ctime) changed of {name!r}: {got}, not {wanted}")
        if not self.has_base:
            problems += model_looks.backward(before[0], self.looks[0])
        if problems:
            self.fail(*problems)

    def _is_known_time(
        self, got: tuple[bool, bool] | None, wanted: tuple[bool, bool] | None
    ) -> bool:
        """Setting atime alone does nothing, nor does a chown that names nobody."""
        step = self.done[-1]
        if self.has_base and got and wanted and got[0] == wanted[0]:
            return True
        is_atime = step.name == "utimens" and step.arguments[1][1][1] == (1 << 30) - 2
        is_idle = step.name in ("chown", "fchown") and step.arguments[1:] == (-1, -1)
        return (is_atime or is_idle) and got == (False, False) and wanted == (False, True)

    def compare_all(self, mounted: Path | None = None) -> None:
        """Compare every byte and attribute, on another mount if one is named."""
        mounted = mounted or self.mounted.top
        looks = model_looks.look(mounted), model_looks.look(self.plain.top)
        problems = model_looks.differing(*looks)
        for name in sorted(set(looks[0]) & set(looks[1])):
            got, wanted = (model_looks.contents(top, name) for top in (mounted, self.plain.top))
            if got != wanted:
                problems.append(f"{name!r} holds {_short(got)}, not {_short(wanted)}")
            if not looks[0][name].has_blocks and model_looks.has_data(self.plain.top / name):
                problems.append(f"{name!r} has data and no blocks")
        problems += self._misnumbered(looks[0], mounted)
        if problems:
            self.fail(f"compared in {mounted}:", *problems)

    def _misnumbered(self, now: dict[str, Look], mounted: Path) -> list[str]:
        """Names whose number or times are no longer those that were seen last."""
        return [
            f"{name!r} was {seen}, is {now[name]} in {mounted}"
            for name, seen in self.looks[0].items()
            if name in now and self._lasting(seen) != self._lasting(now[name])
        ]

    def _lasting(self, seen: Look) -> tuple[int, ...]:
        return seen.number, seen.mtime_ns, 0 if self.has_base else seen.ctime_ns

    def choose(self, choices: Choices) -> Step:
        """Draw a step that fits to what is there."""
        names = self.looks[1]
        choices.names = sorted(set(names) - {"."})
        choices.has_default_lists = any(
            stat.S_ISDIR(seen.mode) and _has_default(self.plain.path(name))
            for name, seen in names.items()
        )
        return choices.step()

    def run(self, choices: Choices, count: int) -> None:
        """Make steps of chance."""
        for number in range(1, count + 1):
            self.step(self.choose(choices))
            if number % COMPARE_EVERY == 0:
                self.compare_all()

    def close(self) -> None:
        self.mounted.close_all()
        self.plain.close_all()


def _is_known_mode(got: int, wanted: int) -> bool:
    """Whether two modes differ in setuid and setgid as they may.

    Setgid without the group's right to run stays; past the page cache, root's writes count too.
    """
    if not stat.S_ISREG(got):
        return False
    if got == wanted | stat.S_ISGID:
        return not got & stat.S_IXGRP
    return got in (wanted & ~stat.S_ISUID, wanted & ~(stat.S_ISUID | stat.S_ISGID))


def _has_default(path: bytes) -> bool:
    try:
        return bool(os.getxattr(path, ACL_NAMES[1]))
    except OSError:
        return False


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 400 else f"{text[:200]}...{text[-100:]} ({len(text)})"


# -- shortening --------------------------------------------------------------------------------


@dataclass
class Replay:
    """Makes lists of steps in new directories."""

    mounted: Path
    plain: Path
    count: int = 0

    def begin(self) -> Walk:
        self.count += 1
        tops = [top / f"run{self.count}" for top in (self.mounted, self.plain)]
        for top in tops:
            top.mkdir()
            top.chmod(0o777)
        return Walk(World(tops[0]), World(tops[1]))

    def failure(self, steps: Iterable[Step]) -> str:
        """How a list of steps fails; empty if it does not."""
        return self._failure_of(lambda walk: [walk.step(step) for step in steps])

    def _failure_of(self, act: Callable[[Walk], object]) -> str:
        walk = self.begin()
        try:
            act(walk)
            walk.compare_all()
        except Difference as difference:
            return str(difference)
        finally:
            walk.close()
            for world in (walk.mounted, walk.plain):
                shutil.rmtree(world.top)
        return ""

    def walk(self, seed: int, count: int) -> tuple[list[Step], str]:
        """The steps of a walk of chance, and how it failed."""
        done: list[Step] = []

        def act(walk: Walk) -> None:
            walk.done = done
            walk.run(Choices(seed, walk.plain), count)

        failure = self._failure_of(act)
        return done, failure


def shortened(steps: list[Step], fails: Callable[[list[Step]], bool]) -> list[Step]:
    """Take out what is not needed for a failure, large pieces first."""
    size = len(steps) // 2
    while size:
        start = 0
        while start < len(steps):
            fewer = steps[:start] + steps[start + size :]
            if fails(fewer):
                steps = fewer
            else:
                start += size
        size //= 2
    return steps


def main() -> int:
    replay = Replay(Path(sys.argv[1]), Path(sys.argv[2]))
    numbers = [int(text) for text in sys.argv[3:5]]
    seed, count = (*numbers, *(0, 300)[len(numbers) :])
    steps, failure = replay.walk(seed, count)
    if not failure:
        return 0
    first = failure.partition("\n")[0]
    kind = first[:30]
    print(f"seed {seed}: {first} after {len(steps)} steps")
    short = shortened(steps, lambda fewer: replay.failure(fewer)[:30] == kind)
    print(replay.failure(short))
    return 1


if __name__ == "__main__":
    sys.exit(main())
