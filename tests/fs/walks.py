"""Long random lists of operations from a seed, and how to make one that fails short."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from tests.fs.machine import Operation, run_example

Draw = Callable[[random.Random], int]


def below(end: int) -> Draw:
    return lambda source: source.randrange(end)


def one_of(*values: int) -> Draw:
    return lambda source: source.choice(values)


def size(source: random.Random) -> int:
    """Mostly small; sometimes around a limit; seldom large."""
    kind = source.random()
    if kind < 0.5:
        return source.randrange(700)
    if kind < 0.8:
        return source.randrange(40_000)
    if kind < 0.97:
        return source.choice([511, 512, 513, 131_072, 131_073, 262_145, 300_000])
    return source.choice([1 << 20, 3 << 20, 6 << 20])


def offset(source: random.Random) -> int:
    return source.choice([source.randrange(1000), source.randrange(400_000), 1 << 20, 5 << 20])


which, name, seed = below(10_000), below(4), below(400)

NAMES: dict[str, tuple[int, tuple[Draw, ...]]] = {
    "mkdir": (8, (which, name)),
    "create": (8, (which, name, below(40), seed)),
    "move_directory": (10, (which, which, name)),
    "rename": (8, (which, which, name, below(5))),
    "link": (4, (which, which, name)),
    "unlink": (4, (which,)),
    "rmdir": (3, (which,)),
    "remove_tree": (2, (which,)),
    "chmod": (2, (which, below(0o7777))),
    "populate": (1, (which, one_of(3, 40, 900), one_of(0, 10))),
    "list_while": (2, (which, which, below(9), which, name, below(40), seed)),
    "forget": (8, ()),
    "checkpoint": (5, (name,)),
    "begin_checkpoint": (6, (name, below(12))),
    "begin_race": (2, (name,)),
    "end_checkpoint": (4, ()),
    "remount": (1, ()),
    "crash": (1, ()),
}
CONTENTS: dict[str, tuple[int, tuple[Draw, ...]]] = {
    "create": (3, (which, name, size, seed)),
    "write": (8, (which, offset, size, seed)),
    "append": (6, (which, size, seed)),
    "overwrite": (2, (which, size, seed)),
    "truncate": (6, (which, lambda source: source.choice([size(source), offset(source)]))),
    "scatter": (3, (which, one_of(10, 70, 200, 600), one_of(700, 5000, 20_000), seed)),
    "open": (4, (which, below(4))),
    "write_open": (10, (which, offset, size, seed)),
    "read_open": (4, (which, offset, one_of(1, 4096, 131_072, 1 << 20))),
    "read": (4, (which, offset, one_of(1, 4096, 131_072, 1 << 20))),
    "close": (3, (which,)),
    "unlink": (1, (which,)),
    "setxattr": (2, (which, name, below(5000), seed)),
    "forget": (4, ()),
    "checkpoint": (3, (name,)),
    "begin_checkpoint": (4, (name, below(12))),
    "begin_race": (2, (name,)),
    "end_checkpoint": (3, ()),
    "remount": (1, ()),
    "crash": (1, ()),
}
BACKUPS: dict[str, tuple[int, tuple[Draw, ...]]] = {
    **NAMES,
    "link": (10, (which, which, name)),
    "write": (4, (which, below(600), below(600), seed)),
    "utime": (2, (which, below(1 << 30))),
    "setxattr": (2, (which, name, below(1500), seed)),
    "chown": (1, (which, below(70_000), below(70_000))),
    "new_backup": (4, ()),
    "clone": (8, (name, which, which, name)),
    "clone_all": (3, (name, which)),
    "seal": (1, (name,)),
    "reopen": (1, (name,)),
}


def operations(
    kinds: dict[str, tuple[int, tuple[Draw, ...]]], count: int, seed: int
) -> list[Operation]:
    """A list of operations, always the same one for a seed."""
    source = random.Random(seed)
    names = source.choices(list(kinds), [weight for weight, _ in kinds.values()], k=count)
    return [(name, tuple(draw(source) for draw in kinds[name][1])) for name in names]


def check(found: Sequence[Operation], *, chunk_bytes: int) -> None:
    """Run operations; where they fail, raise what the fewest that are found still fail with."""
    try:
        run_example(found, chunk_bytes=chunk_bytes)
    except Exception:
        shortest = _shortest(list(found), chunk_bytes)
        try:
            run_example(shortest, chunk_bytes=chunk_bytes)
        except Exception as error:
            error.add_note(f"shortest list, chunk_bytes={chunk_bytes}: {shortest}")
            raise
        raise


def _shortest(found: list[Operation], chunk_bytes: int) -> list[Operation]:
    """Leave out ever smaller parts, as long as the rest still fails."""
    step = len(found) // 2
    while step:
        start = 0
        while start < len(found):
            shorter = found[:start] + found[start + step :]
            if _fails(shorter, chunk_bytes):
                found = shorter
            else:
                start += step
        step //= 2
    return found


def _fails(found: list[Operation], chunk_bytes: int) -> bool:
    try:
        run_example(found, chunk_bytes=chunk_bytes)
    except Exception:
        return True
    return False
