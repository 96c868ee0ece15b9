"""Repair: what check has found is sound afterwards, and nothing else has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3backfs.maintenance.checking import CheckOptions
from s3backfs.maintenance.reindexing import repair_index

from .place import content, new_place

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("how", ["flipped", "gone"])
async def test_the_index_is_rebuilt(how: str, tmp_path: Path) -> None:
    """After a repair, check is sound, and each pack is named by a segment again."""
    place = await new_place(tmp_path)
    key = place.key("index/", b"hit")
    if how == "flipped":
        place.flip(key)
        assert (await place.check(CheckOptions())).damages
    else:
        place.remove(key)
    async with place.repository() as repository:
        result = await repair_index(repository, lambda *_: None)
        again = await repair_index(repository, lambda *_: None)
    packs = sum(key.startswith(("data/", "meta/")) for key in place.keys[b"hit"])
    assert (result.added_packs, result.unreadable) == (packs, [])
    assert (again.added_packs, again.removed_segments) == (0, 0)
    assert key not in place.store.objects
    assert (await place.check()).damages == []
    async with place.machine(is_read_only=True) as machine:
        assert await machine.read(b"hit", b"dir", b"small1") == content(b"hit", 1)


async def test_a_pack_without_a_readable_table_is_named(tmp_path: Path) -> None:
    """A pack whose table is damaged does not come into the index, and is reported."""
    place = await new_place(tmp_path)
    place.remove(place.key("index/", b"hit"))
    key = place.key("data/", b"hit")
    place.flip(key, len(place.store.objects[key]) - 30)
    async with place.repository() as repository:
        assert (await repair_index(repository, lambda *_: None)).unreadable == [key]
