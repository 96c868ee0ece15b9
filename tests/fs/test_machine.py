"""The file system without a kernel, against a plain directory."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fs import strategies
from tests.fs.machine import Operation, run_example

CHUNK_BYTES = st.sampled_from([4096, 65_536, 1 << 20])

SETTINGS = settings(
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def lists(operations: st.SearchStrategy[Operation]) -> st.SearchStrategy[list[Operation]]:
    return st.lists(operations, min_size=1, max_size=60 if strategies.IS_LONG else 25)


@settings(SETTINGS, max_examples=strategies.examples(40, 3000))
@given(operations=lists(strategies.operations), chunk_bytes=CHUNK_BYTES)
def test_all_operations(operations: list[Operation], chunk_bytes: int) -> None:
    """Whatever is done, a backup shows what a plain directory shows, and so do later mounts."""
    run_example(operations, chunk_bytes=chunk_bytes)


@settings(SETTINGS, max_examples=strategies.examples(40, 3000))
@given(operations=lists(strategies.name_operations))
def test_names(operations: list[Operation]) -> None:
    """Directories that are renamed, swapped and removed around checkpoints keep what is in them."""
    run_example(operations, chunk_bytes=65_536)


@settings(SETTINGS, max_examples=strategies.examples(30, 2000))
@given(operations=lists(strategies.content_operations), chunk_bytes=CHUNK_BYTES)
def test_contents(operations: list[Operation], chunk_bytes: int) -> None:
    """Files hold what was written last, through checkpoints, remounts and crashes."""
    run_example(operations, chunk_bytes=chunk_bytes)


@settings(SETTINGS, max_examples=strategies.examples(30, 2000))
@given(operations=lists(strategies.backup_operations))
def test_backups(operations: list[Operation]) -> None:
    """Links between backups, sealed or open, are copies that share what their sources share."""
    run_example(operations, chunk_bytes=65_536)
