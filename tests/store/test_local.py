"""What only the local store does: files, locks, and the errors of disks."""

from __future__ import annotations

import errno
import multiprocessing
import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from s3backfs.errors import (
    BucketMissingError,
    ObjectMissingError,
    PreconditionFailedError,
    QuotaError,
    RefusedError,
    StoreError,
    UnavailableError,
)
from s3backfs.store.base import IfMatch
from s3backfs.store.local import LocalStore, translate_os_error
from s3backfs.store.local_files import LocalFiles

pytestmark = pytest.mark.anyio


async def keys_of(store: LocalStore) -> list[str]:
    return [found.key async for page in store.list("") for found in page]


def files_below(directory: Path) -> list[str]:
    found = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    return sorted(str(path) for path in found)


async def test_objects_are_plain_files(tmp_path: Path) -> None:
    """An object lies under its key; a finished write leaves nothing else but the lock."""
    store = LocalStore(tmp_path)
    await store.put("data/one", b"x")
    upload = await store.begin_upload("data/two")
    await upload.put_part(1, b"y")
    await upload.complete()
    assert (tmp_path / "data/one").read_bytes() == b"x"
    assert files_below(tmp_path) == [".lock", "data/one", "data/two"]


async def test_hidden_files_are_no_objects(tmp_path: Path) -> None:
    """What lies in dot directories at the top is not listed and can not be asked for."""
    store = LocalStore(tmp_path)
    await store.put("one", b"x")
    await (await store.begin_upload("two")).put_part(1, b"y")
    assert await keys_of(store) == ["one"]
    with pytest.raises(StoreError):
        await store.get(".lock")


@pytest.mark.parametrize("key", ["../one", "a/../../one", "/etc/passwd", "a//b", "", "a/", "ä"])
async def test_keys_can_not_leave_the_directory(tmp_path: Path, key: str) -> None:
    """A key that is none is refused by every request and touches nothing."""
    (tmp_path / "repository").mkdir()
    store = LocalStore(tmp_path / "repository")
    for ask in (store.get, store.head, store.begin_upload):
        with pytest.raises(StoreError):
            await ask(key)
    with pytest.raises(StoreError):
        await store.put(key, b"x")
    with pytest.raises(StoreError):
        await store.delete([key])
    assert files_below(tmp_path) == []


async def test_equal_bytes_put_again_have_another_etag(tmp_path: Path) -> None:
    """Each replacement changes the etag, also within one tick of the clock."""
    store = LocalStore(tmp_path)
    etags = {(await store.put("one", b"same")).etag for _ in range(50)}
    assert len(etags) == 50


async def test_a_key_is_either_object_or_directory(tmp_path: Path) -> None:
    """Writing below an object, or over a directory, is refused and keeps what is there."""
    store = LocalStore(tmp_path)
    await store.put("a/b", b"x")
    for key in ("a", "a/b/c"):
        with pytest.raises(StoreError):
            await store.put(key, b"y")
    assert await keys_of(store) == ["a/b"]


async def test_empty_directories_go_with_their_last_object(tmp_path: Path) -> None:
    """Deleting leaves no empty directories behind, and the root stays."""
    store = LocalStore(tmp_path)
    await store.put("a/b/c", b"x")
    await store.put("a/d", b"x")
    await store.delete(["a/b/c"])
    assert not (tmp_path / "a/b").exists()
    await store.delete(["a/d"])
    assert sorted(os.listdir(tmp_path)) == [".lock", ".tmp"]


async def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    """Nothing makes the directory: a NAS that is not mounted is not filled from below."""
    store = LocalStore(tmp_path / "nas")
    for ask in (
        lambda: store.get("one"),
        lambda: store.put("one", b"x"),
        lambda: store.begin_upload("one"),
        lambda: keys_of(store),
        lambda: store.delete(["one"]),
    ):
        with pytest.raises(BucketMissingError, match="nas"):
            await ask()
    assert not (tmp_path / "nas").exists()


async def test_another_directory_in_its_place_is_noticed(tmp_path: Path) -> None:
    """When the mounted disk goes and an empty directory shows, nothing is written into it."""
    path = tmp_path / "nas"
    path.mkdir()
    store = LocalStore(path)
    await store.put("one", b"x")
    path.rename(tmp_path / "elsewhere")
    path.mkdir()
    with pytest.raises(UnavailableError):
        await store.put("two", b"x")
    with pytest.raises(UnavailableError):
        await store.get("one")
    assert list(path.iterdir()) == []


def _add_many(directory: Path, count: int) -> None:
    async def add() -> None:
        store = LocalStore(directory)
        for _ in range(count):
            while True:
                found = await store.get("sum")
                try:
                    number = str(int(found.data) + 1).encode()
                    await store.put("sum", number, condition=IfMatch(found.etag))
                    break
                except PreconditionFailedError:
                    continue

    trio.run(add)


async def test_conditions_hold_between_processes(tmp_path: Path) -> None:
    """Processes that all add to one number by compare and replace lose no addition."""
    store = LocalStore(tmp_path)
    await store.put("sum", b"0")
    context = multiprocessing.get_context("spawn")
    adders = [context.Process(target=_add_many, args=(tmp_path, 20)) for _ in range(3)]
    for adder in adders:
        adder.start()
    for adder in adders:
        await trio.to_thread.run_sync(adder.join)
    assert (await store.get("sum")).data == b"60"


PARTS = st.text("-.a/b0", min_size=1, max_size=6)


@given(keys=st.sets(PARTS, max_size=12), prefix=PARTS | st.just(""), after=PARTS | st.just(""))
def test_the_walk_is_the_sorted_list(keys: set[str], prefix: str, after: str) -> None:
    """Whatever the keys, directories are walked in the order of the whole keys."""
    with TemporaryDirectory() as directory:
        files = LocalFiles(Path(directory))
        stored = []
        for key in keys:
            with suppress(StoreError):
                files.write(key, b"", None)
                stored.append(key)
        wanted = sorted(key for key in stored if key.startswith(prefix) and key > after)
        assert [found.key for found in files.walk(prefix, after)] == wanted


async def test_old_rests_are_removed(tmp_path: Path) -> None:
    """The probe removes what a crashed writer left a day ago, and nothing newer."""
    store = LocalStore(tmp_path)
    await store.put("one", b"x")
    old, new = tmp_path / ".tmp/old", tmp_path / ".tmp/new"
    for path in (old, new):
        path.write_bytes(b"rest")
    os.utime(old, (1, 1))
    await store.probe("probe")
    assert (old.exists(), new.exists()) == (False, True)
    assert store.has_conditional_put is True


def test_a_failed_join_leaves_the_upload_as_it_was(tmp_path: Path) -> None:
    """A part that can not be read ends the completion; done again it is right."""
    files = LocalFiles(tmp_path)
    upload_id = files.begin_upload("one")
    for number in (1, 2, 3):
        files.write_part(upload_id, number, str(number).encode() * 10)
    part = tmp_path / ".uploads" / upload_id / "part-00003"
    hidden = part.rename(tmp_path / "hidden")
    part.mkdir()
    with pytest.raises(OSError, match="directory"):
        files.complete_upload("one", upload_id)
    part.rmdir()
    hidden.rename(part)
    files.complete_upload("one", upload_id)
    assert (tmp_path / "one").read_bytes() == b"1" * 10 + b"2" * 10 + b"3" * 10


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, QuotaError),
        (errno.EDQUOT, QuotaError),
        (errno.EACCES, RefusedError),
        (errno.EROFS, RefusedError),
        (errno.ENOENT, ObjectMissingError),
        (errno.ESTALE, UnavailableError),
        (errno.ETIMEDOUT, UnavailableError),
        (errno.EIO, StoreError),
    ],
)
def test_every_errno_has_its_meaning(code: int, kind: type[StoreError]) -> None:
    """A full disk, a refusal and a server that is away are told apart; EIO is not retried."""
    error = translate_os_error(OSError(code, os.strerror(code)), Path("/srv"), "one")
    assert type(error) is kind
    assert error.can_retry == (kind is UnavailableError)


async def test_a_full_disk_is_a_quota() -> None:
    """A write to a file system that is really full raises QuotaError with its errno."""
    with pytest.raises(QuotaError) as caught:
        await LocalStore(Path("/dev")).run(lambda: Path("/dev/full").write_bytes(b"x"))
    assert caught.value.errno_code == errno.ENOSPC
