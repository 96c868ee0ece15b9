"""What a store can do and lets us do: one table, found out by trying, never guessed from a name.

Every trial works on objects below one prefix of its own, which are removed again.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import trio

from s3backfs.errors import ObjectMissingError, RefusedError, StoreError
from s3backfs.store.base import Store
from s3backfs.store.probing import UnsupportedError

SMALLEST_PART_BYTES = 5 << 20
"""What S3 wants of all parts but the last."""

GENERAL_NAMES = ("object", "copy", "probe", "parts", "pending")
"""What `Trials` may have left below its prefix."""

S3_NAMES = ("sse-s3", "sse-kms", "sse-c", "checksum", "wrong-checksum")
"""What the trials of servers of S3 may have left."""

_CLEANUP_S = 60.0
_SAMPLE = bytes(range(256))


class Verdict(enum.StrEnum):
    """How a trial ended."""

    YES = "yes"
    NO = "no"
    REFUSED = "refused"
    FAILED = "failed"
    UNTRIED = "untried"


class LackingError(StoreError):
    """A trial found that the store does not do what was asked, whatever it answered."""


@dataclass(frozen=True, slots=True)
class Capability:
    """One row of the table."""

    name: str
    verdict: Verdict
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The table."""

    rows: tuple[Capability, ...]

    def verdict(self, name: str) -> Verdict:
        """Say how a trial ended; one that was not made is untried."""
        return next((row.verdict for row in self.rows if row.name == name), Verdict.UNTRIED)

    def has(self, *names: str) -> bool:
        """Whether all of these are there."""
        return all(self.verdict(name) is Verdict.YES for name in names)


async def try_out(name: str, trial: Callable[[], Awaitable[str | None]]) -> Capability:
    """Make one trial and judge how it ended; what it returns is told beside the verdict."""
    try:
        return Capability(name, Verdict.YES, await trial() or "")
    except RefusedError as error:
        return Capability(name, Verdict.REFUSED, str(error))
    except UnsupportedError:
        return Capability(name, Verdict.NO, "the server does not know this request")
    except LackingError as error:
        return Capability(name, Verdict.NO, str(error))
    except StoreError as error:
        return Capability(name, Verdict.FAILED, str(error))


class Trials:
    """The trials of what every store has; `prefix` ends in `/` and nothing else lies below it."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self.server_time_ns = 0
        """The server's clock when it answered the first write; 0 where unknown."""

    async def run(self) -> tuple[Capability, ...]:
        """Make all trials; what needs an object is not tried where none can be written."""
        put = await try_out("put", self._put)
        rows = [put, await try_out("list", self._list)]
        writings: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("get", self._get),
            ("ranged get", self._ranged_get),
            ("conditional put", self._conditional_put),
            ("multipart", self._multipart),
            ("list uploads", self._list_uploads),
            ("copy", self._copy),
            ("delete", self._delete),
        ]
        for name, trial in writings:
            is_tried = put.verdict is Verdict.YES
            rows.append(await try_out(name, trial) if is_tried else _untried(name))
        return tuple(rows)

    def _key(self, name: str) -> str:
        return self._prefix + name

    async def _put(self) -> None:
        stored = await self._store.put(self._key("object"), _SAMPLE)
        self.server_time_ns = stored.server_time_ns

    async def _get(self) -> None:
        fetched = await self._store.get(self._key("object"))
        _require(fetched.data == _SAMPLE, "the object came back with other bytes")

    async def _ranged_get(self) -> None:
        middle = await self._store.get(self._key("object"), offset=100, length=10)
        tail = await self._store.get(self._key("object"), offset=-5)
        is_right = middle.data == _SAMPLE[100:110] and tail.data == _SAMPLE[-5:]
        _require(is_right, "a range came back with other bytes")

    async def _conditional_put(self) -> None:
        await self._store.probe(self._key("probe"))
        _require(bool(self._store.has_conditional_put), "conditions are ignored")

    async def _multipart(self) -> None:
        upload = await self._store.begin_upload(self._key("parts"))
        try:
            await upload.put_part(1, os.urandom(SMALLEST_PART_BYTES))
            await upload.put_part(2, _SAMPLE)
            await upload.complete()
            found = await self._store.head(self._key("parts"))
        except BaseException:
            with trio.move_on_after(_CLEANUP_S, shield=True), suppress(StoreError):
                await upload.abort()
            raise
        is_whole = found.length_bytes == SMALLEST_PART_BYTES + len(_SAMPLE)
        _require(is_whole, "the object is not as long as its parts")

    async def _list(self) -> None:
        async for _ in self._store.list(self._prefix):
            return

    async def _list_uploads(self) -> None:
        upload = await self._store.begin_upload(self._key("pending"))
        try:
            pages = [page async for page in self._store.list_uploads(self._prefix)]
        finally:
            with trio.move_on_after(_CLEANUP_S, shield=True), suppress(StoreError):
                await upload.abort()
        found = [pending.upload_id for page in pages for pending in page]
        _require(upload.upload_id in found, "an upload that is under way is not listed")

    async def _copy(self) -> None:
        await self._store.copy(self._key("object"), self._key("copy"))
        fetched = await self._store.get(self._key("copy"))
        _require(fetched.data == _SAMPLE, "the copy has other bytes")

    async def _delete(self) -> None:
        await self._store.delete([self._key("object"), self._key("copy")])
        try:
            await self._store.get(self._key("object"))
        except ObjectMissingError:
            return
        except RefusedError:
            # Without the right to list, what is missing is refused.
            return
        raise LackingError("a deleted object is still there")


def _untried(name: str) -> Capability:
    return Capability(name, Verdict.UNTRIED, "nothing can be written")


def _require(holds: bool, text: str) -> None:
    if not holds:
        raise LackingError(text)
