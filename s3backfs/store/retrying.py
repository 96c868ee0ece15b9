"""Do requests again while the store is away."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import trio

from s3backfs.errors import S3backfsError, UnavailableError
from s3backfs.store.around import Request

T = TypeVar("T")

_log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 30.0
QUIET_S = 3.0
"""A trouble that is over sooner is not worth a line in the log."""
REMIND_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Outage:
    """The store has answered no request since then."""

    since_ns: int
    """Wall clock."""
    failed_count: int
    last_error: str


def longest_pause_s(attempt: int) -> float:
    """Bound the random pause after the failed `attempt`, the first of which is 1."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempt - 1, 16))


class Retrying:
    """A policy: repeat what can be repeated, with growing random pauses, for `retry_for_s`.

    A conditional put whose answer was lost is sent again too, and may then find its own work:
    whoever gets `PreconditionFailedError` reads the object and looks whether it is its own. An
    upload that was begun twice leaves one that `list_uploads` shows.

    `on_change` is told of an outage at its first failure and at each one after, and None at the
    end of it; it must return at once.
    """

    def __init__(
        self,
        retry_for_s: float,
        *,
        on_change: Callable[[Outage | None], None] | None = None,
        randomness: random.Random | None = None,
    ) -> None:
        self.retry_for_s = retry_for_s
        self._on_change = on_change
        self._random = randomness or random.Random()
        self._outage: Outage | None = None
        self._began_s = 0.0
        self._logged_s: float | None = None

    @property
    def outage(self) -> Outage | None:
        """The outage that goes on now, for the status."""
        return self._outage

    async def __call__(self, request: Request, act: Callable[[], Awaitable[T]]) -> T:
        started_s = trio.current_time()
        attempt = 0
        while True:
            try:
                result = await act()
            except S3backfsError as error:
                if not error.can_retry:
                    # A refusal is an answer: the store is there.
                    self._note_answer()
                    raise
                attempt += 1
                self._note_failure(error)
                pause_s = self._random.uniform(0.0, longest_pause_s(attempt))
                if trio.current_time() + pause_s - started_s > self.retry_for_s:
                    raise
                _log.debug("%s %s again in %.1f s: %s", request.verb, request.key, pause_s, error)
            else:
                self._note_answer()
                return result
            await trio.sleep(pause_s)

    def _note_failure(self, error: S3backfsError) -> None:
        now_s = trio.current_time()
        if self._outage is None:
            self._began_s = now_s
            self._outage = Outage(time.time_ns(), 0, "")
        previous = self._outage
        self._outage = Outage(previous.since_ns, previous.failed_count + 1, str(error))
        if self._is_time_to_log(now_s):
            self._logged_s = now_s
            _log.warning("S3 is away since %s: %s", _clock_text(previous.since_ns), error)
        self._tell()

    def _is_time_to_log(self, now_s: float) -> bool:
        if self._logged_s is None:
            return now_s - self._began_s >= QUIET_S
        return now_s - self._logged_s >= REMIND_EVERY_S

    def _note_answer(self) -> None:
        if self._outage is None:
            return
        if self._logged_s is not None:
            lasted_s = trio.current_time() - self._began_s
            _log.warning("S3 is back after %.0f s", lasted_s)
        self._outage = None
        self._logged_s = None
        self._tell()

    def _tell(self) -> None:
        if self._on_change is not None:
            self._on_change(self._outage)


class Impatient:
    """A policy: take silence for an outage after `answer_within_s`, while a person looks on.

    Only a request that reads is given up; one that writes may be under way, and is waited for.
    """

    def __init__(self, answer_within_s: float, url: str) -> None:
        self._answer_within_s = answer_within_s
        self._url = url

    async def __call__(self, request: Request, act: Callable[[], Awaitable[T]]) -> T:
        with trio.move_on_after(self._answer_within_s):
            return await act()
        raise UnavailableError(
            f"{self._url}: no answer for {self._answer_within_s:.0f} s: check the endpoint,"
            " and whether it is up",
        )


def _clock_text(moment_ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment_ns // 1_000_000_000))
