"""`--sse` reaches the server."""

from __future__ import annotations

from pathlib import Path

from tests.servers import moto_server

from .conftest import Runner


def test_sse_of_init(tmp_path: Path, run_cli: Runner) -> None:
    """What `init --sse` stores has this encryption; a bad mode or key file changes nothing."""
    with moto_server() as server:
        url = f"s3://{server.make_bucket('sse')}/prefix"
        common = ("init", url, "--encryption", "none")
        for bad in (("--sse", "rot13"), ("--sse-c-key-file", str(tmp_path / "none"))):
            done = run_cli(*common, *bad, **server.environment)
            assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        done = run_cli(*common, "--sse", "aws:kms:mine", **server.environment)
        assert done.returncode == 0, done.stderr
        client = server.client()
        found = client.head_object(Bucket="sse", Key="prefix/repository.json")
        client.close()
        assert found["ServerSideEncryption"] == "aws:kms"
        assert found["SSEKMSKeyId"].endswith("mine")
