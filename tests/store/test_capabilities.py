"""The table of capabilities, and what is asked of an endpoint where nothing was chosen."""

from __future__ import annotations

from typing import Any

import pytest

from s3backfs.errors import RefusedError, UnavailableError
from s3backfs.maintenance.doctor import Speed, judge, suggest
from s3backfs.store.around import WrappedStore
from s3backfs.store.base import Store
from s3backfs.store.capabilities import GENERAL_NAMES, Capabilities, Capability, Trials, Verdict
from s3backfs.store.memory import MemoryStore
from s3backfs.store.s3_client import S3Settings, make_client
from s3backfs.store.s3_sse import ServerEncryption
from tests.store.faults import Fault, Faults

PREFIX = "leases/0123/doctor/"


def refusal(key: str) -> RefusedError:
    return RefusedError("no", key=key)


@pytest.mark.anyio
async def test_every_store_has_the_basics(store: Store) -> None:
    """All stores do what a repository needs; only conditions may be missing."""
    rows = await Trials(store, PREFIX).run()
    assert {row.name for row in rows if row.verdict is not Verdict.YES} <= {"conditional put"}
    await store.delete([PREFIX + name for name in GENERAL_NAMES])
    assert [found async for page in store.list("") for found in page] == []


@pytest.mark.anyio
async def test_a_refusal_is_told_from_a_failure() -> None:
    """What is refused, what fails, and what could not be tried are different verdicts."""
    faults = Faults(
        Fault("copy", error=refusal),
        Fault("begin_upload", times=9, error=lambda key: UnavailableError("away", key=key)),
    )
    table = Capabilities(await Trials(WrappedStore(MemoryStore(), faults), PREFIX).run())
    assert table.verdict("copy") is Verdict.REFUSED
    assert table.verdict("multipart") is Verdict.FAILED
    faults = Faults(Fault("put", times=9, error=refusal))
    table = Capabilities(await Trials(WrappedStore(MemoryStore(), faults), PREFIX).run())
    assert table.verdict("put") is Verdict.REFUSED
    assert table.verdict("multipart") is Verdict.UNTRIED
    assert table.has("list")


def test_a_right_that_is_missing_is_named() -> None:
    """A function that will not work says what to allow, and the others work."""
    names = ("read", "list", "put", "multipart", "copy", "delete")
    rows = tuple(Capability(name, Verdict.YES) for name in names)
    refused = Capability("maintain", Verdict.REFUSED)
    functions = {found.name: found for found in judge(Capabilities((*rows, refused)))}
    assert functions["write and seal backups"].works
    assert not functions["forget and prune"].works
    assert "s3:DeleteObject" in functions["forget and prune"].remedy


def test_the_fewest_connections_that_are_fast() -> None:
    """More connections are suggested only where they are faster; slow answers want large parts."""
    mib = 1 << 20
    flat = (Speed(1, 10 * mib, 1), Speed(4, 100 * mib, 1), Speed(16, 105 * mib, 1))
    near, far = suggest(1.0, flat), suggest(100.0, flat)
    assert near is not None
    assert far is not None
    assert (near.connections, near.part_bytes) == (4, 8 * mib)
    assert far.part_bytes == 32 * mib


@pytest.mark.parametrize(
    ("chosen", "at_amazon", "elsewhere"),
    [
        (ServerEncryption(), "AES256", None),
        (ServerEncryption("none"), "none", "none"),
        (ServerEncryption("aws:kms"), "aws:kms", "aws:kms"),
        (ServerEncryption(None, bytes(32)), None, None),
    ],
)
def test_amazon_encrypts_unless_told_otherwise(
    chosen: ServerEncryption, at_amazon: str | None, elsewhere: str | None
) -> None:
    """SSE-S3 is the default towards Amazon only, and every choice stands."""
    assert chosen.towards(is_amazon=True).mode == at_amazon
    assert chosen.towards(is_amazon=False).mode == elsewhere


@pytest.mark.parametrize(
    ("endpoint", "host", "header"),
    [(None, "amazonaws.com", "AES256"), ("https://s3.example.org", "s3.example.org", None)],
)
def test_the_region_auto(
    endpoint: str | None, host: str, header: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` is kept for servers that know it; at Amazon it is no host, and puts ask for SSE-S3."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    client = make_client(S3Settings("bucket", region="auto", endpoint_url=endpoint))
    seen: list[Any] = []

    def stop(params: dict[str, Any], **_: object) -> None:
        seen.append(params)
        raise InterruptedError

    client.meta.events.register("before-call.s3.PutObject", stop)
    with pytest.raises(InterruptedError):
        client.put_object(Bucket="bucket", Key="key", Body=b"")
    assert host in seen[0]["url"]
    assert seen[0]["headers"].get("x-amz-server-side-encryption") == header
    assert ("auto" in seen[0]["url"]) is False
    assert client.meta.region_name == ("us-east-1" if endpoint is None else "auto")
    client.close()
