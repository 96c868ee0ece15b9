"""What botocore raises, as errors of this program: translated once, here.

The texts hold nothing of the credentials: they are made of the endpoint, the server's error code
and its message, cut to one line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from s3backfs.errors import (
    BucketMissingError,
    DeniedError,
    EncryptionRefusedError,
    ObjectMissingError,
    PreconditionFailedError,
    QuotaError,
    RefusedError,
    StoreError,
    UnavailableError,
    UploadMissingError,
)
from s3backfs.store.probing import UnsupportedError

LIBRARY_ERRORS: tuple[type[Exception], ...] = (
    boto.BotoCoreError,
    boto.ClientError,
    ResponseParserError,
    HTTPError,
    HTTPException,
    OSError,
)
"""Everything that a call of a boto3 client raises when something outside goes wrong."""

CREDENTIAL_ERRORS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.NoAuthTokenError,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.LoginError,
)

_TRANSPORT_ERRORS = (
    boto.HTTPClientError,
    boto.ConnectionError,
    boto.IncompleteReadError,
    boto.ChecksumError,
    boto.FlexibleChecksumError,
    boto.MetadataRetrievalError,
    ResponseParserError,
    HTTPError,
    HTTPException,
    OSError,
)

_WRONG_KEYS = "check the access key, the secret key and the profile"
_WRONG_REGION = "give the bucket's region by --region, AWS_REGION or the profile"
_EXPIRED = "the session has expired: get new temporary credentials"

_SKEWED = "RequestTimeTooSkewed"
_SKEW = re.compile("difference between the request time", re.I)

_REMEDIES = {
    "AccessDenied": "these credentials may not do that: check the policies of user and bucket",
    "AccountProblem": "ask the owner of the account",
    "AllAccessDisabled": "ask the owner of the bucket",
    "AuthorizationHeaderMalformed": _WRONG_REGION,
    "AuthorizationQueryParametersError": _WRONG_KEYS,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "Forbidden": "check the credentials and the policies of user and bucket",
    "IllegalLocationConstraintException": _WRONG_REGION,
    "InvalidAccessKeyId": _WRONG_KEYS,
    "InvalidClientTokenId": _WRONG_KEYS,
    "InvalidSecurity": _WRONG_KEYS,
    "InvalidToken": _EXPIRED,
    "NotSignedUp": "the account is not signed up for this service",
    "PermanentRedirect": _WRONG_REGION,
    _SKEWED: "set this machine's clock right",
    "SignatureDoesNotMatch": _WRONG_KEYS,
    "TokenRefreshRequired": _EXPIRED,
    "Unauthorized": _WRONG_KEYS,
    "UserSuspended": "the user is suspended: ask the owner of the account",
}

# Servers tell these by their texts; the codes are those of anything else.
_ENCRYPTION_REMEDIES = (
    (re.compile("secure connection", re.I), "SSE-C takes an https:// endpoint"),
    (
        re.compile(r"\bkms:|kms-key|\bkms\.|\bkms (managed|key)", re.I),
        "check the key that --sse aws:kms:KEY names, and that these credentials may use it "
        "(kms:GenerateDataKey and kms:Decrypt)",
    ),
    (
        re.compile("server.side encryption|hash of the key", re.I),
        "give the key that it was stored with by --sse-c-key-file",
    ),
)

_MEANINGS: dict[str, type[StoreError]] = {
    "NoSuchKey": ObjectMissingError,
    "NoSuchVersion": ObjectMissingError,
    "NoSuchBucket": BucketMissingError,
    "AccessDenied": DeniedError,
    # The answer to a HEAD has no body.
    "403": DeniedError,
    "Forbidden": DeniedError,
    "NoSuchUpload": UploadMissingError,
    "PreconditionFailed": PreconditionFailedError,
    # Two conditional writes met; which one won is not decided yet.
    "ConditionalRequestConflict": UnavailableError,
    "OperationAborted": UnavailableError,
    "BadDigest": UnavailableError,
    "BandwidthLimitExceeded": UnavailableError,
    "IncompleteBody": UnavailableError,
    "InternalError": UnavailableError,
    "PriorRequestNotComplete": UnavailableError,
    "RequestTimeout": UnavailableError,
    "RequestLimitExceeded": UnavailableError,
    "ServiceUnavailable": UnavailableError,
    "SlowDown": UnavailableError,
    "TooManyRequests": UnavailableError,
    "XAmzContentSHA256Mismatch": UnavailableError,
    "OverQuota": QuotaError,
    "QuotaExceeded": QuotaError,
    "XMinioAdminBucketQuotaExceeded": QuotaError,
    "XMinioStorageFull": QuotaError,
    "InvalidBucketState": StoreError,
    # Not refused for good: the object must be brought back from the archive first.
    "InvalidObjectState": StoreError,
    "MethodNotAllowed": UnsupportedError,
    "NotImplemented": UnsupportedError,
}

_MEANINGS_OF_STATUS: dict[int, type[StoreError]] = {
    401: RefusedError,
    403: RefusedError,
    404: ObjectMissingError,
    405: UnsupportedError,
    408: UnavailableError,
    409: UnavailableError,
    412: PreconditionFailedError,
    425: UnavailableError,
    429: UnavailableError,
    501: UnsupportedError,
    507: QuotaError,
}

_LONGEST_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class Place:
    """What the texts name."""

    endpoint: str
    bucket: str


def translate(error: BaseException, place: Place, *, key: str = "") -> StoreError:
    """Say in this program's words what went wrong; a pure function."""
    if isinstance(error, boto.ClientError):
        return _translate_answer(error, place, key)
    if isinstance(error, CREDENTIAL_ERRORS):
        return translate_credentials(error)
    if isinstance(error, boto.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return RefusedError(
            f"the certificate of {place.endpoint} is not trusted: give its authority by "
            f"AWS_CA_BUNDLE or --ca-bundle"
        )
    if file_refused(error):
        return RefusedError(f"the credentials lead to a file: {file_refused(error)}")
    if isinstance(error, _TRANSPORT_ERRORS):
        return UnavailableError(_describe_transport(error, place), key=key)
    return StoreError(f"{type(error).__name__}: {one_line(str(error))}", key=key)


def file_refused(error: BaseException) -> str:
    """Say which file of this machine cannot be read, such as a token; empty if that is not it."""
    if not isinstance(error, OSError) or not isinstance(error.filename, str):
        return ""
    return f"{error.filename}: {error.strerror}"


def one_line(text: str) -> str:
    """Cut what a server sent to one printable line."""
    line = re.sub(r"\s+", " ", "".join(c if c.isprintable() else " " for c in text)).strip()
    return line if len(line) <= _LONGEST_MESSAGE else line[: _LONGEST_MESSAGE - 3] + "..."


def _translate_answer(error: boto.ClientError, place: Place, key: str) -> StoreError:
    answer: Any = error.response
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code, message = code_of(error), _told(error, "Message")
    kind = _kind_of(code, status)
    for_encryption = encryption_remedy(error)
    if kind is BucketMissingError:
        return BucketMissingError(
            f"there is no bucket {place.bucket!r} at {place.endpoint}: make it or correct the URL"
        )
    if kind is ObjectMissingError:
        return ObjectMissingError("no such object", key=key)
    said = f"{code} ({message})" if message and message != code else code or str(status)
    if for_encryption:
        text = f"{place.endpoint} refused: {said}; {for_encryption}"
        return EncryptionRefusedError(text, key=key)
    if issubclass(kind, RefusedError):
        remedy = _REMEDIES.get(code, _REMEDIES["Forbidden"])
        return kind(f"{place.endpoint} refused: {said}; {remedy}", key=key)
    if kind is QuotaError:
        return QuotaError(f"{place.endpoint} is full: {said}; free space or raise the quota")
    return kind(f"{place.endpoint} answered {said}", key=key)


def code_of(error: boto.ClientError) -> str:
    """Return the code of what a server refused; some tell of a wrong clock in words only."""
    if _SKEW.search(_told(error, "Message")):
        return _SKEWED
    return _told(error, "Code")


def _told(error: boto.ClientError, field: str) -> str:
    # Servers leave the message out, or send an empty one, of which botocore makes None.
    answer: Any = error.response
    return one_line(str(answer.get("Error", {}).get(field) or ""))


def encryption_remedy(error: boto.ClientError) -> str:
    """Say what to do where the server's encryption is what fails; empty where it is not."""
    answer: Any = error.response
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = f"{_told(error, 'Code')} {_told(error, 'Message')}"
    if status not in (400, 403):
        return ""
    return next((text for pattern, text in _ENCRYPTION_REMEDIES if pattern.search(said)), "")


def _kind_of(code: str, status: int) -> type[StoreError]:
    if code in _MEANINGS:
        return _MEANINGS[code]
    if "Throttl" in code:
        return UnavailableError
    if code in _REMEDIES or code.startswith("KMS."):
        return RefusedError
    if status in _MEANINGS_OF_STATUS:
        return _MEANINGS_OF_STATUS[status]
    if status in (301, 307, 308):
        return RefusedError
    return UnavailableError if status >= 500 else StoreError


def translate_credentials(error: BaseException) -> RefusedError:
    """Say that there are no credentials to be had."""
    if isinstance(error, boto.NoCredentialsError):
        return RefusedError(
            "no credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE, or run on a machine with a role"
        )
    # Their own texts may hold the output of a credential process.
    return RefusedError(
        f"no credentials to be had ({type(error).__name__}): check the profile, log in again"
    )


def _describe_transport(error: BaseException, place: Place) -> str:
    # The library's texts hold whole URLs; the reason is what a person needs.
    endpoint = place.endpoint
    match error:
        case boto.ConnectTimeoutError():
            return f"no connection to {endpoint} in time: check the address, and whether it is up"
        case boto.ReadTimeoutError():
            return f"{endpoint} did not answer in time: check the address, and whether it is up"
        case boto.EndpointConnectionError():
            return f"cannot connect to {endpoint}: check the address, and whether it is up"
        case boto.ProxyConnectionError():
            return f"cannot connect to {endpoint} through the proxy"
        case boto.ConnectionClosedError():
            return f"{endpoint} closed the connection"
        case boto.SSLError():
            return f"the TLS connection to {endpoint} failed: check the address and the certificate"
        case _:
            return f"the answer of {endpoint} broke off ({type(error).__name__})"
