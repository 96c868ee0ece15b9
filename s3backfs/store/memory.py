"""A store in memory, for tests and models: the contract and nothing else.

It is as strict as the strictest server: keys are checked, small parts are refused, etags say
no more than the content does.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import trio
from blake3 import blake3

from s3backfs.errors import (
    ObjectMissingError,
    PreconditionFailedError,
    StoreError,
    UploadMissingError,
)
from s3backfs.store.base import (
    Buffer,
    Condition,
    Conditions,
    Fetched,
    IfAbsent,
    IfMatch,
    Listed,
    PendingUpload,
    Stored,
    Upload,
)
from s3backfs.store.keys import check_key
from s3backfs.store.pages import PAGE_COUNT, Page, Pages
from s3backfs.store.probing import are_borne_out, are_conditions_enforced

SMALLEST_PART_BYTES = 5 << 20


@dataclass(frozen=True, slots=True)
class _Object:
    data: bytes
    etag: str
    modified_ns: int

    def listed_as(self, key: str) -> Listed:
        return Listed(key, len(self.data), self.etag, self.modified_ns)


@dataclass(slots=True)
class _Parts:
    key: str
    started_ns: int
    bodies: dict[int, bytes] = field(default_factory=dict)


def _slice_of(data: bytes, offset: int, length: int | None) -> bytes:
    first = max(0, len(data) + offset) if offset < 0 else offset
    return data[first:] if length is None else data[first : first + length]


class MemoryStore:
    """Objects in a dictionary.

    `smallest_part_bytes` is S3's own rule by default; `clock` gives the server's time.
    """

    def __init__(
        self,
        objects: Mapping[str, bytes] | None = None,
        *,
        clock: Callable[[], int] = time.time_ns,
        enforce_conditions: bool = True,
        smallest_part_bytes: int = SMALLEST_PART_BYTES,
    ) -> None:
        self._clock = clock
        self._enforce_conditions = enforce_conditions
        self._smallest_part_bytes = smallest_part_bytes
        self._has_conditional_put: bool | None = None
        self._objects: dict[str, _Object] = {}
        self._uploads: dict[str, _Parts] = {}
        self._upload_count = 0
        for key, data in (objects or {}).items():
            self._write(key, data)

    @property
    def url(self) -> str:
        return "memory:"

    @property
    def place(self) -> str:
        return self.url

    @property
    def has_conditional_put(self) -> bool | None:
        return self._has_conditional_put

    @property
    def conditions(self) -> Conditions | None:
        found = self._has_conditional_put
        return None if found is None else Conditions(self.url, found)

    async def confirm(self, key: str, data: Buffer, known: Conditions) -> bool:
        is_so = known.place == self.url and await are_borne_out(self, key, data, known)
        self._has_conditional_put = known.are_enforced if is_so else None
        return is_so

    @property
    def objects(self) -> dict[str, bytes]:
        """A copy of all objects as they are now."""
        return {key: found.data for key, found in self._objects.items()}

    def damage(self, key: str, data: bytes) -> None:
        """Replace an object's bytes behind everybody's back; its etag and time stay."""
        found = self._find(key)
        self._objects[key] = _Object(data, found.etag, found.modified_ns)

    def _find(self, key: str) -> _Object:
        check_key(key)
        try:
            return self._objects[key]
        except KeyError:
            raise ObjectMissingError("no such object", key=key) from None

    def _write(self, key: str, data: bytes) -> Stored:
        check_key(key)
        self._check_not_nested(key)
        now_ns = self._clock()
        # As with S3, equal content has an equal etag: nobody may rely on more.
        written = _Object(data, blake3(data).hexdigest(length=16), now_ns)
        self._objects[key] = written
        return Stored(written.etag, now_ns)

    def _check_not_nested(self, key: str) -> None:
        if key in self._objects:
            return
        for other in self._objects:
            if other.startswith(key + "/") or key.startswith(other + "/"):
                raise StoreError(f"{other} lies in the way", key=key)

    def _check_condition(self, key: str, condition: Condition) -> None:
        found = self._objects.get(key)
        match condition:
            case IfAbsent() if found is not None:
                raise PreconditionFailedError("the object exists", key=key)
            case IfMatch(etag) if found is None or found.etag != etag:
                raise PreconditionFailedError("the object is another", key=key)
            case _:
                return

    async def probe(self, key: str) -> None:
        self._has_conditional_put = await are_conditions_enforced(self, key)

    async def get(self, key: str, *, offset: int = 0, length: int | None = None) -> Fetched:
        await trio.lowlevel.checkpoint()
        found = self._find(key)
        data = _slice_of(found.data, offset, length)
        return Fetched(data, len(found.data), found.etag, self._clock())

    async def put(self, key: str, data: Buffer, *, condition: Condition = None) -> Stored:
        await trio.lowlevel.checkpoint()
        if self._enforce_conditions:
            self._check_condition(key, condition)
        return self._write(key, bytes(data))

    async def begin_upload(self, key: str) -> Upload:
        await trio.lowlevel.checkpoint()
        check_key(key)
        self._upload_count += 1
        upload_id = f"upload-{self._upload_count}"
        self._uploads[upload_id] = _Parts(key, self._clock())
        return _MemoryUpload(self, key, upload_id)

    def put_part(self, upload_id: str, number: int, data: bytes) -> None:
        """Keep one part; only `_MemoryUpload` calls this."""
        if not 1 <= number <= 10_000:
            raise StoreError(f"no part can have the number {number}")
        self._parts_of(upload_id).bodies[number] = data

    def complete_upload(self, key: str, upload_id: str) -> Stored:
        """Make the object of its parts; only `_MemoryUpload` calls this."""
        if upload_id not in self._uploads and key in self._objects:
            return Stored(self._objects[key].etag, self._clock())
        parts = self._parts_of(upload_id)
        bodies = [body for _, body in sorted(parts.bodies.items())]
        self._check_parts(parts.key, bodies)
        stored = self._write(parts.key, b"".join(bodies))
        del self._uploads[upload_id]
        return stored

    def _parts_of(self, upload_id: str) -> _Parts:
        try:
            return self._uploads[upload_id]
        except KeyError:
            raise UploadMissingError("the upload is unknown") from None

    def _check_parts(self, key: str, bodies: Sequence[bytes]) -> None:
        if not bodies:
            raise StoreError("an upload needs a part", key=key)
        sizes = {len(body) for body in bodies[:-1]}
        if len(sizes) > 1 or (sizes and min(sizes) < self._smallest_part_bytes):
            raise StoreError("parts are too small or not of one size", key=key)
        if sizes and len(bodies[-1]) > min(sizes):
            raise StoreError("the last part is larger than the others", key=key)

    def list(self, prefix: str, *, after: str = "") -> AsyncIterator[Sequence[Listed]]:
        async def fetch(cursor: str) -> Page[Listed, str]:
            await trio.lowlevel.checkpoint()
            keys = sorted(k for k in self._objects if k.startswith(prefix) and k > cursor)
            page = [self._objects[key].listed_as(key) for key in keys[:PAGE_COUNT]]
            return page, page[-1].key if len(keys) > PAGE_COUNT else None

        return Pages(fetch, after)

    async def head(self, key: str) -> Listed:
        await trio.lowlevel.checkpoint()
        return self._find(key).listed_as(key)

    async def copy(self, source_key: str, key: str) -> Stored:
        await trio.lowlevel.checkpoint()
        return self._write(key, self._find(source_key).data)

    async def delete(self, keys: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()
        for key in keys:
            check_key(key)
            self._objects.pop(key, None)

    def list_uploads(self, prefix: str) -> AsyncIterator[Sequence[PendingUpload]]:
        async def fetch(_: str) -> Page[PendingUpload, str]:
            await trio.lowlevel.checkpoint()
            found = [
                PendingUpload(parts.key, upload_id, parts.started_ns)
                for upload_id, parts in self._uploads.items()
                if parts.key.startswith(prefix)
            ]
            return sorted(found, key=lambda upload: (upload.key, upload.upload_id)), None

        return Pages(fetch, "")

    async def abort_upload(self, upload: PendingUpload) -> None:
        await trio.lowlevel.checkpoint()
        self._uploads.pop(upload.upload_id, None)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@dataclass(frozen=True, slots=True)
class _MemoryUpload:
    store: MemoryStore
    key: str
    upload_id: str

    async def put_part(self, number: int, data: Buffer) -> None:
        await trio.lowlevel.checkpoint()
        self.store.put_part(self.upload_id, number, bytes(data))

    async def complete(self) -> Stored:
        await trio.lowlevel.checkpoint()
        return self.store.complete_upload(self.key, self.upload_id)

    async def abort(self) -> None:
        await self.store.abort_upload(PendingUpload(self.key, self.upload_id, 0))
