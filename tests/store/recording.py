"""A policy that keeps the log of all writes, so that any prefix of it can be looked at."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from s3backfs.store.around import Request, Verb
from s3backfs.store.memory import MemoryStore

T = TypeVar("T")

_WRITES: frozenset[Verb] = frozenset({"put", "complete", "copy", "delete"})


@dataclass(frozen=True, slots=True)
class Written:
    """One change of the store: the objects that got new bytes, or None where they went."""

    verb: Verb
    changes: tuple[tuple[str, bytes | None], ...]


class Recording:
    """Records all requests, and what the writes among them did to `store`.

    Put it innermost: `WrappedStore(memory, ..., Recording(memory))`.
    """

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._before = store.objects
        self.requests: list[Request] = []
        self.log: list[Written] = []

    async def __call__(self, request: Request, act: Callable[[], Awaitable[T]]) -> T:
        self.requests.append(request)
        result = await act()
        if request.verb in _WRITES:
            keys = request.keys if request.verb == "delete" else request.keys[:1]
            objects = self._store.objects
            changes = tuple((key, objects.get(key)) for key in keys)
            self.log.append(Written(request.verb, changes))
        return result

    def count(self, verb: Verb) -> int:
        """How many requests of one kind there were."""
        return sum(request.verb == verb for request in self.requests)

    def prefix(self, length: int) -> MemoryStore:
        """Make a store as it was after the first `length` writes."""
        objects = dict(self._before)
        for written in self.log[:length]:
            for key, data in written.changes:
                if data is None:
                    objects.pop(key, None)
                else:
                    objects[key] = data
        return MemoryStore(objects)
