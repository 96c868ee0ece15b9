"""Long random walks through the file system without a kernel, against a plain directory.

S3BACKFS_TEST_SEED says with which seed they begin.
"""

from __future__ import annotations

import os

import pytest

from tests.fs import walks
from tests.fs.strategies import examples

FIRST_SEED = int(os.environ.get("S3BACKFS_TEST_SEED", "0"))


@pytest.mark.parametrize("kind", ["NAMES", "CONTENTS", "BACKUPS"])
def test_long_walks(kind: str) -> None:
    """Whatever is done, a backup shows what a plain directory shows, and so do later mounts."""
    for seed in range(FIRST_SEED, FIRST_SEED + examples(6, 1000)):
        chunk_bytes = [4096, 65_536, 1 << 20][seed % 3]
        found = walks.operations(getattr(walks, kind), 120, seed)
        walks.check(found, chunk_bytes=chunk_bytes)
