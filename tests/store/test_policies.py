"""Retries, statistics, limits, faults and records around a store."""

from __future__ import annotations

import logging
import random
from typing import Any, get_args

import pytest
import trio
from trio.testing import MockClock

from s3backfs.errors import (
    PreconditionFailedError,
    RefusedError,
    S3backfsError,
    UnavailableError,
)
from s3backfs.store.around import Verb, WrappedStore
from s3backfs.store.base import IfAbsent
from s3backfs.store.counting import Counting, Traffic
from s3backfs.store.limiting import Limiting
from s3backfs.store.memory import MemoryStore
from s3backfs.store.retrying import LONGEST_PAUSE_S, Outage, Retrying, longest_pause_s
from tests.store.faults import Fault, Faults
from tests.store.recording import Recording

pytestmark = pytest.mark.anyio

ALWAYS = 1_000_000


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Run on trio with a clock that jumps over every wait."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def retrying(retry_for_s: float = 3600.0, **more: Any) -> Retrying:
    return Retrying(retry_for_s, randomness=random.Random(1), **more)


async def exercise(store: WrappedStore) -> None:
    """Send each kind of request once."""
    await store.put("a", b"12345")
    assert (await store.get("a", offset=1, length=3)).data == b"234"
    assert (await store.head("a")).length_bytes == 5
    await store.copy("a", "b")
    upload = await store.begin_upload("c")
    await upload.put_part(1, b"part")
    await upload.complete()
    pending = await store.begin_upload("d")
    assert [found.key async for page in store.list("") for found in page] == ["a", "b", "c"]
    uploads = [found async for page in store.list_uploads("") for found in page]
    assert [found.upload_id for found in uploads] == [pending.upload_id]
    await store.abort_upload(uploads[0])
    await pending.abort()
    await store.delete(["a", "b"])
    await store.probe("probe")


async def test_every_request_is_repeated() -> None:
    """Whatever fails twice for a passing reason succeeds in the end, pages included."""
    memory = MemoryStore()
    verbs = get_args(Verb)
    faults = Faults(*(Fault(verb, times=2) for verb in verbs))
    await exercise(WrappedStore(memory, retrying(), faults))
    assert faults.is_used_up
    assert memory.objects == {"c": b"part"}


async def test_later_pages_are_repeated_too() -> None:
    """A listing that fails in its middle goes on where it was."""
    keys = [f"{number:04}" for number in range(2500)]
    memory = MemoryStore(dict.fromkeys(keys, b""))
    faults = Faults(Fault("list", skip=1, times=3))
    store = WrappedStore(memory, retrying(), faults)
    assert [found.key async for page in store.list("") for found in page] == keys
    assert faults.is_used_up


async def test_refusals_are_not_repeated() -> None:
    """An error that no repetition helps is raised at once."""

    def refuse(key: str) -> RefusedError:
        return RefusedError("no", key=key)

    counting = Counting()
    faults = Faults(Fault("put", times=ALWAYS, error=refuse))
    store = WrappedStore(MemoryStore(), retrying(), counting, faults)
    with pytest.raises(RefusedError):
        await store.put("a", b"x")
    assert counting.snapshot().of("put").count == 1


async def test_retries_end_in_time() -> None:
    """After `retry_for_s` the last error is raised, not later."""
    store = WrappedStore(MemoryStore(), retrying(100.0), Faults(Fault("get", times=ALWAYS)))
    started_s = trio.current_time()
    with pytest.raises(UnavailableError):
        await store.get("a")
    assert 100.0 - LONGEST_PAUSE_S <= trio.current_time() - started_s <= 100.0


async def test_no_time_means_one_attempt() -> None:
    """With a time of 0 nothing is repeated."""
    counting = Counting()
    faults = Faults(Fault("get", times=ALWAYS))
    with pytest.raises(UnavailableError):
        await WrappedStore(MemoryStore(), retrying(0.0), counting, faults).get("a")
    assert counting.snapshot().of("get").count == 1


def test_pauses_grow_to_a_bound() -> None:
    """The bound of the pause doubles from attempt to attempt up to half a minute."""
    bounds = [longest_pause_s(attempt) for attempt in (1, 2, 3, 4, 20, 5000)]
    assert bounds == [0.2, 0.4, 0.8, 1.6, 30.0, 30.0]


async def test_a_lost_answer_to_a_condition_is_the_callers_to_settle() -> None:
    """The repeated conditional put meets its own work and says that the condition failed."""
    memory = MemoryStore()
    store = WrappedStore(memory, retrying(), Faults(Fault("put", when="after")))
    with pytest.raises(PreconditionFailedError):
        await store.put("a", b"mine", condition=IfAbsent())
    assert memory.objects == {"a": b"mine"}


async def test_an_outage_is_told_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The log says that S3 is away soon, then each minute, and once that it is back."""
    # The command line keeps this logger quiet.
    caplog.set_level(logging.INFO, "s3backfs.store.retrying")
    seen: list[Outage | None] = []
    policy = retrying(on_change=seen.append)
    faults = Faults(Fault("get", times=25))
    store = WrappedStore(MemoryStore({"a": b"x"}), policy, faults)
    started_s = trio.current_time()
    await store.get("a")
    lasted_s = trio.current_time() - started_s
    away = [line for line in caplog.messages if line.startswith("S3 is away since")]
    back = [line for line in caplog.messages if line.startswith("S3 is back")]
    assert 2 <= len(away) <= lasted_s / 60 + 1
    assert len(back) == 1
    assert [outage.failed_count if outage else None for outage in seen] == [*range(1, 26), None]
    assert policy.outage is None


async def test_a_short_trouble_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """One failed request among good ones is not worth a line."""
    caplog.set_level(logging.INFO, "s3backfs.store.retrying")
    store = WrappedStore(MemoryStore({"a": b"x"}), retrying(), Faults(Fault("get")))
    await store.get("a")
    assert caplog.messages == []


async def test_counts_are_those_of_the_requests() -> None:
    """Requests, bytes of both directions and failures are counted by kind."""
    counting = Counting()
    store = WrappedStore(MemoryStore(), counting)
    await exercise(store)
    with pytest.raises(S3backfsError):
        await store.get("missing")
    traffic = counting.snapshot()
    assert (traffic.of("put").count, traffic.of("put").sent_bytes) == (1, 5)
    get = traffic.of("get")
    assert (get.count, get.failed_count, get.received_bytes) == (2, 1, 3)
    assert (traffic.sent_bytes, traffic.received_bytes, traffic.failed_count) == (9, 3, 1)
    assert traffic.of("list").count == 1
    assert traffic.in_flight_count == 0
    assert get.longest_ns <= get.total_ns
    assert Traffic().of("get").mean_ns == 0


async def test_limits_hold_on_average() -> None:
    """Ten requests at once take as long as their bytes need at the rate, but for the last."""
    memory = MemoryStore({"a": bytes(1000)})
    store = WrappedStore(memory, Limiting(up_bytes_per_s=100, down_bytes_per_s=500))
    started_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(store.put, f"b{number}", bytes(100))
    assert trio.current_time() - started_s == pytest.approx(9.0)
    started_s = trio.current_time()
    for _ in range(5):
        await store.get("a", length=500)
    assert trio.current_time() - started_s == pytest.approx(4.0)


async def test_gets_of_unknown_length_are_charged_later() -> None:
    """A whole get starts at once, and what it brought holds back those after it."""
    store = WrappedStore(MemoryStore({"a": bytes(1000)}), Limiting(down_bytes_per_s=100))
    started_s = trio.current_time()
    await store.get("a")
    await store.get("a", length=1)
    assert trio.current_time() - started_s == pytest.approx(10.0)


async def test_a_record_has_every_state_of_the_store() -> None:
    """Each prefix of the write log gives the objects as they were then."""
    memory = MemoryStore({"old": b"0"})
    recording = Recording(memory)
    store = WrappedStore(memory, recording)
    states = [memory.objects]
    for act in (
        lambda: store.put("a", b"1"),
        lambda: store.copy("a", "b"),
        lambda: store.delete(["a", "old"]),
    ):
        await act()
        states.append(memory.objects)
    prefixes = [recording.prefix(length).objects for length in range(len(recording.log) + 1)]
    assert prefixes == states
    assert recording.count("put") == 1
