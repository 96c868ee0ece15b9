"""Making the index whole again from the tables at the ends of packs.

New segments are stored before damaged ones are removed; it can be stopped and repeated anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from s3backfs.errors import IntegrityError, ObjectMissingError, UnsupportedFormatError
from s3backfs.format.segment import SegmentPack, decode_segment
from s3backfs.maintenance.segments import ROWS_AT_ONCE, tidy_segments
from s3backfs.maintenance.survey import PackListed, list_packs
from s3backfs.reporting import Report
from s3backfs.repository.index_sync import SEGMENT_PREFIX, write_segment
from s3backfs.repository.repository import Repository
from s3backfs.repository.tables import load_pack_table


@dataclass(slots=True)
class ReindexResult:
    """What was done; `unreadable` are the keys of packs whose tables cannot be read."""

    added_packs: int = 0
    removed_segments: int = 0
    unreadable: list[str] = field(default_factory=list)


async def repair_index(repository: Repository, report: Report) -> ReindexResult:
    """Name every readable pack in a segment, and remove segments that cannot be read.

    Raises:
        StoreError: the store would not list, give or take; nothing is lost.
        UnsupportedFormatError: a newer program wrote a segment; nothing was changed.
    """
    store, result = repository.store, ReindexResult()
    report("reading segments")
    named, damaged = await _read_segments(repository)
    waiting: list[SegmentPack] = []
    packs = await list_packs(store)
    missing = [pack for pack in packs.values() if named.get(pack.pack_id) != pack.length_bytes]
    for number, pack in enumerate(missing):
        report(f"reading tables of packs: {number} of {len(missing)}", number, len(missing))
        if (found := await _read_table(repository, pack, result)) is not None:
            waiting.append(found)
        if sum(len(each.rows) for each in waiting) >= ROWS_AT_ONCE:
            await _store(repository, waiting, result)
            waiting = []
    await _store(repository, waiting, result)
    await store.delete(damaged)
    result.removed_segments = len(damaged) + await tidy_segments(repository)
    return result


async def _store(repository: Repository, packs: list[SegmentPack], result: ReindexResult) -> None:
    if packs:
        await write_segment(repository.store, repository.keyring, packs)
        result.added_packs += len(packs)


async def _read_segments(repository: Repository) -> tuple[dict[bytes, int], list[str]]:
    """Return the length of each pack that a segment names, and the keys of damaged segments."""
    named: dict[bytes, int] = {}
    damaged: list[str] = []
    async for page in repository.store.list(SEGMENT_PREFIX):
        for listed in page:
            try:
                data = (await repository.store.get(listed.key)).data
                segment = decode_segment(repository.keyring, listed.key, data)
            except ObjectMissingError:
                continue
            except IntegrityError:
                damaged.append(listed.key)
                continue
            named.update((pack.pack_id, pack.length) for pack in segment)
    return named, damaged


async def _read_table(
    repository: Repository, pack: PackListed, result: ReindexResult
) -> SegmentPack | None:
    try:
        found = await load_pack_table(
            repository.store, repository.keyring, pack.kind, pack.pack_id, pack.length_bytes
        )
    except ObjectMissingError:
        return None
    except (IntegrityError, UnsupportedFormatError):
        result.unreadable.append(pack.key)
        return None
    return SegmentPack(pack.pack_id, found.epoch, pack.kind, pack.length_bytes, found.rows)
