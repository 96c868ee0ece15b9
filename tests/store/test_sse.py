"""Encryption by the server, asked for on every request that takes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from s3backfs.errors import ConfigurationError
from s3backfs.store.s3 import S3Settings, S3Store
from s3backfs.store.s3_sse import ServerEncryption, parameters_for, read_customer_key
from tests.servers import Server, moto_server

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
