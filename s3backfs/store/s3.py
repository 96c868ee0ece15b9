"""A bucket of S3, or of any server that speaks its language, by boto3.

Every request runs in a worker thread, as many at a time as there are connections. Requests that
change nothing are left behind when they are cancelled. Those that write are waited for: a write
that would still arrive later could overwrite what came after it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import trio

from s3backfs.errors import (
    DeniedError,
    ObjectMissingError,
    PreconditionFailedError,
    StoreError,
    UnavailableError,
    UploadMissingError,
)
from s3backfs.store import s3_requests as requests
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
from s3backfs.store.location import S3Location
from s3backfs.store.pages import PAGE_COUNT, Page, Pages
from s3backfs.store.probing import (
    Enforced,
    UnsupportedError,
    are_borne_out,
    find_enforced,
)
from s3backfs.store.s3_client import S3Settings, make_client
from s3backfs.store.s3_errors import LIBRARY_ERRORS, Place, translate
from s3backfs.store.s3_renewal import Renewal, as_passing, is_renewable
from s3backfs.store.together import open_together

__all__ = ["S3Settings", "S3Store"]

T = TypeVar("T")


class S3Store:
    """One prefix of one bucket.

    Raises:
        ConfigurationError: the settings do not make a client.
    """

    def __init__(self, settings: S3Settings) -> None:
        client = make_client(settings)
        self._url = S3Location(settings.bucket, settings.prefix).url
        self._bucket = requests.Bucket(
            client=client,
            name=settings.bucket,
            prefix=f"{settings.prefix}/" if settings.prefix else "",
            place=Place(client.meta.endpoint_url, settings.bucket),
        )
        self._renewal = Renewal(settings)
        self._has_answered = False
        self._threads = trio.CapacityLimiter(settings.max_connections)
        self._has_conditional_put: bool | None = None
        self._quote_etags = True
        self._may_list = True
        self._deletes_many = True

    @property
    def url(self) -> str:
        return self._url

    @property
    def place(self) -> str:
        return f"{self._bucket.place.endpoint} {self._url}"

    @property
    def bucket(self) -> requests.Bucket:
        """What requests are made with now."""
        return self._bucket

    @property
    def has_conditional_put(self) -> bool | None:
        return self._has_conditional_put

    async def probe(self, key: str) -> None:
        for quote in (True, False):
            self._has_conditional_put, self._quote_etags = None, quote
            enforced = await find_enforced(self, key)
            if enforced is Enforced.ALL:
                self._has_conditional_put = True
                return
            if enforced is Enforced.NONE:
                # Another way to write an etag would change nothing.
                break
        self._has_conditional_put, self._quote_etags = False, True

    @property
    def conditions(self) -> Conditions | None:
        if self._has_conditional_put is None:
            return None
        return Conditions(self.place, self._has_conditional_put, self._quote_etags)

    async def confirm(self, key: str, data: Buffer, known: Conditions) -> bool:
        self._has_conditional_put, self._quote_etags = None, known.are_etags_quoted
        if known.place == self.place and await are_borne_out(self, key, data, known):
            self._has_conditional_put = known.are_enforced
            return True
        self._quote_etags = True
        return False

    async def run(self, request: Callable[[], T], key: str = "", *, is_write: bool = True) -> T:
        """Carry out a blocking request in a worker thread and translate its errors."""
        used = self._bucket.client
        try:
            return await self._try(request, is_write=is_write)
        except LIBRARY_ERRORS as error:
            if not await self._is_renewed(error, used):
                raise self._translated(error, key) from error
        try:
            return await self._try(request, is_write=is_write)
        except LIBRARY_ERRORS as error:
            raise self._translated(error, key) from error

    async def _try(self, request: Callable[[], T], *, is_write: bool) -> T:
        result = await trio.to_thread.run_sync(
            request, abandon_on_cancel=not is_write, limiter=self._threads
        )
        self._has_answered = True
        return result

    async def _is_renewed(self, error: Exception, refused: object) -> bool:
        """Go on with new credentials where those of a client were refused and there are others."""
        if not self._has_answered:
            # What does not work from the start is to be told, not to be waited for.
            return False
        client = await self._renewal.new_client(error)
        if client is not None:
            self._bucket = replace(self._bucket, client=client)
        # Another request may have found them first.
        return is_renewable(error) and self._bucket.client is not refused

    def _translated(self, error: Exception, key: str) -> StoreError:
        translated = translate(error, self._bucket.place, key=key)
        return as_passing(error, translated) if self._has_answered else translated

    async def read(self, request: Callable[[], T], key: str) -> T:
        """Ask for an object; where that is denied and a listing shows none, it is missing.

        A right to list that is bound to a prefix does not count when a server decides whether it
        may say that there is no such object: neither Amazon nor Ceph says it then.
        """
        try:
            return await self.run(request, key, is_write=False)
        except DeniedError as error:
            if not await self._is_unlisted(key):
                raise
            raise ObjectMissingError("no such object", key=key) from error

    async def _is_unlisted(self, key: str) -> bool:
        """Whether a listing proves that there is no such object."""
        if not self._may_list:
            return False
        try:
            found, _ = await self.run(
                lambda: requests.list_objects(self._bucket, key, ("", "")), key, is_write=False
            )
        except DeniedError:
            self._may_list = False
            return False
        return all(listed.key != key for listed in found)

    async def get(self, key: str, *, offset: int = 0, length: int | None = None) -> Fetched:
        return await self.read(lambda: requests.get_object(self._bucket, key, offset, length), key)

    async def put(self, key: str, data: Buffer, *, condition: Condition = None) -> Stored:
        if self._has_conditional_put is False:
            # Some servers answer 501 to a condition they do not know.
            condition = None
        headers = requests.condition_headers(condition, quote=self._quote_etags)
        try:
            return await self.run(
                lambda: requests.put_object(self._bucket, key, data, headers), key
            )
        except ObjectMissingError as error:
            if not isinstance(condition, IfMatch):
                raise
            raise PreconditionFailedError("there is no object", key=key) from error

    async def begin_upload(self, key: str) -> Upload:
        upload_id = await self.run(lambda: requests.create_upload(self._bucket, key), key)
        return _S3Upload(self, key, upload_id)

    def list(self, prefix: str, *, after: str = "") -> AsyncIterator[Sequence[Listed]]:
        async def fetch(cursor: requests.ListCursor) -> Page[Listed, requests.ListCursor]:
            return await self.run(
                lambda: requests.list_objects(self._bucket, prefix, cursor), prefix, is_write=False
            )

        return Pages(fetch, (after, ""))

    async def head(self, key: str) -> Listed:
        found, _ = await self.read(lambda: requests.head_object(self._bucket, key), key)
        return found

    async def copy(self, source_key: str, key: str) -> Stored:
        try:
            return await self.run(
                lambda: requests.copy_object(self._bucket, source_key, key), source_key
            )
        except UnsupportedError:
            # Ceph copies nothing that it has encrypted. What is copied are roots, which are small.
            return await self.put(key, (await self.get(source_key)).data)

    async def delete(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), PAGE_COUNT):
            await self._delete_some(keys[start : start + PAGE_COUNT])

    async def _delete_some(self, keys: Sequence[str]) -> None:
        if self._deletes_many or len(keys) == 1:
            try:
                failure = await self.run(
                    lambda: requests.delete_objects(self._bucket, keys), keys[0]
                )
            except ObjectMissingError:
                return
            except DeniedError:
                if len(keys) == 1:
                    raise
            else:
                if failure is not None:
                    raise failure
                return
        await self._delete_each(keys)
        self._deletes_many = False

    async def _delete_each(self, keys: Sequence[str]) -> None:
        """Delete by a request for each: Ceph lets nobody with a policy send one for many."""
        async with open_together() as nursery:
            for key in keys:
                nursery.start_soon(self._delete_some, [key])

    def list_uploads(self, prefix: str) -> AsyncIterator[Sequence[PendingUpload]]:
        async def fetch(
            cursor: requests.UploadCursor,
        ) -> Page[PendingUpload, requests.UploadCursor]:
            try:
                return await self.run(
                    lambda: requests.list_uploads(self._bucket, prefix, cursor),
                    prefix,
                    is_write=False,
                )
            except UnsupportedError:
                return (), None

        return Pages(fetch, ("", ""))

    async def abort_upload(self, upload: PendingUpload) -> None:
        try:
            await self.run(
                lambda: requests.abort_upload(self._bucket, upload.key, upload.upload_id),
                upload.key,
            )
        except (UploadMissingError, ObjectMissingError):
            return

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._bucket.client.close)


class _S3Upload:
    """One multipart upload; remembers what it sent."""

    def __init__(self, store: S3Store, key: str, upload_id: str) -> None:
        self._store = store
        self._key = key
        self._upload_id = upload_id
        self._etags: dict[int, str] = {}
        self._lengths: dict[int, int] = {}

    @property
    def upload_id(self) -> str:
        return self._upload_id

    async def put_part(self, number: int, data: Buffer) -> None:
        etag = await self._store.run(
            lambda: requests.upload_part(
                self._store.bucket, self._key, self._upload_id, number, data
            ),
            self._key,
        )
        self._etags[number] = etag
        self._lengths[number] = len(data)

    async def complete(self) -> Stored:
        etags = dict(self._etags)
        if not etags:
            raise StoreError("an upload needs a part", key=self._key)
        # Policies that only allow to create let nothing else pass.
        condition = IfAbsent() if self._store.has_conditional_put else None
        conditions = requests.condition_headers(condition, quote=True)
        try:
            stored = await self._store.run(
                lambda: requests.complete_upload(
                    self._store.bucket, self._key, self._upload_id, etags, conditions
                ),
                self._key,
            )
        except (
            UnavailableError,
            UploadMissingError,
            ObjectMissingError,
            PreconditionFailedError,
        ) as error:
            return await self._find_completed(error)
        # A server may answer 200, then think better of it; without an etag nothing is proven.
        return stored if stored.etag else await self._find_completed(None)

    async def _find_completed(self, cause: StoreError | None) -> Stored:
        """Look whether a complete whose answer was lost did its work."""
        failure = cause or UnavailableError("the upload was not completed", key=self._key)
        try:
            found, server_time_ns = await self._store.read(
                lambda: requests.head_object(self._store.bucket, self._key), self._key
            )
        except ObjectMissingError as error:
            if isinstance(failure, ObjectMissingError):
                raise UploadMissingError("the upload is unknown", key=self._key) from error
            raise failure from error
        except UnavailableError as error:
            raise error if isinstance(failure, UploadMissingError) else failure from error
        if found.length_bytes != sum(self._lengths.values()):
            raise failure
        return Stored(found.etag, server_time_ns)

    async def abort(self) -> None:
        await self._store.abort_upload(PendingUpload(self._key, self._upload_id, 0))
