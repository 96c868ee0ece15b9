"""The ways to reach a server and to name credentials, each as a user goes it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from s3backfs.cli.options import store_config
from s3backfs.config import StoreConfig
from s3backfs.store.s3_client import S3Settings, make_client
from tests.mounts import Machine
from tests.proxy import Incoming, proxy_for
from tests.servers import Server, moto_server, rclone_server, tls_rclone_server

pytestmark = pytest.mark.mount


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with rclone_server(tmp_path_factory.mktemp("rclone") / "data") as server:
        yield server


def bare(server: Server, *left_out: str) -> dict[str, str]:
    """The environment of a user without credentials and without what is left out."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", *left_out)
    return {name: value for name, value in server.environment.items() if name not in names}


def machine_at(home: Path, bucket: str, environment: dict[str, str]) -> Machine:
    home.mkdir()
    return Machine(home, f"s3://{bucket}/p", environment)


def round_trip(machine: Machine, *options: str) -> None:
    """Make a repository, back up, and read from a mount in the background."""
    machine.run("init", *options)
    with machine.mounted(*options) as mount:
        (mount.path / "monday").mkdir()
        (mount.path / "monday" / "file").write_bytes(b"content")
    with machine.mounted("-o", "ro", *options) as mount:
        assert (mount.path / "monday" / "file").read_bytes() == b"content"


def assert_one_line(machine: Machine, code: int, text: str, *arguments: str) -> None:
    done = machine.run(*arguments, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert text in done.stderr


def test_a_small_file_of_keys(rclone: Server, tmp_path: Path) -> None:
    """`--credentials-file` works by a relative path too, and goes before other credentials."""
    environment = bare(rclone) | {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "wrong"}
    machine = machine_at(tmp_path / "m", rclone.make_bucket("keys"), environment)
    keys = tmp_path / "keys"
    keys.write_text(f"# web1\naccess_key={rclone.access_key}\nsecret_key = {rclone.secret_key}\n")
    round_trip(machine, "--credentials-file", os.path.relpath(keys))
    assert_one_line(machine, 34, "check the access key", "list")
    for text, wanted in (
        ("", "access_key and secret_key missing"),
        ("access_key = x\n", "secret_key missing"),
        ("secret = sesame\n", "line 1: write one of"),
    ):
        keys.write_text(text)
        assert_one_line(machine, 2, wanted, "list", "--credentials-file", str(keys))
    assert_one_line(machine, 2, "No such file", "list", "--credentials-file", "/no/such/file")


def test_a_profile(rclone: Server, tmp_path: Path) -> None:
    """A profile brings keys, region and endpoint; one that is not there is one line."""
    config = tmp_path / "config"
    config.write_text(
        f"[profile far]\nregion = anywhere\nendpoint_url = {rclone.endpoint}\n"
        f"aws_access_key_id = {rclone.access_key}\naws_secret_access_key = {rclone.secret_key}\n"
    )
    environment = bare(rclone, "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")
    environment["AWS_CONFIG_FILE"] = str(config)
    machine = machine_at(tmp_path / "m", rclone.make_bucket("profile"), environment)
    round_trip(machine, "--profile", "far")
    assert_one_line(machine, 2, "near", "list", "--profile", "near")


def test_a_web_identity(tmp_path: Path) -> None:
    """A token in a file becomes credentials of its role, as on machines of a cluster."""
    with moto_server() as server:
        token = tmp_path / "token"
        token.write_text("token")
        environment = bare(server) | {
            "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/backup",
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
        }
        machine = machine_at(tmp_path / "m", server.make_bucket("web"), environment)
        round_trip(machine)
        token.unlink()
        assert_one_line(machine, 34, f"{token}: No such file", "list")


def test_a_program_of_credentials_that_fails(rclone: Server, tmp_path: Path) -> None:
    """A credential process that fails is one line, and what it said is not repeated."""
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = {sys.executable} -c 'exit(\"sesame\")'\n")
    environment = bare(rclone) | {"AWS_CONFIG_FILE": str(config)}
    machine = machine_at(tmp_path / "m", rclone.make_bucket("process"), environment)
    done = machine.run("list", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (34, 1), done.stderr
    assert "sesame" not in done.stderr


def test_an_authority_of_ones_own(tmp_path: Path) -> None:
    """A server's own certificate is refused until it is named, by option or by variable."""
    with tls_rclone_server(tmp_path / "data") as (server, certificate):
        # The client that makes buckets would have to trust it, too.
        (tmp_path / "data" / "tls").mkdir()
        machine = machine_at(tmp_path / "m", "tls", server.environment)
        assert_one_line(machine, 34, "--ca-bundle", "init")
        round_trip(machine, "--ca-bundle", os.path.relpath(certificate))
        machine.environment = {**machine.environment, "AWS_CA_BUNDLE": str(certificate)}
        assert "monday" in machine.run("list").stdout
        with machine.mounted("-o", "ro") as mount:
            assert (mount.path / "monday" / "file").read_bytes() == b"content"


def test_through_a_proxy(tmp_path: Path) -> None:
    """HTTP_PROXY is obeyed, and NO_PROXY too; a proxy that is away is named as such."""
    seen: list[str] = []

    def note(incoming: Incoming) -> None:
        seen.append(incoming.path)

    with moto_server() as server, proxy_for(server) as proxy:
        proxy.script = note
        bucket = server.make_bucket("proxy")
        environment = server.environment | {"HTTP_PROXY": proxy.server.endpoint}
        machine = machine_at(tmp_path / "m", bucket, environment)
        round_trip(machine)
        assert seen
        assert all(path.startswith(f"{server.endpoint}/") for path in seen)
        seen.clear()
        machine.environment = {**machine.environment, "NO_PROXY": "127.0.0.1"}
        machine.run("list")
        assert seen == []
        machine.environment = {**server.environment, "HTTP_PROXY": "http://127.0.0.1:1"}
        assert_one_line(machine, 36, "through the proxy", "list")


ENDPOINTS = [
    ({}, "bucket.s3.eu-west-1"),
    ({"AWS_USE_DUALSTACK_ENDPOINT": "true"}, "bucket.s3.dualstack.eu-west-1"),
    ({"AWS_USE_FIPS_ENDPOINT": "true"}, "bucket.s3-fips.eu-west-1"),
]


@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
@pytest.mark.parametrize(("added", "host"), ENDPOINTS)
def test_endpoints_of_amazon(
    variable: str, added: dict[str, str], host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FIPS and dual stack are asked for as everywhere, and both names of the region count."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", variable: "eu-west-1"}
    for name, value in {**keys, **added}.items():
        monkeypatch.setenv(name, value)
    names = [field.name for field in fields(StoreConfig) if field.name != "kms_key"]
    config = store_config({**dict.fromkeys(names), "connections": 1})
    client = make_client(S3Settings("bucket", region=config.region))
    url = client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "k"})
    client.close()
    assert url.partition("?")[0] == f"https://{host}.amazonaws.com/k"
