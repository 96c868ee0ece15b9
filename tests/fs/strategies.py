"""What lists of file operations are drawn from."""

from __future__ import annotations

import os

from hypothesis import strategies as st

from tests.fs.machine import Operation

IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
FACTOR = float(os.environ.get("S3BACKFS_TEST_FACTOR", "1"))


def examples(short: int, long: int) -> int:
    """How many examples a property is tried with."""
    return int((long if IS_LONG else short) * FACTOR)


choices = st.integers(0, 10_000)
few = st.integers(0, 12)
seeds = st.integers(0, 400)
small_sizes = st.one_of(st.integers(0, 700), st.integers(0, 40_000))
sizes = st.one_of(
    small_sizes,
    small_sizes,
    st.integers(0, 300_000),
    st.sampled_from([511, 512, 513, 131_072, 131_073, 262_145, 1 << 20, 3 << 20, 6 << 20]),
)
offsets = st.one_of(
    st.integers(0, 1000), st.integers(0, 400_000), st.sampled_from([1 << 20, 5 << 20, 20 << 20])
)
lengths = st.sampled_from([1, 100, 4096, 131_072, 1 << 20])


def operation(name: str, *numbers: st.SearchStrategy[int]) -> st.SearchStrategy[Operation]:
    """One operation with its numbers."""
    return st.tuples(st.just(name), st.tuples(*numbers))


making = [
    operation("create", choices, few, sizes, seeds),
    operation("create", choices, few, small_sizes, seeds),
    operation("mkdir", choices, few),
    operation("mkdir", choices, few),
    operation("symlink", choices, few, st.integers(1, 300)),
    operation("mknod", choices, few, few),
    operation("populate", choices, st.sampled_from([3, 20, 150]), st.sampled_from([0, 10, 900])),
]
writing = [
    operation("write", choices, offsets, sizes, seeds),
    operation("write", choices, offsets, small_sizes, seeds),
    operation("append", choices, sizes, seeds),
    operation("overwrite", choices, sizes, seeds),
    operation("truncate", choices, st.one_of(sizes, offsets)),
    operation(
        "scatter",
        choices,
        st.sampled_from([10, 70, 200, 600]),
        st.sampled_from([700, 5000, 20_000]),
        seeds,
    ),
    operation("open", choices, few),
    operation("write_open", choices, offsets, sizes, seeds),
    operation("write_open", choices, offsets, small_sizes, seeds),
    operation("close", choices),
]
naming = [
    operation("rename", choices, choices, few, few),
    operation("rename", choices, choices, few, few),
    operation("move_directory", choices, choices, few),
    operation("move_directory", choices, choices, few),
    operation("link", choices, choices, few),
    operation("link", choices, choices, few),
    operation("unlink", choices),
    operation("unlink", choices),
    operation("rmdir", choices),
    operation("remove_tree", choices),
]
setting = [
    operation("chmod", choices, st.integers(0, 0o7777)),
    operation("chown", choices, st.integers(0, 70_000), st.integers(0, 70_000)),
    operation("utime", choices, st.integers(0, 2_000_000_000)),
    operation("setxattr", choices, few, small_sizes, seeds),
    operation("removexattr", choices, few),
]
reading = [
    operation("read", choices, offsets, lengths),
    operation("read_open", choices, offsets, lengths),
    operation("list_while", choices, choices, few, choices, few, small_sizes, seeds),
]
storing = [
    operation("forget"),
    operation("checkpoint", few),
    operation("checkpoint", few),
    operation("begin_checkpoint", few, few),
    operation("begin_checkpoint", few, few),
    operation("begin_race", few),
    operation("begin_race", few),
    operation("end_checkpoint"),
    operation("remount"),
    operation("crash"),
]
backups = [
    operation("new_backup"),
    operation("seal", few),
    operation("reopen", few),
    operation("clone", few, choices, choices, few),
    operation("clone_all", few, choices),
]

operations = st.one_of(*making, *writing, *naming, *setting, *reading, *storing, *backups)
name_operations = st.one_of(*making[1:], *naming, *naming, *storing, setting[0], reading[2])
content_operations = st.one_of(making[0], *writing, *writing, reading[0], reading[1], *storing)
backup_operations = st.one_of(making[1], *naming, setting[0], writing[1], *storing, *backups)
