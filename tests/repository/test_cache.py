"""Caches in memory and on disk."""

from __future__ import annotations

import errno
import logging
import os
import resource
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3backfs.repository.cache import ByteLru, DiskCache

operations = st.lists(
    st.tuples(st.sampled_from(["put", "get", "pop"]), st.integers(0, 8), st.integers(0, 60))
)


@given(operations)
def test_the_lru_is_a_bounded_dictionary(steps: list[tuple[str, int, int]]) -> None:
    """It holds what was used last, as much of it as fits, and nothing else."""
    lru: ByteLru[int, int] = ByteLru(100)
    model: list[tuple[int, int]] = []
    for verb, key, size in steps:
        known = dict(model)
        if verb == "get":
            assert lru.get(key) == known.get(key)
            if key in known:
                model = [row for row in model if row[0] != key] + [(key, known[key])]
            continue
        model = [row for row in model if row[0] != key]
        if verb == "pop":
            assert lru.pop(key) == known.get(key)
        else:
            lru.put(key, size, size)
            model.append((key, size))
            while sum(row[1] for row in model) > 100:
                model.pop(0)
        assert lru.used_bytes == sum(row[1] for row in model)
        assert len(lru) == len(model)


def test_a_value_above_the_limit_does_not_push_others_out() -> None:
    """What could never fit is not kept, and costs nothing."""
    lru: ByteLru[str, bytes] = ByteLru(10)
    lru.put("small", b"12345", 5)
    lru.put("large", b"12345678901", 11)
    assert lru.get("small") == b"12345"
    assert "large" not in lru


def test_the_disk_gives_back_what_it_was_given(tmp_path: Path) -> None:
    """Bytes come back under their name only, also to another process's cache object."""
    cache = DiskCache(tmp_path / "frames", 1 << 20)
    assert cache.get("a") is None
    cache.put("a", b"first")
    cache.put("a", memoryview(b"second"))
    assert DiskCache(tmp_path / "frames", 1 << 20).get("a") == b"second"
    assert cache.get("b") is None
    cache.drop("a")
    assert cache.get("a") is None


def test_the_disk_cache_is_private(tmp_path: Path) -> None:
    """Nobody else can read directory or files."""
    cache = DiskCache(tmp_path / "frames", 1 << 20)
    cache.put("a", b"data")
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "frames").rglob("*")}
    assert (tmp_path / "frames").stat().st_mode & 0o777 == 0o700
    assert modes == {0o700, 0o600}


def test_the_disk_cache_is_bounded_and_keeps_what_was_used_last(tmp_path: Path) -> None:
    """Old files go when the limit is reached, those that others have put there included."""
    first, second = (DiskCache(tmp_path / "frames", 10_000) for _ in range(2))
    for number in range(5):
        first.put(f"old {number}", bytes(1000))
    for path in (tmp_path / "frames").rglob("*"):
        if path.is_file():
            os.utime(path, (1, 1))
    for number in range(6):
        second.put(f"new {number}", bytes(1000))
    kept = [path for path in (tmp_path / "frames").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in kept) <= 10_000
    assert all(second.get(f"new {number}") is not None for number in range(6))


def test_reading_an_old_file_makes_it_young(tmp_path: Path) -> None:
    """What is used is not evicted before what is not."""
    cache = DiskCache(tmp_path / "frames", 10_000)
    for name in ("used", "unused"):
        cache.put(name, bytes(2000))
    for path in (tmp_path / "frames").rglob("*"):
        if path.is_file():
            os.utime(path, (1, 1))
    assert cache.get("used") is not None
    for number in range(4):
        cache.put(f"{number}", bytes(1700))
    assert cache.get("used") is not None
    assert cache.get("unused") is None


def test_the_directory_may_vanish(tmp_path: Path) -> None:
    """Removing everything while the cache is in use costs what was in it, and nothing more."""
    cache = DiskCache(tmp_path / "frames", 1 << 20)
    cache.put("a", b"data")
    for path in sorted((tmp_path / "frames").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (tmp_path / "frames").rmdir()
    assert cache.get("a") is None
    cache.put("a", b"again")
    assert cache.get("a") == b"again"


def test_a_directory_that_others_can_read_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The cache turns itself off with one line in the log."""
    (tmp_path / "frames").mkdir(mode=0o755)
    cache = DiskCache(tmp_path / "frames", 1 << 20)
    with caplog.at_level(logging.WARNING):
        cache.put("a", b"data")
        cache.put("b", b"data")
    assert not cache.is_enabled
    assert cache.get("a") is None
    assert len(caplog.records) == 1


def test_a_disk_that_refuses_turns_the_cache_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A write that fails half-way is no error, leaves no file, and ends the use of the cache."""
    cache = DiskCache(tmp_path / "frames", 1 << 20)
    cache.put("small", b"data")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        cache.put("large", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not cache.is_enabled
    assert os.strerror(errno.EFBIG) in caplog.text
    files = [path for path in (tmp_path / "frames").rglob("*") if path.is_file()]
    assert [path.stat().st_size for path in files] == [4]


def test_threads_share_a_cache(tmp_path: Path) -> None:
    """A reader sees one of the whole values, never a mixture, while others write and evict."""
    cache = DiskCache(tmp_path / "frames", 200_000)
    wrong: list[bytes] = []

    def work(number: int) -> None:
        for step in range(60):
            cache.put("shared", bytes([number]) * 20_000)
            cache.put(f"{number}-{step}", bytes(10_000))
            found = cache.get("shared")
            if found is not None and (len(found) != 20_000 or len(set(found)) != 1):
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert cache.is_enabled
