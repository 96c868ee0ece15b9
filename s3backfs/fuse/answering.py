"""How a request is answered when something goes wrong: every error leaves as an errno."""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from pyfuse3 import FUSEError

from s3backfs.backup.backup import printable
from s3backfs.backup.node import Node
from s3backfs.errors import FileSystemError, S3backfsError
from s3backfs.fuse.refusals import note_refused

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])


def request(handler: F) -> F:
    """Let nothing but FUSEError out of a handler, and never ENOSYS.

    An exception that nobody expected is logged with its traceback and answers EIO: it must not end
    the loop, and an ENOSYS would be taken as success ever after.
    """
    name = handler.__name__

    @functools.wraps(handler)
    async def guarded(*arguments: Any) -> Any:
        try:
            return await handler(*arguments)
        except FUSEError:
            raise
        except FileSystemError as error:
            raise FUSEError(error.errno_code) from None
        except Exception as error:
            note_refused(arguments[0]._fs, name, arguments, error)
            raise FUSEError(_logged_errno(name, arguments, error)) from error

    return cast(F, guarded)


def _logged_errno(request: str, arguments: tuple[Any, ...], error: Exception) -> int:
    if isinstance(error, S3backfsError):
        log.error("%s: %s", request, error)
        return error.errno_code
    if isinstance(error, OSError):
        log.error("%s: %s", request, error)
        code = error.errno if error.errno != errno.ENOSYS else None
        return code or errno.EIO
    log.error("%s%r failed unexpectedly", request, arguments[1:3], exc_info=error)
    return errno.EIO


def log_unreadable(node: Node, error: S3backfsError) -> None:
    """Say which file it is that cannot be read."""
    log.error("reading %s: %s", _path(node), error)


def _path(node: Node) -> str:
    place = next(node.places(), None)
    if place is None:
        return f"an unlinked file of {printable(node.backup.name)}"
    parts = [node.backup.name, *place[0].components(), place[1]]
    return printable(b"/".join(parts))
