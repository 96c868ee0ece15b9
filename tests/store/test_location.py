"""Repository URLs."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3backfs.errors import ConfigurationError
from s3backfs.store.local import LocalStore
from s3backfs.store.location import LocalLocation, Location, S3Location, parse_url
from s3backfs.store.open import open_store
from s3backfs.store.s3 import S3Store


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("s3://bucket", S3Location("bucket")),
        ("s3://bucket/", S3Location("bucket")),
        ("S3://bucket/a/b/", S3Location("bucket", "a/b")),
        ("s3://my.bucket-1/über uns", S3Location("my.bucket-1", "über uns")),
        ("file:///srv/backup", LocalLocation(Path("/srv/backup"))),
        ("file:///srv/a%20b/", LocalLocation(Path("/srv/a b"))),
        ("file://localhost/srv", LocalLocation(Path("/srv"))),
    ],
)
def test_urls_are_read(url: str, location: Location) -> None:
    """Bucket and prefix, or an absolute directory; its own URL leads to the location again."""
    assert parse_url(url) == location
    assert parse_url(location.url) == location


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/srv/backup",
        "bucket/prefix",
        "s3:bucket",
        "s3://",
        "s3:///prefix",
        "s3://b",
        "s3://-bucket",
        "s3://bucket..name/x",
        "s3://bucket/a//b",
        "s3://bucket/a/../b",
        "s3://bucket/a?versionId=1",
        "s3://bucket/a\nb",
        "s3://bucket/" + "x" * 600,
        "s3://bucket:9000/a",
        "file://srv/backup",
        "file://relative",
        "file:///srv/../etc",
        "file:///srv/%00",
        "https://s3.amazonaws.com/bucket",
        "sftp://host/dir",
    ],
)
def test_other_urls_are_told(url: str) -> None:
    """One line that says what is wrong or what to write."""
    with pytest.raises(ConfigurationError) as caught:
        parse_url(url)
    assert "\n" not in str(caught.value)


def test_a_password_in_a_url_is_not_repeated() -> None:
    """Who writes credentials into a URL does not find them in a log."""
    for url in ("s3://key:geheim@bucket/x", "https://key:geheim@host/bucket", "ftp://a:geheim@b"):
        with pytest.raises(ConfigurationError) as caught:
            parse_url(url)
        assert "geheim" not in str(caught.value)


def test_a_location_opens_as_its_store(tmp_path: Path) -> None:
    """The kind of the location decides the store; opening sends nothing."""
    local = open_store(LocalLocation(tmp_path))
    remote = open_store(S3Location("bucket", "x"), endpoint_url="http://127.0.0.1:9")
    assert isinstance(local, LocalStore)
    assert isinstance(remote, S3Store)
    assert (local.url, remote.url) == (f"file://{tmp_path}", "s3://bucket/x")
