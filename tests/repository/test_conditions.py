"""What a machine remembers of a store's conditions, and how it notices that it is wrong."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from s3backfs.errors import PreconditionFailedError
from s3backfs.repository.conditions import REMEMBERED_S
from s3backfs.repository.opening import CreateOptions, OpenedRepository, create_repository
from s3backfs.repository.repository import Repository, RepositoryOptions, open_for_mount
from s3backfs.store.around import WrappedStore
from s3backfs.store.base import Buffer, Condition, Conditions, IfMatch, Stored
from s3backfs.store.memory import MemoryStore
from s3backfs.store.s3 import S3Settings, S3Store
from tests.crash.machine import booted
from tests.servers import ACCESS_KEY, SECRET_KEY
from tests.store.canned import answer, canned_server, error_answer

pytestmark = pytest.mark.anyio

MIB = 1 << 20
FULL = ["put probe", "put probe IfAbsent", "put probe IfMatch", "put probe IfMatch", "delete probe"]
CONFIRMED = ["put lease IfAbsent", "put lease IfMatch"]


class NotedStore(MemoryStore):
    """Notes what it is asked to write, its own probes included; can begin to ignore conditions."""

    def __init__(self, *, enforce_conditions: bool) -> None:
        super().__init__(enforce_conditions=enforce_conditions)
        self.seen: list[str] = []
        self.quotes_etags = self.wants_quotes = True

    @property
    def conditions(self) -> Conditions | None:
        found = super().conditions
        return None if found is None else replace(found, are_etags_quoted=self.quotes_etags)

    async def probe(self, key: str) -> None:
        self.quotes_etags = self.wants_quotes
        await super().probe(key)

    async def confirm(self, key: str, data: Buffer, known: Conditions) -> bool:
        self.quotes_etags = known.are_etags_quoted
        return await super().confirm(key, data, known)

    def restart(self, *, enforce_conditions: bool | None = None) -> None:
        """Be as a new process sees it, maybe with another server behind it."""
        self._has_conditional_put = None
        if enforce_conditions is not None:
            self._enforce_conditions = enforce_conditions
        self.seen.clear()

    async def put(self, key: str, data: Buffer, *, condition: Condition = None) -> Stored:
        name = "" if condition is None else f" {type(condition).__name__}"
        self.seen.append(f"put {key.rpartition('/')[2]}{name}")
        if isinstance(condition, IfMatch) and self.quotes_etags != self.wants_quotes:
            raise PreconditionFailedError("the object is another", key=key)
        return await super().put(key, data, condition=condition)

    async def delete(self, keys: Sequence[str]) -> None:
        self.seen.extend(f"delete {key.rpartition('/')[2]}" for key in keys)
        await super().delete(keys)


@dataclass
class Place:
    """A repository in a store whose every write is noted."""

    store: NotedStore
    opened: OpenedRepository
    home: Path

    @property
    def seen(self) -> list[str]:
        return self.store.seen

    @asynccontextmanager
    async def repository(self) -> AsyncIterator[Repository]:
        """Hold it open as a mount of one machine does."""
        options = RepositoryOptions(
            state_dir=self.home / "state",
            cache_dir=self.home / "cache",
            cache_bytes=MIB,
            memory_bytes=64 * MIB,
            is_read_only=False,
            level=1,
        )
        async with open_for_mount(WrappedStore(self.store), self.opened, options) as repository:
            self.store.restart()
            yield repository

    async def prove(self) -> bool:
        """Whether conditions are enforced, as a new mount finds it out."""
        async with self.repository() as repository:
            return await repository.proof.is_given()

    @property
    def file(self) -> Path:
        return self.home / "state" / self.opened.keyring.repository_id.hex() / "conditions"


async def new_place(home: Path, *, enforce_conditions: bool = True) -> Place:
    (home / "state").mkdir()
    (home / "cache").mkdir()
    store = NotedStore(enforce_conditions=enforce_conditions)
    opened = await create_repository(store, CreateOptions(is_encrypted=False), None)
    return Place(store, opened, home)


async def test_the_next_mount_confirms(tmp_path: Path) -> None:
    """After a probe the next mount asks for two refusals, and for nothing more."""
    place = await new_place(tmp_path)
    assert await place.prove()
    assert place.seen == FULL
    async with place.repository() as repository:
        assert place.seen == []
        assert await repository.proof.is_given()
        assert await repository.proof.is_given()
        assert place.seen == CONFIRMED
        assert repository.store.has_conditional_put is True


async def test_a_store_that_begins_to_ignore_conditions(tmp_path: Path) -> None:
    """Memory of enforcement is never believed of a store that enforces nothing (any more)."""
    place = await new_place(tmp_path)
    assert await place.prove()
    place.store.restart(enforce_conditions=False)
    assert not await place.prove()
    assert place.seen[0] == "put lease IfAbsent"
    assert "put probe" in place.seen
    # From now on that is remembered, and costs one request.
    assert not await place.prove()
    assert place.seen == ["put lease IfAbsent"]


async def test_a_store_that_begins_to_enforce_conditions(tmp_path: Path) -> None:
    """Two writers must not go by different rules: memory of ignorance is put to the proof too."""
    place = await new_place(tmp_path, enforce_conditions=False)
    assert not await place.prove()
    place.store.restart(enforce_conditions=True)
    assert await place.prove()


@pytest.mark.parametrize("change", ["lost", "broken", "old", "of the future", "elsewhere"])
async def test_memory_that_does_not_count(tmp_path: Path, change: str) -> None:
    """Without memory, or with one that is old, broken or of another place, a mount probes."""
    place = await new_place(tmp_path)
    assert await place.prove()
    found = json.loads(place.file.read_bytes())
    match change:
        case "lost":
            place.file.unlink()
        case "broken":
            place.file.write_bytes(b"{")
        case "old":
            found["probed_s"] -= REMEMBERED_S
        case "of the future":
            found["probed_s"] += 3600
        case _:
            found["conditions"]["place"] = "https://elsewhere"
    if change not in ("lost", "broken"):
        place.file.write_text(json.dumps(found))
    assert await place.prove()
    assert place.seen == FULL


async def test_the_first_refusal_probes_anew(tmp_path: Path) -> None:
    """After a refusal what was remembered is probed, once, and whether it was wrong is said."""
    place = await new_place(tmp_path)
    assert await place.prove()
    async with place.repository() as repository:
        assert await repository.proof.is_given()
        place.seen.clear()
        assert not await repository.proof.is_renewed()
        assert place.seen == FULL
        assert not await repository.proof.is_renewed()
        assert place.seen == FULL
    async with place.repository() as repository:
        assert await repository.proof.is_given()
        place.store._enforce_conditions = False
        assert await repository.proof.is_renewed()
        assert repository.store.has_conditional_put is False


async def test_a_backup_is_not_lost_to_a_memory_that_is_wrong(tmp_path: Path) -> None:
    """Where a server has come to want etags in another form, the owner goes on all the same."""
    place = await new_place(tmp_path)
    home = tmp_path / "machine"
    async with booted(place.store, place.opened, home) as machine:
        await machine.make_backup(b"monday")
    place.store.restart()
    place.store.wants_quotes = False
    async with booted(place.store, place.opened, home) as machine:
        await machine.write_file(b"monday", b"file", data=b"data")
        await machine.sync(b"monday")
        assert place.seen.count("put lease IfMatch") == 1
        assert place.seen.count("put probe") == 1


OK = answer("200 OK", b"", 'ETag: "e"')
FAILED = error_answer("412 Precondition Failed", "PreconditionFailed")
DELETED = answer("204 No Content")


async def test_how_etags_are_written_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that wants bare etags gets them from the first, by what another process found."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    quoted, bare = (OK, FAILED, FAILED, FAILED, DELETED), (OK, FAILED, FAILED, OK, DELETED)
    with canned_server(*quoted, *bare, FAILED, FAILED, FAILED) as canned:
        settings = S3Settings("bucket", endpoint_url=canned.endpoint, region="us-east-1")
        first, second = S3Store(settings), S3Store(settings)
        await first.probe("probe")
        known = first.conditions
        assert known is not None
        assert not known.are_etags_quoted
        assert await second.confirm("lease", b"lease", known)
        assert second.conditions == known
        with pytest.raises(PreconditionFailedError):
            await second.put("one", b"x", condition=IfMatch("e"))
        assert "if-match: e\r\n" in canned.heads[-1].lower()
