"""What backups take: unique and shared bytes, ratios, growth, and what a month will cost."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.format.refs import Ref
from s3backfs.maintenance.epochs import EpochUse, measure_epochs
from s3backfs.maintenance.shares import Share, Shares
from s3backfs.maintenance.shelf import Shelved, server_time_ns
from s3backfs.maintenance.survey import list_packs
from s3backfs.maintenance.verified import measure_unproven
from s3backfs.maintenance.walking import Walk
from s3backfs.maintenance.whereabouts import follow_moved
from s3backfs.manifest.entry import Entry, extra_of
from s3backfs.manifest.node import Node
from s3backfs.reporting import Report
from s3backfs.repository.repository import Repository
from s3backfs.repository.uploading import PART_BYTES
from s3backfs.store.base import Store

MONTH_S = 30 * 24 * 3600
_DAY_S = 24 * 3600
_NS = 1_000_000_000
_PACK_PREFIXES = ("data/", "meta/")


class GroupBy(StrEnum):
    """What one row of the statistics is."""

    BACKUP = "backup"
    HOST = "host"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class GroupUsage:
    """One backup, host or month. `logical_bytes` is what its backups say that they hold."""

    name: bytes
    backups_count: int
    files_count: int
    logical_bytes: int
    unique_bytes: int
    added_bytes: int


@dataclass(frozen=True, slots=True)
class Objects:
    """What the bucket holds; growth and requests are those of a month, by the last one."""

    count: int
    total_bytes: int
    packs_bytes: int
    growth_bytes: float
    puts: float


@dataclass(frozen=True, slots=True)
class Usage:
    """All groups, and all of the repository; packs also hold what nothing refers to."""

    groups: tuple[GroupUsage, ...]
    objects: Objects
    logical_bytes: int
    referenced_bytes: int
    shared_bytes: int
    unused_bytes: int
    deduplication: float
    compression: float
    epochs: tuple[EpochUse, ...]
    oldest_unproven_s: int | None
    """Age of the content that no check has read for longest; None without any."""


async def measure(
    repository: Repository, backups: Sequence[Shelved], group_by: GroupBy, report: Report
) -> Usage:
    """Walk all backups; each distinct node is read twice at most.

    Raises:
        IntegrityError: a node is damaged.
    """
    groups: dict[bytes, list[Shelved]] = {}
    for each in backups:
        groups.setdefault(_group(each, group_by), []).append(each)
    numbers = {name: number for number, name in enumerate(groups)}
    with (
        tempfile.TemporaryDirectory(prefix="s3backfs-stats-") as scratch,
        Shares(Path(scratch) / "shares.sqlite") as shares,
    ):

        def tell(text: str, done: float = 0, total: float = 0) -> None:
            report(f"walking {len(backups)} backups", done, len(backups))

        nodes = RepositoryNodes(repository)
        walk = Walk(nodes, shares, lambda _, node: _mark(shares, node), report=tell)
        for each in backups:
            shares.begin(numbers[_group(each, group_by)])
            top = each.root.top
            if top is not None and top.ref is not None:
                shares.mark(_with_base(top.ref), is_meta=True)
            await walk.run([top])
        report("listing objects")
        objects = await _look_at_objects(repository.store)
        await follow_moved(repository, shares, await list_packs(repository.store))
        parts = shares.of_groups()
        rows = [_usage(name, groups[name], parts.get(numbers[name])) for name in groups]
        report("counting packs by key epoch")
        epochs = await measure_epochs(repository.store, repository.keyring)
        unproven_s = await measure_unproven(repository.store, repository.keyring)
        return _whole(rows, shares, objects, epochs, unproven_s)


def _group(each: Shelved, group_by: GroupBy) -> bytes:
    match group_by:
        case GroupBy.BACKUP:
            return each.name
        case GroupBy.HOST:
            return each.root.host.encode()
    return each.moment.strftime("%Y-%m").encode()


def _mark(shares: Shares, node: Node[Any]) -> None:
    if node.height:
        shares.mark(node.refs(), is_meta=True)
        return
    tops = {
        (tree.top.pack_id, tree.top.pack_offset)
        for value in node.values(0, len(node))
        if isinstance(value, Entry) and (tree := extra_of(value).extent_tree) is not None
    }
    refs = node.refs()
    metas = [ref for ref in refs if (ref.pack_id, ref.pack_offset) in tops]
    shares.mark(metas, is_meta=True)
    shares.mark([ref for ref in refs if ref not in metas], is_meta=False)


def _with_base(ref: Ref) -> list[Ref]:
    return [ref] if ref.base is None else [ref, ref.base]


def _usage(name: bytes, backups: Sequence[Shelved], share: Share | None) -> GroupUsage:
    statistics = [each.root.statistics for each in backups]
    share = share or Share()
    return GroupUsage(
        name,
        backups_count=len(backups),
        files_count=sum(each.files for each in statistics),
        logical_bytes=sum(each.logical_bytes for each in statistics),
        unique_bytes=share.unique_bytes,
        added_bytes=share.added_bytes,
    )


def _whole(
    rows: Sequence[GroupUsage],
    shares: Shares,
    objects: Objects,
    epochs: tuple[EpochUse, ...],
    unproven_s: int | None,
) -> Usage:
    total = shares.total()
    logical_bytes = sum(row.logical_bytes for row in rows)
    return Usage(
        groups=tuple(rows),
        objects=objects,
        logical_bytes=logical_bytes,
        referenced_bytes=total.stored_bytes,
        shared_bytes=total.shared_bytes,
        unused_bytes=max(0, objects.packs_bytes - total.stored_bytes),
        deduplication=logical_bytes / (total.content_plain_bytes or 1),
        compression=total.content_plain_bytes / (total.content_stored_bytes or 1),
        epochs=epochs,
        oldest_unproven_s=unproven_s,
    )


async def _look_at_objects(store: Store) -> Objects:
    """List the whole bucket, and take the last month for what the next one will be."""
    now_ns = await server_time_ns(store)
    count = total_bytes = packs_bytes = 0
    fresh_bytes = fresh_puts = 0
    oldest_ns = now_ns
    async for page in store.list(""):
        for listed in page:
            count += 1
            total_bytes += listed.length_bytes
            is_pack = listed.key.startswith(_PACK_PREFIXES)
            packs_bytes += listed.length_bytes if is_pack else 0
            oldest_ns = min(oldest_ns, listed.modified_ns or now_ns)
            if listed.modified_ns > now_ns - MONTH_S * _NS:
                fresh_bytes += listed.length_bytes
                fresh_puts += puts_count(listed.length_bytes)
    # A repository that is younger than a month is taken to go on as it began.
    age_s = min(MONTH_S, max(_DAY_S, (now_ns - oldest_ns) / _NS))
    scale = MONTH_S / age_s
    return Objects(count, total_bytes, packs_bytes, fresh_bytes * scale, fresh_puts * scale)


def puts_count(length_bytes: int) -> int:
    """How many requests it took to store an object: one, or those of a multipart upload."""
    return 1 if length_bytes <= PART_BYTES else -(-length_bytes // PART_BYTES) + 2
