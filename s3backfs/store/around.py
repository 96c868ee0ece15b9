"""Put policies (retries, statistics, limits, faults) around a store, each written once.

A policy sees every request with a function that carries it out, and decides when, whether and
how often to call it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, TypeVar

from s3backfs.store.base import (
    Buffer,
    Condition,
    Conditions,
    Fetched,
    Listed,
    PendingUpload,
    Store,
    Stored,
    Upload,
)
from s3backfs.store.pages import Page, Pages

T = TypeVar("T")
Item = TypeVar("Item", Listed, PendingUpload)

Verb: TypeAlias = Literal[
    "probe",
    "get",
    "put",
    "begin_upload",
    "put_part",
    "complete",
    "abort",
    "list",
    "head",
    "copy",
    "delete",
    "list_uploads",
    "abort_upload",
]


@dataclass(frozen=True, slots=True)
class Request:
    """One request as a policy sees it; of a list, `keys` is the prefix."""

    verb: Verb
    keys: tuple[str, ...]
    sent_bytes: int = 0
    wanted_bytes: int = 0
    """What a get asked for; 0 where it asked for all there is."""

    @property
    def key(self) -> str:
        return self.keys[0] if self.keys else ""


class Policy(Protocol):
    """What happens around each request."""

    async def __call__(self, request: Request, act: Callable[[], Awaitable[T]]) -> T:
        """Carry `request` out by `act`, which may be called again after an error."""


class WrappedStore:
    """A store with policies around each of its requests, the outermost first."""

    def __init__(self, store: Store, *policies: Policy) -> None:
        self._store = store
        self._policies = policies

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def place(self) -> str:
        return self._store.place

    @property
    def has_conditional_put(self) -> bool | None:
        return self._store.has_conditional_put

    async def run(self, request: Request, act: Callable[[], Awaitable[T]]) -> T:
        """Carry one request out through all policies."""
        for policy in reversed(self._policies):
            act = _bind(policy, request, act)
        return await act()

    @property
    def conditions(self) -> Conditions | None:
        return self._store.conditions

    async def confirm(self, key: str, data: Buffer, known: Conditions) -> bool:
        request = Request("probe", (key,))
        return await self.run(request, lambda: self._store.confirm(key, data, known))

    async def probe(self, key: str) -> None:
        await self.run(Request("probe", (key,)), lambda: self._store.probe(key))

    async def get(self, key: str, *, offset: int = 0, length: int | None = None) -> Fetched:
        request = Request("get", (key,), wanted_bytes=length or max(0, -offset))
        return await self.run(request, lambda: self._store.get(key, offset=offset, length=length))

    async def put(self, key: str, data: Buffer, *, condition: Condition = None) -> Stored:
        request = Request("put", (key,), sent_bytes=len(data))
        return await self.run(request, lambda: self._store.put(key, data, condition=condition))

    async def begin_upload(self, key: str) -> Upload:
        request = Request("begin_upload", (key,))
        upload = await self.run(request, lambda: self._store.begin_upload(key))
        return _WrappedUpload(self, key, upload)

    def list(self, prefix: str, *, after: str = "") -> AsyncIterator[Sequence[Listed]]:
        return self._pages(Request("list", (prefix,)), self._store.list(prefix, after=after))

    async def head(self, key: str) -> Listed:
        return await self.run(Request("head", (key,)), lambda: self._store.head(key))

    async def copy(self, source_key: str, key: str) -> Stored:
        request = Request("copy", (key, source_key))
        return await self.run(request, lambda: self._store.copy(source_key, key))

    async def delete(self, keys: Sequence[str]) -> None:
        await self.run(Request("delete", tuple(keys)), lambda: self._store.delete(keys))

    def list_uploads(self, prefix: str) -> AsyncIterator[Sequence[PendingUpload]]:
        return self._pages(Request("list_uploads", (prefix,)), self._store.list_uploads(prefix))

    async def abort_upload(self, upload: PendingUpload) -> None:
        request = Request("abort_upload", (upload.key,))
        await self.run(request, lambda: self._store.abort_upload(upload))

    async def aclose(self) -> None:
        await self._store.aclose()

    def _pages(
        self, request: Request, pages: AsyncIterator[Sequence[Item]]
    ) -> AsyncIterator[Sequence[Item]]:
        # All stores list by `Pages`, so that a page can be asked for again after an error.
        async def next_page() -> Sequence[Item]:
            try:
                return await anext(pages)
            except StopAsyncIteration:
                return ()

        async def fetch(_: bool) -> Page[Item, bool]:
            page = await self.run(request, next_page)
            # Without this every listing would end in a request that is none.
            is_last = isinstance(pages, Pages) and pages.is_exhausted
            return page, True if page and not is_last else None

        return Pages(fetch, True)


@dataclass(frozen=True, slots=True)
class _WrappedUpload:
    store: WrappedStore
    key: str
    upload: Upload

    @property
    def upload_id(self) -> str:
        return self.upload.upload_id

    async def put_part(self, number: int, data: Buffer) -> None:
        request = Request("put_part", (self.key,), sent_bytes=len(data))
        await self.store.run(request, lambda: self.upload.put_part(number, data))

    async def complete(self) -> Stored:
        return await self.store.run(Request("complete", (self.key,)), self.upload.complete)

    async def abort(self) -> None:
        await self.store.run(Request("abort", (self.key,)), self.upload.abort)


def _bind(
    policy: Policy, request: Request, act: Callable[[], Awaitable[T]]
) -> Callable[[], Awaitable[T]]:
    return lambda: policy(request, act)
