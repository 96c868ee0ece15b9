"""Who asks: the credentials of the process behind a request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """User, group and umask of the process that made a request."""

    uid: int
    gid: int
    umask: int = 0
