"""Credentials that expire, are rotated, or are written anew while the program runs.

boto3 renews what states when it ends. What it does not see are files and environments of processes
that change without such a date, and sessions that a server ends early.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any

import trio
from botocore import exceptions as boto

from s3backfs.errors import ConfigurationError, StoreError, UnavailableError
from s3backfs.store.s3_client import S3Settings, make_client
from s3backfs.store.s3_errors import CREDENTIAL_ERRORS, code_of, encryption_remedy, file_refused
from s3backfs.store.s3_session import new_session

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
"""How long a look for new credentials, which costs a client's construction, is not repeated."""

_EXPIRED = frozenset(["ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"])
_PASSING = _EXPIRED | {"RequestTimeTooSkewed"}
_RENEWABLE = _EXPIRED | {
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidToken",
    "SignatureDoesNotMatch",
}


class Renewal:
    """Looks for new credentials after a refusal that others may end."""

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._lock = trio.Lock()
        self._looked_s = -LOOK_EVERY_S
        self._seen: bytes | None = None

    async def new_client(self, error: Exception) -> Any:
        """Return a client with new credentials, None where there are none."""
        if not is_renewable(error):
            return None
        async with self._lock:
            if trio.current_time() - self._looked_s < LOOK_EVERY_S:
                return None
            self._looked_s = trio.current_time()
            found = await trio.to_thread.run_sync(_fingerprint, self._settings)
            if found is None or found == self._seen:
                return None
            self._seen = found
            client = await trio.to_thread.run_sync(make_client, self._settings)
        log.warning("S3 refused the credentials; those that are there now are tried")
        return client


def is_renewable(error: Exception) -> bool:
    """Whether a server refused the credentials and not what they were used for."""
    return _is_of(error, _RENEWABLE)


def as_passing(error: Exception, translated: StoreError) -> StoreError:
    """Let what somebody will mend be waited for: only for those whom the store served before."""
    is_of_credentials = isinstance(error, CREDENTIAL_ERRORS) or bool(file_refused(error))
    if _is_of(error, _PASSING) or is_of_credentials:
        return UnavailableError(str(translated))
    return translated


def _is_of(error: Exception, codes: frozenset[str]) -> bool:
    # A server may speak of a wrong access key where it has no key to encrypt with.
    if not isinstance(error, boto.ClientError) or encryption_remedy(error):
        return False
    code = code_of(error)
    # The answer to a HEAD has no body; nothing else makes ours a bad request.
    return code in codes or (code == "400" and error.operation_name == "HeadObject")


def _fingerprint(settings: S3Settings) -> bytes | None:
    """Name the credentials that a program which starts now would have, without keeping them."""
    try:
        session = new_session(
            profile=settings.profile, region=None, credentials_file=settings.credentials_file
        )
        credentials = session.get_credentials()
        if credentials is None:
            return None
        frozen = credentials.get_frozen_credentials()
    except (boto.BotoCoreError, ConfigurationError):
        return None
    whole = "\0".join(f"{part}" for part in frozen)
    return hashlib.sha256(whole.encode()).digest()
