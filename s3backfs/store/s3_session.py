"""The session of boto3: whose credentials are used, and where they come from.

Beside what boto3 knows, a small file can name them, for who keeps nothing of AWS on a machine:

    # of the user web1
    access_key = AKIA...
    secret_key = ...
    session_token = ...     (if there is one)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import boto3.session

from s3backfs.errors import ConfigurationError

_NEEDED = ("access_key", "secret_key")
_NAMES = (*_NEEDED, "session_token")
_LONGEST_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Keys:
    """The credentials of a file. The repr shows no secret."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def read_keys(path: Path) -> Keys:
    """Read a file of credentials.

    Raises:
        ConfigurationError: it cannot be read, or is not such a file; the text repeats no value.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST_BYTES).decode("utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: this is no text") from error
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, equals, value = (part.strip() for part in line.partition("="))
        if not name or name.startswith(("#", ";")):
            continue
        if not equals or name not in _NAMES:
            raise ConfigurationError(f"{path}, line {number}: write one of {', '.join(_NAMES)} = ")
        found[name] = value
    missing = [name for name in _NEEDED if not found.get(name)]
    if missing:
        raise ConfigurationError(f"{path}: {' and '.join(missing)} missing")
    return Keys(found["access_key"], found["secret_key"], found.get("session_token") or None)


def new_session(
    *, profile: str | None, region: str | None, credentials_file: str | None
) -> boto3.session.Session:
    """Make a session; a file of credentials goes before all that boto3 would find.

    Raises:
        ConfigurationError: the file cannot be used.
        BotoCoreError: there is no such profile.
    """
    if credentials_file is None:
        return boto3.session.Session(profile_name=profile, region_name=region)
    keys = read_keys(Path(credentials_file))
    return boto3.session.Session(
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key,
        aws_session_token=keys.session_token,
        profile_name=profile,
        region_name=region,
    )
