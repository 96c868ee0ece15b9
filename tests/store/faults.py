"""A policy that fails as a script says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from s3backfs.errors import StoreError, UnavailableError
from s3backfs.store.around import Request, Verb

T = TypeVar("T")


def _unavailable(key: str) -> StoreError:
    return UnavailableError("scripted fault", key=key)


@dataclass(frozen=True, slots=True)
class Fault:
    """Fail `times` requests, after `skip` that go well, of those that match.

    "before" fails without a trace; "after" does the work and loses the answer.
    """

    verb: Verb
    key_prefix: str = ""
    skip: int = 0
    times: int = 1
    when: Literal["before", "after"] = "before"
    error: Callable[[str], StoreError] = _unavailable


class Faults:
    """The script: each fault counts the requests that match it for itself."""

    def __init__(self, *faults: Fault) -> None:
        self._faults = faults
        self._seen = dict.fromkeys(range(len(faults)), 0)

    @property
    def is_used_up(self) -> bool:
        """Whether every fault happened as often as it should."""
        return all(
            self._seen[ix] >= fault.skip + fault.times for ix, fault in enumerate(self._faults)
        )

    async def __call__(self, request: Request, act: Callable[[], Awaitable[T]]) -> T:
        fault = self._due(request)
        if fault is not None and fault.when == "before":
            raise fault.error(request.key)
        result = await act()
        if fault is not None:
            raise fault.error(request.key)
        return result

    def _due(self, request: Request) -> Fault | None:
        due = None
        for ix, fault in enumerate(self._faults):
            if fault.verb == request.verb and request.key.startswith(fault.key_prefix):
                seen = self._seen[ix]
                self._seen[ix] += 1
                if due is None and fault.skip <= seen < fault.skip + fault.times:
                    due = fault
        return due
