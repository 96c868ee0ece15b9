"""Make the store that a location names."""

from __future__ import annotations

from pathlib import Path

from s3backfs.store.base import Store
from s3backfs.store.local import LocalStore
from s3backfs.store.location import LocalLocation, Location


def open_store(
    location: Location,
    *,
    endpoint_url: str | None = None,
    path_style: bool | None = None,
    region: str | None = None,
    profile: str | None = None,
    credentials_file: str | None = None,
    ca_bundle: str | None = None,
    max_connections: int = 16,
    sse: str | None = None,
    sse_c_key_file: str | None = None,
) -> Store:
    """Make a store, without policies and without a request; None leaves it to boto3.

    Raises:
        ConfigurationError: the settings do not make a client.
    """
    if isinstance(location, LocalLocation):
        return LocalStore(location.directory)
    # boto3 takes a third of a second to import, which a local repository need not pay.
    from s3backfs.store.s3 import S3Settings, S3Store
    from s3backfs.store.s3_sse import ServerEncryption, read_customer_key

    customer_key = read_customer_key(Path(sse_c_key_file)) if sse_c_key_file else None
    settings = S3Settings(
        bucket=location.bucket,
        prefix=location.prefix,
        endpoint_url=endpoint_url,
        path_style=path_style,
        region=region,
        profile=profile,
        credentials_file=credentials_file,
        ca_bundle=ca_bundle,
        max_connections=max_connections,
        encryption=ServerEncryption(sse, customer_key),
    )
    return S3Store(settings)
