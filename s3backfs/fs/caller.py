"""Who asks: the credentials of the process behind a request."""

from __future__ import annotations

import msgspec


class Caller(msgspec.Struct, frozen=True):
    """User, group and umask of the process that made a request."""

    uid: int
    gid: int
    umask: int = 0
