"""The requests of S3 as blocking functions, and what their answers mean.

Each runs in a worker thread and touches nothing but its arguments. They raise what boto3 raises.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import ClientError

from s3backfs.errors import StoreError, UnavailableError
from s3backfs.store.base import (
    Buffer,
    Condition,
    Fetched,
    IfAbsent,
    IfMatch,
    Listed,
    PendingUpload,
    Stored,
)
from s3backfs.store.pages import Page
from s3backfs.store.s3_client import request_body
from s3backfs.store.s3_errors import Place, translate

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_RANGE_NOT_SATISFIABLE = 416


@dataclass(frozen=True, slots=True)
class Bucket:
    """The client, and the part of a bucket that is ours; `prefix` is empty or ends in `/`."""

    # Any: the types of boto3's generated methods are only in a stub package of the developers.
    client: Any
    name: str
    prefix: str
    place: Place

    def full_key(self, key: str) -> str:
        return self.prefix + key

    def own_key(self, full_key: str) -> str:
        return full_key.removeprefix(self.prefix)


# -- pure ------------------------------------------------------------------------------------


def range_header(offset: int, length: int | None) -> str | None:
    """Write the Range header for a get, None where the whole object is wanted."""
    if offset < 0:
        return f"bytes={offset}"
    if length is None:
        return f"bytes={offset}-" if offset else None
    return f"bytes={offset}-{offset + length - 1}"


def cut_answer(
    data: bytes, content_range: str | None, offset: int, length: int | None
) -> tuple[bytes, int]:
    """Take the wanted bytes out of an answer, and the object's length.

    Content-Range counts and not the status: some servers answer a range with 200, some ignore it.

    Raises:
        UnavailableError: the answer lacks bytes that the object has.
    """
    first, total = 0, len(data)
    if content_range is not None:
        match = _CONTENT_RANGE.fullmatch(content_range.strip())
        if match is None:
            raise StoreError(f"the server gave no length ({content_range[:80]!r})")
        first, total = int(match[1]), int(match[3])
    wanted = max(0, total + offset) if offset < 0 else min(offset, total)
    end = total if length is None else min(total, wanted + length)
    if first > wanted or first + len(data) < end:
        raise UnavailableError(f"the answer broke off after {len(data)} bytes")
    return data[wanted - first : end - first], total


def condition_headers(condition: Condition, *, quote: bool) -> dict[str, str]:
    """Write a condition as boto3's arguments; some servers want the etag without its quotes."""
    match condition:
        case IfAbsent():
            return {"IfNoneMatch": "*"}
        case IfMatch(etag):
            return {"IfMatch": f'"{etag}"' if quote else etag}
        case None:
            return {}


def time_ns(moment: datetime | None) -> int:
    """Turn a time of boto3 into nanoseconds, 0 where there is none."""
    if moment is None:
        return 0
    return calendar.timegm(moment.utctimetuple()) * 1_000_000_000 + moment.microsecond * 1000


def server_time_ns(answer: dict[str, Any]) -> int:
    """Read the store's clock from the Date header, 0 where it is missing or no date."""
    text = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        return time_ns(parsedate_to_datetime(text))
    except (ValueError, TypeError):
        return 0


def _status_of(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _etag(answer: dict[str, Any]) -> str:
    return str(answer.get("ETag") or "").strip('"')


def _stored(answer: dict[str, Any]) -> Stored:
    return Stored(_etag(answer), server_time_ns(answer))


# -- objects ---------------------------------------------------------------------------------


def get_object(bucket: Bucket, key: str, offset: int, length: int | None) -> Fetched:
    """Read an object or a range of it."""
    if length == 0:
        return _get_nothing(bucket, key)
    wanted = range_header(offset, length)
    ranged = {"Range": wanted} if wanted else {}
    try:
        answer = bucket.client.get_object(Bucket=bucket.name, Key=bucket.full_key(key), **ranged)
    except ClientError as error:
        if _status_of(error) != _RANGE_NOT_SATISFIABLE:
            raise
        nothing = _get_nothing(bucket, key)
        # Some servers refuse a tail that is longer than the object.
        is_whole = offset < 0 < nothing.total_bytes <= -offset
        return get_object(bucket, key, 0, length) if is_whole else nothing
    # As a context manager the body would give its raw stream, which does not check the length.
    with closing(answer["Body"]) as body:
        received = body.read()
    data, total = cut_answer(received, answer.get("ContentRange"), offset, length)
    return Fetched(data, total, _etag(answer), server_time_ns(answer))


def _get_nothing(bucket: Bucket, key: str) -> Fetched:
    """Answer a range that holds no byte, which S3 can not."""
    answer = bucket.client.head_object(Bucket=bucket.name, Key=bucket.full_key(key))
    return Fetched(b"", int(answer["ContentLength"]), _etag(answer), server_time_ns(answer))


def put_object(bucket: Bucket, key: str, data: Buffer, conditions: dict[str, str]) -> Stored:
    """Write an object whole."""
    answer = bucket.client.put_object(
        Bucket=bucket.name, Key=bucket.full_key(key), Body=request_body(data), **conditions
    )
    return _stored(answer)


def head_object(bucket: Bucket, key: str) -> tuple[Listed, int]:
    """Ask for length and etag; the second value is the server's time."""
    answer = bucket.client.head_object(Bucket=bucket.name, Key=bucket.full_key(key))
    found = Listed(
        key, int(answer["ContentLength"]), _etag(answer), time_ns(answer.get("LastModified"))
    )
    return found, server_time_ns(answer)


def copy_object(bucket: Bucket, source_key: str, key: str) -> Stored:
    """Copy inside the bucket; a copy counts only if the answer has an etag."""
    answer = bucket.client.copy_object(
        Bucket=bucket.name,
        Key=bucket.full_key(key),
        CopySource={"Bucket": bucket.name, "Key": bucket.full_key(source_key)},
    )
    result = answer.get("CopyObjectResult", {})
    if not _etag(result):
        raise StoreError("the server did not say that it copied", key=key)
    return Stored(_etag(result), server_time_ns(answer))


def delete_objects(bucket: Bucket, keys: Sequence[str]) -> StoreError | None:
    """Delete up to 1000 objects by one request; return what was wrong with one of them."""
    if len(keys) == 1:
        bucket.client.delete_object(Bucket=bucket.name, Key=bucket.full_key(keys[0]))
        return None
    objects = [{"Key": bucket.full_key(key)} for key in keys]
    answer = bucket.client.delete_objects(
        Bucket=bucket.name, Delete={"Objects": objects, "Quiet": True}
    )
    for failed in answer.get("Errors", []):
        if failed.get("Code") not in ("NoSuchKey", "NoSuchVersion"):
            error = ClientError({"Error": failed}, "DeleteObjects")
            return translate(error, bucket.place, key=bucket.own_key(str(failed.get("Key", ""))))
    return None


ListCursor = tuple[str, str]
"""The key to begin behind, and the server's token for the next page."""


def list_objects(bucket: Bucket, prefix: str, cursor: ListCursor) -> Page[Listed, ListCursor]:
    """List one page."""
    after, token = cursor
    start = {"ContinuationToken": token} if token else {}
    if after and not token:
        start = {"StartAfter": bucket.full_key(after)}
    answer = bucket.client.list_objects_v2(
        Bucket=bucket.name, Prefix=bucket.full_key(prefix), **start
    )
    page = [
        Listed(
            bucket.own_key(found["Key"]),
            int(found["Size"]),
            _etag(found),
            time_ns(found.get("LastModified")),
        )
        for found in answer.get("Contents", [])
    ]
    if not answer.get("IsTruncated"):
        return page, None
    token = str(answer.get("NextContinuationToken") or "")
    if not token and not page:
        raise StoreError("the server promised another page of a listing and named none")
    return page, (page[-1].key if page else after, token)


# -- multipart uploads -----------------------------------------------------------------------


def create_upload(bucket: Bucket, key: str) -> str:
    """Begin a multipart upload and return its id."""
    answer = bucket.client.create_multipart_upload(Bucket=bucket.name, Key=bucket.full_key(key))
    return str(answer["UploadId"])


def upload_part(bucket: Bucket, key: str, upload_id: str, number: int, data: Buffer) -> str:
    """Send one part and return its etag as the server wrote it."""
    answer = bucket.client.upload_part(
        Bucket=bucket.name,
        Key=bucket.full_key(key),
        UploadId=upload_id,
        PartNumber=number,
        Body=request_body(data),
    )
    return str(answer["ETag"])


def complete_upload(
    bucket: Bucket, key: str, upload_id: str, etags: dict[int, str], conditions: dict[str, str]
) -> Stored:
    """Make the object of its parts; the etag is empty on some servers."""
    parts = [{"PartNumber": number, "ETag": etag} for number, etag in sorted(etags.items())]
    answer = bucket.client.complete_multipart_upload(
        Bucket=bucket.name,
        Key=bucket.full_key(key),
        UploadId=upload_id,
        MultipartUpload={"Parts": parts},
        **conditions,
    )
    return _stored(answer)


def abort_upload(bucket: Bucket, key: str, upload_id: str) -> None:
    """Give a multipart upload up."""
    bucket.client.abort_multipart_upload(
        Bucket=bucket.name, Key=bucket.full_key(key), UploadId=upload_id
    )


UploadCursor = tuple[str, str]
"""The markers of key and upload id."""


def list_uploads(
    bucket: Bucket, prefix: str, cursor: UploadCursor
) -> Page[PendingUpload, UploadCursor]:
    """List one page of the multipart uploads under way."""
    markers = {"KeyMarker": cursor[0], "UploadIdMarker": cursor[1]} if cursor[0] else {}
    answer = bucket.client.list_multipart_uploads(
        Bucket=bucket.name, Prefix=bucket.full_key(prefix), **markers
    )
    page = [
        PendingUpload(
            bucket.own_key(found["Key"]), str(found["UploadId"]), time_ns(found.get("Initiated"))
        )
        for found in answer.get("Uploads", [])
    ]
    following = (str(answer.get("NextKeyMarker", "")), str(answer.get("NextUploadIdMarker", "")))
    return page, following if answer.get("IsTruncated") and following[0] else None
