"""Encryption by the server, asked for on every request that takes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from s3backfs.errors import ConfigurationError, EncryptionRefusedError
from s3backfs.store.s3 import S3Settings, S3Store
from s3backfs.store.s3_sse import ServerEncryption, parameters_for, read_customer_key
from tests.servers import ACCESS_KEY, SECRET_KEY, Server, moto_server
from tests.store.canned import answer, canned_server, error_answer

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that keeps what was asked for."""
    with moto_server() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.mark.parametrize(
    ("mode", "algorithm", "key"),
    [("AES256", "AES256", None), ("aws:kms:some-key", "aws:kms", "some-key")],
)
async def test_modes_are_stored(server: Server, mode: str, algorithm: str, key: str | None) -> None:
    """Objects that were put, copied or uploaded in parts have the encryption asked for."""
    bucket = server.make_bucket("sse")
    store = S3Store(S3Settings(bucket, encryption=ServerEncryption(mode)))
    await store.put("put", b"1")
    await store.copy("put", "copied")
    upload = await store.begin_upload("parts")
    await upload.put_part(1, b"2")
    await upload.complete()
    client = server.client()
    for name in ("put", "copied", "parts"):
        found: dict[str, Any] = client.head_object(Bucket=bucket, Key=name)
        assert found["ServerSideEncryption"] == algorithm, name
        assert key is None or found["SSEKMSKeyId"].endswith(key)
        assert (await store.get(name)).data in (b"1", b"2")
    client.close()
    await store.aclose()


def test_customer_keys_are_on_reads_and_writes() -> None:
    """With SSE-C reading, writing and copying take the key; deleting does not."""
    encryption = ServerEncryption(customer_key=b"k" * 32)
    for operation in ("PutObject", "GetObject", "HeadObject", "UploadPart"):
        assert parameters_for(operation, encryption)["SSECustomerKey"] == b"k" * 32
    assert parameters_for("CopyObject", encryption)["CopySourceSSECustomerKey"] == b"k" * 32
    assert parameters_for("DeleteObject", encryption) == {}
    assert "kkk" not in repr(encryption)


@pytest.mark.parametrize("mode", ["aes256", "aws:kms:", "rot13"])
def test_bad_modes(mode: str) -> None:
    """A mode that no server knows is told."""
    with pytest.raises(ConfigurationError, match="--sse"):
        ServerEncryption(mode)


REFUSALS = [
    # As Ceph, LocalStack and Amazon word it.
    ("400 Bad Request", "InvalidArgument", "The calculated MD5 hash of the key did not match the "
     "hash that was provided.", "by --sse-c-key-file"),
    ("403 Forbidden", "AccessDenied", "Requests specifying Server Side Encryption with Customer "
     "provided keys must provide the correct secret key.", "by --sse-c-key-file"),
    ("400 Bad Request", "InvalidRequest", "The object was stored using a form of Server Side "
     "Encryption. The correct parameters must be provided to retrieve the object.",
     "by --sse-c-key-file"),
    ("400 Bad Request", "InvalidArgument", "Requests specifying Server Side Encryption with "
     "Customer provided keys must be made over a secure connection.", "https://"),
    ("403 Forbidden", "AccessDenied", "User: arn:aws:iam::1:user/u is not authorized to perform: "
     "kms:GenerateDataKey on resource: arn:aws:kms:eu-west-1:1:key/k", "kms:Decrypt"),
    ("403 Forbidden", "InvalidAccessKeyId", "Failed to retrieve the actual key, kms-keyid: k",
     "--sse aws:kms:KEY"),
    ("400 Bad Request", "KMS.DisabledException", "arn:aws:kms:eu-west-1:1:key/k is disabled.",
     "--sse aws:kms:KEY"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "code", "message", "remedy"), REFUSALS)
async def test_what_encryption_refuses_says_so(
    status: str, code: str, message: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong key and a key that may not be used are one line each, and no matter of credentials.

    They are never taken for an object that is missing, either.
    """
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    good, bad = answer("200 OK", b"", 'ETag: "e"'), error_answer(status, code, message)
    with canned_server(good, bad) as canned:
        store = S3Store(S3Settings("bucket", endpoint_url=canned.endpoint, region="us-east-1"))
        await store.put("one", b"x")
        with pytest.raises(EncryptionRefusedError) as caught:
            await store.get("one")
    assert remedy in str(caught.value)
    assert "access key, the secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_customer_key_files(tmp_path: Path) -> None:
    """A key is read as bytes and as digits; anything else is refused."""
    path = tmp_path / "key"
    for data in (b"\x01" * 32, b"01" * 32 + b"\n"):
        path.write_bytes(data)
        assert read_customer_key(path) == b"\x01" * 32
    for data in (b"", b"01" * 31, b"zz" * 32):
        path.write_bytes(data)
        with pytest.raises(ConfigurationError, match="32 bytes"):
            read_customer_key(path)
