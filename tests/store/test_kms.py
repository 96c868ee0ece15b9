"""What AWS KMS refuses, in words that say what to do."""

from __future__ import annotations

import json

import pytest

from s3backfs.errors import RefusedError, UnavailableError
from s3backfs.store.kms import KmsSettings, decrypt
from tests.store.canned import answer, canned_server

pytestmark = pytest.mark.anyio

ARN = "arn:aws:kms:eu-west-1:111122223333:key/one"


def kms_answer(status: str, code: str, message: str = "") -> bytes:
    """An error as KMS writes it."""
    body = json.dumps({"__type": code, "message": message}).encode()
    return answer(status, body, "Content-Type: application/x-amz-json-1.1")


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that nobody looks at."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")


@pytest.mark.parametrize(
    ("code", "message", "remedy"),
    [
        (
            "AccessDeniedException",
            f"User: arn:aws:iam::1:user/u is not authorized to perform: kms:Decrypt on {ARN}",
            "kms:Decrypt to open",
        ),
        ("NotFoundException", f"Key '{ARN}' does not exist", "check its ARN"),
        ("DisabledException", f"{ARN} is disabled.", "enable the key"),
        ("KMSInvalidStateException", f"{ARN} is pending deletion.", "about to be deleted"),
        ("IncorrectKeyException", "The key ID in the request does not match", "another key"),
        ("InvalidCiphertextException", "", "another key"),
        (
            "InvalidSignatureException",
            "Signature expired: 20260101T000000Z is now earlier than 20260101T005500Z",
            "clock",
        ),
        (
            "InvalidSignatureException",
            "Signature not yet current: 20260101T010000Z is still later than 20260101T000500Z",
            "clock",
        ),
        ("InvalidSignatureException", "The request signature we calculated", "secret key"),
        ("UnrecognizedClientException", "The security token is invalid", "access key"),
        ("ExpiredTokenException", "The security token is expired", "new temporary credentials"),
    ],
)
async def test_refusals_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch, code: str, message: str, remedy: str
) -> None:
    """Each refusal names the key and its own remedy, and none that is for buckets."""
    with canned_server(kms_answer("400 Bad Request", code, message)) as canned:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", canned.endpoint)
        with pytest.raises(RefusedError) as caught:
            await decrypt(KmsSettings(ARN), b"blob")
    said = str(caught.value)
    assert said.startswith(f"KMS key {ARN}: {canned.endpoint} refused: {code}")
    assert remedy in said
    assert "--sse" not in said
    assert "bucket" not in said


async def test_a_service_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors that pass are told as such, after some tries."""
    away = kms_answer("503 Service Unavailable", "DependencyTimeoutException")
    with canned_server(away, away, away) as canned:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", canned.endpoint)
        with pytest.raises(UnavailableError, match=ARN):
            await decrypt(KmsSettings(ARN), b"blob")
        assert len(canned.requests) == 3
