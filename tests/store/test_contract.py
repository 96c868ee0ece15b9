"""What `s3backfs.store.base` promises, asked of every store."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

import pytest
import trio

from s3backfs.errors import (
    ObjectMissingError,
    PreconditionFailedError,
    UnavailableError,
    UploadMissingError,
)
from s3backfs.store.around import WrappedStore
from s3backfs.store.base import IfAbsent, IfMatch, PendingUpload, Store
from s3backfs.store.retrying import Retrying

pytestmark = pytest.mark.anyio

T = TypeVar("T")

PART_BYTES = 5 << 20
BODY = bytes(range(256)) * 4
MANY = 1003
"""More objects than a page holds."""


async def collect(pages: AsyncIterator[Sequence[T]]) -> list[T]:
    return [item async for page in pages for item in page]


async def keys_of(store: Store, prefix: str, after: str = "") -> list[str]:
    return [found.key for found in await collect(store.list(prefix, after=after))]


async def test_get_returns_what_put_stored(store: Store) -> None:
    """A whole get answers the bytes, their length and the etag of the put."""
    stored = await store.put("data/one", BODY)
    fetched = await store.get("data/one")
    assert (fetched.data, fetched.total_bytes) == (BODY, len(BODY))
    assert fetched.etag == stored.etag != ""


async def test_server_time_is_that_of_now(store: Store) -> None:
    """Puts and gets carry the server's clock, which is this machine's in tests."""
    stored = await store.put("one", b"x")
    fetched = await store.get("one")
    for moment_ns in (stored.server_time_ns, fetched.server_time_ns):
        assert abs(moment_ns - time.time_ns()) < 60e9


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [0, 1, 300_000, 3_000_000])
async def test_every_buffer_can_be_put(store: Store, kind: type, size: int) -> None:
    """Bytes, bytearrays and views of any length arrive unchanged."""
    data = (BODY * (size // len(BODY) + 1))[:size]
    await store.put("one", kind(data))
    assert (await store.get("one")).data == data


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 10), (5, 10), (1000, 100), (1024, 1), (5000, 7), (3, None), (0, 0), (9, 0)],
)
async def test_ranges_are_those_of_the_bytes(store: Store, offset: int, length: int | None) -> None:
    """A range is cut where the object ends, and is empty behind its end."""
    await store.put("one", BODY)
    fetched = await store.get("one", offset=offset, length=length)
    end = None if length is None else offset + length
    assert (fetched.data, fetched.total_bytes) == (BODY[offset:end], len(BODY))
    assert fetched.etag == (await store.head("one")).etag


@pytest.mark.parametrize(("offset", "length"), [(-4, None), (-4, 2), (-5000, None), (-1024, 9)])
async def test_negative_offsets_count_from_the_end(
    store: Store, offset: int, length: int | None
) -> None:
    """A negative offset takes the object's tail, or all of a shorter object."""
    await store.put("one", BODY)
    fetched = await store.get("one", offset=offset, length=length)
    tail = BODY[max(0, len(BODY) + offset) :]
    assert (fetched.data, fetched.total_bytes) == (tail[:length], len(BODY))


async def test_a_range_of_an_empty_object_is_empty(store: Store) -> None:
    """There is no byte to answer, and that is no error."""
    await store.put("one", b"")
    assert (await store.get("one", offset=0, length=10)).data == b""
    assert (await store.get("one", offset=-10)).total_bytes == 0


async def test_missing_objects_are_told(store: Store) -> None:
    """Get, ranged get, head and copy of a missing object raise ObjectMissingError with its key."""
    await store.put("there/one", b"x")
    for ask in (
        lambda: store.get("there/two"),
        lambda: store.get("there/two", offset=1, length=2),
        lambda: store.get("nowhere/two", offset=-5),
        lambda: store.head("there/one/two"),
        lambda: store.head("there"),
        lambda: store.copy("there/two", "there/three"),
    ):
        with pytest.raises(ObjectMissingError) as caught:
            await ask()
        assert caught.value.key in ("there/two", "nowhere/two", "there/one/two", "there")


async def test_head_tells_length_etag_and_time(store: Store) -> None:
    """A head agrees with the put and with the listing."""
    stored = await store.put("a/one", BODY)
    head = await store.head("a/one")
    assert (head.key, head.length_bytes, head.etag) == ("a/one", len(BODY), stored.etag)
    assert abs(head.modified_ns - time.time_ns()) < 60e9
    (listed,) = await collect(store.list("a/"))
    assert (listed.key, listed.length_bytes, listed.etag) == ("a/one", len(BODY), stored.etag)


async def test_put_replaces_and_the_etag_changes(store: Store) -> None:
    """The second put of a key with other bytes wins and has another etag."""
    first = await store.put("one", b"old")
    second = await store.put("one", b"new")
    assert first.etag != second.etag
    assert (await store.get("one")).data == b"new"


async def test_a_listing_is_sorted_by_key(store: Store) -> None:
    """Keys come in bytewise order of the whole key, whatever directories they lie in."""
    keys = ["a-b", "a/b", "a/b-c/d", "a/b.c", "ab", "a/é".replace("é", "e"), "b/%2f", "b/A", "b/a"]
    for key in keys:
        await store.put(key, b"x")
    assert await keys_of(store, "") == sorted(keys)


@pytest.mark.parametrize(
    ("prefix", "after"),
    [
        ("a/", ""),
        ("a", ""),
        ("a/b", ""),
        ("b/c/", ""),
        ("", "a/c"),
        ("a/", "a/b"),
        ("a/", "a/bb"),
        ("c", ""),
        ("", "zz"),
        ("b/", "a/"),
        ("a/", "b"),
    ],
)
async def test_a_listing_keeps_to_prefix_and_start(store: Store, prefix: str, after: str) -> None:
    """Only keys that begin with the prefix and lie behind `after` are listed."""
    keys = ["a/b", "a/bc", "a/c", "ab", "b/c/d", "b/c/e", "b/d"]
    for key in keys:
        await store.put(key, b"x")
    expected = [key for key in keys if key.startswith(prefix) and key > after]
    assert await keys_of(store, prefix, after) == expected


async def test_many_objects_are_listed_and_deleted(store: Store) -> None:
    """Listings go on over pages and from any key; deletes take any number of keys."""
    keys = [f"many/{number:04}" for number in range(MANY)]
    # rclone answers 500 where two puts make one directory at the same time.
    patient = WrappedStore(store, Retrying(30.0))
    async with trio.open_nursery() as nursery:
        for key in keys:
            nursery.start_soon(patient.put, key, b"x")
    await store.put("other", b"x")
    assert await keys_of(store, "many/") == keys
    assert await keys_of(store, "many/", keys[500]) == keys[501:]
    await store.delete([*keys[:-1], "many/missing"])
    assert await keys_of(store, "") == [keys[-1], "other"]


async def test_a_listing_can_be_left(store: Store) -> None:
    """Who has seen enough leaves the loop; nothing is held open and nothing warns."""
    await store.put("one", b"x")
    async for page in store.list(""):
        assert page
        break


async def test_deleting_what_is_not_there_is_no_error(store: Store) -> None:
    """Deletes can be repeated, one by one or many at once; none at all is fine too."""
    await store.put("a/one", b"x")
    await store.delete([])
    for _ in range(2):
        await store.delete(["a/one"])
        await store.delete(["a/one", "b/two"])
    assert await keys_of(store, "") == []


async def test_a_copy_is_an_object_of_its_own(store: Store) -> None:
    """The copy has the bytes and outlives its source."""
    await store.put("a/one", BODY)
    stored = await store.copy("a/one", "b/two")
    await store.delete(["a/one"])
    assert (await store.get("b/two")).data == BODY
    assert (await store.head("b/two")).etag == stored.etag


async def test_names_of_any_printable_sign(store: Store) -> None:
    """Keys may hold every sign that quoted names can hold, dots in front included."""
    keys = ["open/.hidden", "open/a%20b", "open/a+b", "open/x=y~z", "open/" + "n" * 250]
    for key in keys:
        await store.put(key, key.encode())
    assert await keys_of(store, "open/") == sorted(keys)
    for key in keys:
        assert (await store.get(key)).data == key.encode()


async def test_probe_tells_whether_conditions_hold(store: Store) -> None:
    """Before the probe nothing is known; after it `has_conditional_put` says what a put does."""
    assert store.has_conditional_put is None
    await store.probe("leases/probe")
    enforced = store.has_conditional_put
    assert enforced is not None
    await store.put("one", b"old")
    try:
        await store.put("one", b"new", condition=IfAbsent())
    except PreconditionFailedError:
        assert enforced
    else:
        assert not enforced
    assert await keys_of(store, "") == ["one"]


async def test_what_is_known_is_put_to_the_proof(store: Store) -> None:
    """What a probe found is confirmed at no change; what is untrue, or of elsewhere, is not."""
    await store.probe("leases/probe")
    known = store.conditions
    assert known is not None
    assert known.are_enforced is store.has_conditional_put
    await store.put("leases/lease", b"as it is")
    before = await store.head("leases/lease")
    assert await store.confirm("leases/lease", b"as it is", known)
    assert store.conditions == known
    for wrong in (
        replace(known, are_enforced=not known.are_enforced),
        replace(known, place="https://elsewhere"),
    ):
        assert not await store.confirm("leases/lease", b"as it is", wrong)
        assert store.has_conditional_put is None
    assert (await store.get("leases/lease")).data == b"as it is"
    assert (await store.head("leases/lease")).etag == before.etag


async def enforcing(store: Store) -> Store:
    await store.probe("probe")
    if not store.has_conditional_put:
        pytest.skip("this server ignores conditions, and the probe says so")
    return store


async def test_if_absent_creates_once(store: Store) -> None:
    """Of several writers who all create one key just one succeeds."""
    store = await enforcing(store)
    won = []

    async def create(number: int) -> None:
        with suppress(PreconditionFailedError, UnavailableError):
            await store.put("one", str(number).encode(), condition=IfAbsent())
            won.append(str(number).encode())

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(create, number)
    assert won == [(await store.get("one")).data]


async def test_if_match_replaces_only_what_it_names(store: Store) -> None:
    """The right etag replaces; an older one, or a missing object, fails and changes nothing."""
    store = await enforcing(store)
    first = await store.put("one", b"1")
    second = await store.put("one", b"22", condition=IfMatch(first.etag))
    with pytest.raises(PreconditionFailedError):
        await store.put("one", b"333", condition=IfMatch(first.etag))
    await store.put("one", b"333", condition=IfMatch((await store.head("one")).etag))
    assert second.etag != first.etag
    with pytest.raises(PreconditionFailedError):
        await store.put("two", b"1", condition=IfMatch(first.etag))
    assert (await store.get("one")).data == b"333"
    assert await keys_of(store, "") == ["one"]


async def test_an_upload_joins_its_parts(store: Store) -> None:
    """Parts may come in any order and twice; the object is not there before it is complete."""
    bodies = [bytes([number]) * PART_BYTES for number in (1, 2)] + [b"the end"]
    upload = await store.begin_upload("data/pack")
    await upload.put_part(3, memoryview(bodies[2]))
    await upload.put_part(1, b"x" * PART_BYTES)
    await upload.put_part(2, bodies[1])
    await upload.put_part(1, bytearray(bodies[0]))
    with pytest.raises(ObjectMissingError):
        await store.head("data/pack")
    stored = await upload.complete()
    fetched = await store.get("data/pack")
    assert fetched.data == b"".join(bodies)
    assert fetched.etag == stored.etag
    assert await collect(store.list_uploads("")) == []


async def test_an_upload_of_one_small_part(store: Store) -> None:
    """The last part may be small, also where it is the first."""
    upload = await store.begin_upload("data/pack")
    await upload.put_part(1, b"small")
    await upload.complete()
    assert (await store.get("data/pack")).data == b"small"


async def test_completing_twice_is_no_error(store: Store) -> None:
    """Who lost the answer asks again and learns that the object is there."""
    upload = await store.begin_upload("data/pack")
    await upload.put_part(1, b"small")
    await upload.complete()
    again = await upload.complete()
    assert again.etag == (await store.head("data/pack")).etag


async def test_an_aborted_upload_is_gone(store: Store) -> None:
    """After an abort nothing is listed, nothing can be completed, and another abort is fine."""
    upload = await store.begin_upload("data/pack")
    await upload.put_part(1, b"small")
    await upload.abort()
    await upload.abort()
    # moto answers 500 here.
    with pytest.raises((UploadMissingError, UnavailableError)):
        await upload.complete()
    assert await collect(store.list_uploads("")) == []
    assert await keys_of(store, "") == []


async def test_pending_uploads_are_listed_and_aborted(store: Store) -> None:
    """Another process finds the uploads of a dead one by their keys and can end them."""
    for key in ("data/one", "data/two", "meta/three"):
        await (await store.begin_upload(key)).put_part(1, b"x")
    found = await collect(store.list_uploads("data/"))
    assert sorted(upload.key for upload in found) == ["data/one", "data/two"]
    # moto has a fixed date here.
    assert all(0 < upload.started_ns < time.time_ns() + 60e9 for upload in found)
    for upload in found:
        await store.abort_upload(upload)
        await store.abort_upload(upload)
    assert [upload.key for upload in await collect(store.list_uploads(""))] == ["meta/three"]
    assert await keys_of(store, "") == []


async def test_an_unknown_upload_can_be_aborted(store: Store) -> None:
    """An upload that the store never knew is as good as aborted."""
    await store.abort_upload(PendingUpload("data/one", "0123456789abcdef", 0))


async def test_the_url_names_the_store(store: Store) -> None:
    """The URL is for people and holds no secret."""
    assert ":" in store.url
    assert "sksk" not in store.url


async def test_a_store_can_be_closed(store: Store) -> None:
    """Closing ends without an error after use."""
    await store.put("one", b"x")
    await store.aclose()
