"""What only servers of S3 have: versions, locks, encryption of their own, checksums, regions."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from s3backfs.errors import ObjectMissingError, StoreError
from s3backfs.store.capabilities import Capability, LackingError, try_out
from s3backfs.store.probing import UnsupportedError
from s3backfs.store.s3 import S3Store

_BODY = b"sample of s3backfs doctor"
_WRONG_CRC32 = "AAAAAA=="
_LONGEST_PAGES = 10
_NOT_SWITCHED_ON = "not switched on for this bucket"

Trial = Callable[[], Awaitable[str | None]]


class S3Trials:
    """The trials of one S3 store; the store must not ask for encryption by itself."""

    def __init__(self, store: S3Store, prefix: str, *, kms_key_id: str = "") -> None:
        self._store = store
        self._prefix = prefix
        self._kms = {"SSEKMSKeyId": kms_key_id} if kms_key_id else {}
        self._may_have_versions = True

    async def run(self, *, can_put: bool) -> tuple[Capability, ...]:
        """Make all trials, but without the right to put only those that ask about the bucket."""
        trials: list[tuple[str, Trial]] = [
            ("versioning", self._versioning),
            ("object lock", self._object_lock),
        ]
        if can_put:
            trials += [
                ("sse-s3", partial(self._sse, "sse-s3", ServerSideEncryption="AES256")),
                (
                    "sse-kms",
                    partial(self._sse, "sse-kms", ServerSideEncryption="aws:kms", **self._kms),
                ),
                ("sse-c", self._sse_c),
                ("checksums", self._checksums),
                ("verified checksums", self._verified_checksums),
            ]
        return tuple([await try_out(name, trial) for name, trial in trials])

    @property
    def may_have_versions(self) -> bool:
        """Whether a deletion may leave something behind; known once the trials have run."""
        return self._may_have_versions

    async def region(self) -> str:
        """Say the bucket's region as the server names it, else the one that requests are for."""
        try:
            answer = await self._ask("head_bucket")
        except StoreError:
            answer = {}
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        named = headers.get("x-amz-bucket-region") or answer.get("BucketRegion")
        return str(named or self._store.bucket.client.meta.region_name or "")

    @property
    def endpoint(self) -> str:
        """Where requests go."""
        return str(self._store.bucket.client.meta.endpoint_url)

    async def _ask(self, operation: str, **parameters: Any) -> Any:
        bucket = self._store.bucket
        call = getattr(bucket.client, operation)
        return await self._store.run(lambda: call(Bucket=bucket.name, **parameters))

    async def _put(self, name: str, **parameters: Any) -> Any:
        return await self._ask("put_object", Key=self._key(name), Body=_BODY, **parameters)

    def _key(self, name: str) -> str:
        return self._store.bucket.full_key(self._prefix + name)

    async def _versioning(self) -> None:
        try:
            status = (await self._ask("get_bucket_versioning")).get("Status", "")
        except UnsupportedError:
            self._may_have_versions = False
            raise
        self._may_have_versions = bool(status)
        _require(status == "Enabled", _NOT_SWITCHED_ON)

    async def _object_lock(self) -> str:
        try:
            answer = await self._ask("get_object_lock_configuration")
        except ObjectMissingError as error:
            raise LackingError(_NOT_SWITCHED_ON) from error
        lock = answer.get("ObjectLockConfiguration", {})
        _require(lock.get("ObjectLockEnabled") == "Enabled", _NOT_SWITCHED_ON)
        kept = lock.get("Rule", {}).get("DefaultRetention", {}).get("Mode", "")
        return f"default retention: {kept}" if kept else "no default retention"

    async def _sse(self, name: str, **wanted: str) -> str:
        await self._put(name, **wanted)
        found = await self._ask("head_object", Key=self._key(name))
        is_said = found.get("ServerSideEncryption") == wanted["ServerSideEncryption"]
        _require(is_said, "accepted, but the object is not said to be encrypted")
        return "says the server"

    async def _sse_c(self) -> None:
        key = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": os.urandom(32)}
        await self._put("sse-c", **key)
        await self._ask("head_object", Key=self._key("sse-c"), **key)
        try:
            await self._ask("get_object", Key=self._key("sse-c"))
        except StoreError:
            return
        raise LackingError("accepted, but the object can be read without the key")

    async def _checksums(self) -> None:
        await self._put("checksum", ChecksumAlgorithm="CRC32")

    async def _verified_checksums(self) -> None:
        try:
            await self._put("wrong-checksum", ChecksumCRC32=_WRONG_CRC32)
        except StoreError:
            return
        raise LackingError("a wrong checksum is taken; this program has checks of its own")

    async def remove_versions(self) -> str:
        """Remove all versions below the prefix; say why some stay, or nothing."""
        prefix = self._store.bucket.full_key(self._prefix)
        for _ in range(_LONGEST_PAGES if self._may_have_versions else 0):
            try:
                answer = await self._ask("list_object_versions", Prefix=prefix)
                found = [*answer.get("Versions", []), *answer.get("DeleteMarkers", [])]
                if not found:
                    return ""
                for version in found:
                    await self._ask(
                        "delete_object", Key=version["Key"], VersionId=version["VersionId"]
                    )
            except UnsupportedError:
                return ""
            except StoreError as error:
                return f"old versions of test objects stay: {error}"
        return "old versions of test objects stay" if self._may_have_versions else ""


def _require(holds: bool, text: str) -> None:
    if not holds:
        raise LackingError(text)
