"""The contract of an object store, as everything above sees it.

Keys are ASCII `str` below the repository's prefix, parts joined by `/`; no key is also a
directory of another, none has `//` or `..` or a part above 255 bytes. Objects are written whole:
a reader sees the old object or the new one, never a mixture. A write that returned is durable and
visible to every later get, head and list. Errors are those of `s3backfs.errors` (StoreError and
its children), nothing else.

`tests/store/test_contract.py` holds every implementation to this text.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a get answered: `data` may be shorter than asked for only where the object ends."""

    data: bytes
    total_bytes: int
    """Length of the whole object, whatever range was asked for."""
    etag: str
    server_time_ns: int
    """The store's own clock when it answered (HTTP `Date`); 0 where unknown."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A write that is durable."""

    etag: str
    server_time_ns: int


@dataclass(frozen=True, slots=True)
class Listed:
    """One object in a listing, or a head."""

    key: str
    length_bytes: int
    etag: str
    modified_ns: int


@dataclass(frozen=True, slots=True)
class PendingUpload:
    """A multipart upload that was begun and neither completed nor aborted."""

    key: str
    upload_id: str
    started_ns: int


@dataclass(frozen=True, slots=True)
class IfAbsent:
    """Write only if no object has the key."""


@dataclass(frozen=True, slots=True)
class IfMatch:
    """Write only over the object with this etag."""

    etag: str


Condition: TypeAlias = IfAbsent | IfMatch | None


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a probe found out about conditions, worth remembering."""

    place: str
    """Endpoint, bucket and prefix; elsewhere it means nothing."""
    are_enforced: bool
    are_etags_quoted: bool = True


class Upload(Protocol):
    """One multipart upload. Parts may be sent in any order and again; numbers begin at 1."""

    @property
    def upload_id(self) -> str: ...

    async def put_part(self, number: int, data: Buffer) -> None:
        """Send one part; all but the last are of one size, at least 5 MiB."""

    async def complete(self) -> Stored:
        """Make the object of the parts in order of their numbers; on return it is durable.

        Uploads are for keys that nobody has used: some stores refuse to replace an object by one.

        Raises:
            UploadMissingError: the store forgot the upload and there is no such object.
        """

    async def abort(self) -> None:
        """Give the upload up; its parts are freed. Unknown uploads are no error."""


class Store(Protocol):
    """An object store below one prefix."""

    @property
    def url(self) -> str:
        """How a person would name this store; no secret is in it."""

    @property
    def place(self) -> str:
        """What tells this store from all others: the URL, and the endpoint where there is one."""

    @property
    def has_conditional_put(self) -> bool | None:
        """Whether conditions are enforced: proven by `probe`, None before it."""

    async def probe(self, key: str) -> None:
        """Find out whether conditions are enforced, by writing `key` twice and deleting it."""

    @property
    def conditions(self) -> Conditions | None:
        """What `probe` found, or `confirm` took over; None before."""

    async def confirm(self, key: str, data: Buffer, known: Conditions) -> bool:
        """Take over what an earlier probe found, if the store bears it out, else say False.

        The object `key` is there and holds `data`; it may be written again with the same bytes.
        Enforcement costs two requests, which are refused; the lack of it one.

        Raises:
            StoreError: the store would not say.
        """

    async def get(self, key: str, *, offset: int = 0, length: int | None = None) -> Fetched:
        """Read an object or a range of it; a negative offset counts from the end.

        Raises:
            ObjectMissingError: no such object.
            UnavailableError: can be retried.
            RefusedError, BucketMissingError: cannot.
        """

    async def put(self, key: str, data: Buffer, *, condition: Condition = None) -> Stored:
        """Write an object whole.

        Raises:
            PreconditionFailedError: `condition` did not hold (where conditions are enforced).
        """

    async def begin_upload(self, key: str) -> Upload:
        """Begin a multipart upload."""

    def list(self, prefix: str, *, after: str = "") -> AsyncIterator[Sequence[Listed]]:
        """Pages of what lies below `prefix`, sorted by key, beginning behind the key `after`."""

    async def head(self, key: str) -> Listed:
        """Length and etag of one object.

        Raises:
            ObjectMissingError: no such object.
        """

    async def copy(self, source_key: str, key: str) -> Stored:
        """Copy inside the store without moving the bytes through this machine."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; missing ones are no error."""

    def list_uploads(self, prefix: str) -> AsyncIterator[Sequence[PendingUpload]]:
        """Multipart uploads under way below `prefix`; empty where the store cannot say."""

    async def abort_upload(self, upload: PendingUpload) -> None:
        """Abort an upload found by `list_uploads`."""

    async def aclose(self) -> None:
        """Release connections and threads."""
