"""The content of one file that is open, or that was written since the last checkpoint.

Written bytes go into a buffer, from there in chunks to the repository's writer, and what comes
back are pieces that extents point at. Reads see all three layers at once, newest on top.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import trio

from s3backfs.backup.content_tree import ExtentReader, merge_extents
from s3backfs.backup.node import Node
from s3backfs.format.parameters import ChunkBounds
from s3backfs.format.refs import Ref
from s3backfs.fs.buffer import Crowd, Segment, WriteBuffer, copy_over, plan_parts
from s3backfs.fs.read_order import ReadOrder
from s3backfs.manifest.entry import (
    EXTENTS_MAX_INLINE,
    INLINE_MAX_BYTES,
    MAX_FILE_BYTES,
    NO_EXTRA,
    Entry,
    Extent,
    ExtentTree,
    extra_of,
    with_extra,
)
from s3backfs.manifest.extents import ExtentMap, Window, plan_defragment
from s3backfs.repository.cutting import cut, is_zero
from s3backfs.repository.piece import Piece

CUT_BYTES = 8 * 1024 * 1024
"""A buffer that holds this much is cut into chunks."""

CROWDS_AHEAD = 16
"""Of so many crowds at once is what they lie over read ahead."""

WINDOWS_AHEAD = 4
"""So many crowded windows of 1 MiB are read while the first of them is written again."""

MANY_SEGMENTS = 32768
"""A buffer in so many pieces is handed over too, whatever its size."""

OVERLAY_MAX_EXTENTS = 4096
"""Above this many, extents are merged into the file's extent tree in mid-write."""

INLINE_CUT_BYTES = 256 * 1024
"""Smaller segments are cut without a thread."""


class FileContent:
    """One file's bytes while somebody has it open, or until what was written is settled.

    All that changes extents happens under `_lock`, which is held across the hand-over of one
    buffer, never across an upload.
    """

    __slots__ = (
        "_buffer",
        "_extents",
        "_flushing",
        "_inline",
        "_is_touched",
        "_lock",
        "_node",
        "_placed",
        "_read_order",
        "_repository",
        "_tree",
        "is_direct",
    )

    def __init__(self, node: Node, entry: Entry) -> None:
        self._node = node
        self._repository = node.backup.repository
        self._buffer = WriteBuffer()
        self._flushing: list[Segment] = []
        self._lock = trio.Lock()
        self._inline = entry.inline
        self._tree: ExtentTree | None = extra_of(entry).extent_tree
        self._extents = ExtentMap(entry.extents, is_overlay=self._tree is not None)
        self._is_touched = False
        self._placed = 0
        self._read_order: ReadOrder | None = None
        self.is_direct = False

    # -- reading -----------------------------------------------------------------------------

    async def read(self, offset: int, length: int, size: int) -> bytes | memoryview:
        """Read a range, up to `size`, the end of the file."""
        if offset >= size:
            return b""
        length = min(length, size - offset)
        await self._look_ahead(offset, length, size)
        if self._inline is not None and not len(self._buffer):
            return _padded(self._inline[offset : offset + length], length)
        while True:
            placed = self._placed
            plan = await self._plan(offset, length, size)
            is_settled = not len(self._buffer) and not self._flushing
            if len(plan) == 1 and is_settled and placed == self._placed:
                return await self._read_extent(plan[0])
            result = bytearray(length)
            await self._fill(plan, offset, result)
            if placed == self._placed:
                break
        # No await from here: the layers above must be of one instant.
        copy_over(self._flushing, offset, result)
        copy_over(self._buffer.segments, offset, result)
        return bytes(result)

    async def _look_ahead(self, offset: int, length: int, size: int) -> None:
        """Fetch what a sequential reader will ask for next: of this file, or of the next ones."""
        if offset == 0:
            await self._node.backup.ahead.note_read(self._node)
        if self._read_order is None:
            self._read_order = ReadOrder()
        ahead = self._read_order.plan_ahead(offset, length, size)
        if ahead is None:
            return

        async def look() -> None:
            # What is opened first is fetched first.
            await self._expect(ahead.opened, size, self._repository.prefetch)
            await self._expect(ahead.fetched, size, self._repository.fetch_ahead)

        if self._tree is None:
            await look()
        else:
            await self._repository.look_ahead(look)

    async def _expect(
        self, expected: range, size: int, expect: Callable[[Sequence[Ref | Piece]], None]
    ) -> None:
        if expected:
            plan = await self._plan(expected.start, len(expected), size)
            expect([extent.content for extent in plan if extent.content])

    async def _plan(self, offset: int, length: int, size: int) -> list[Extent]:
        base: Sequence[Extent] = ()
        if self._tree is not None and self._extents.gaps(offset, offset + length):
            reader = ExtentReader(self._node.backup.nodes, self._tree)
            base = await reader.touching(offset, offset + length)
        return self._extents.plan_read(offset, length, size, base)

    async def _read_extent(self, extent: Extent) -> bytes | memoryview:
        if extent.content is None:
            return bytes(extent.length)
        return await self._repository.read(extent.content, extent.content_offset, extent.length)

    async def _fill(self, plan: list[Extent], offset: int, target: bytearray) -> None:
        filled = [extent for extent in plan if extent.content is not None]
        if len(filled) > 1:
            self._repository.prefetch([extent.content for extent in filled if extent.content])
        for extent in filled:
            start = extent.file_offset - offset
            target[start : start + extent.length] = await self._read_extent(extent)

    # -- writing -----------------------------------------------------------------------------

    @property
    def is_dirty(self) -> bool:
        """Whether the node's entry lacks something that was written."""
        return self._is_touched

    @property
    def allocated_bytes(self) -> int:
        """Bytes that are no holes; while something is written, at least as many as there are."""
        tree_bytes = self._tree.allocated_bytes if self._tree else 0
        flushing_bytes = sum(len(segment.data) for segment in self._flushing)
        placed_bytes = self._extents.allocated_bytes() + tree_bytes + len(self._inline or b"")
        return placed_bytes + flushing_bytes + self._buffer.size_bytes

    @property
    def buffered_bytes(self) -> int:
        """Bytes that wait to be cut."""
        return self._buffer.size_bytes

    async def make_room(self) -> None:
        """Try again to hand over what an earlier write could not; it is not taken otherwise.

        Raises:
            S3backfsError: it still cannot be stored.
        """
        if self._buffer.size_bytes >= self._repository.cut_bytes(CUT_BYTES) and not self._flushing:
            await self._hand_over(is_final=False)

    async def write(self, offset: int, data: bytes) -> None:
        """Take written bytes; waits while memory is spent."""
        self._begin_change()
        self._buffer.write(offset, data)
        if self._buffer.size_bytes >= self._repository.cut_bytes(CUT_BYTES):
            await self._hand_over(is_final=False)
        elif len(self._buffer) >= MANY_SEGMENTS:
            await self._hand_over(is_final=True)

    def _begin_change(self) -> None:
        self._is_touched = True
        self._node.backup.dirty.add(self._node)
        if self._inline is not None:
            inline, self._inline = self._inline, None
            self._buffer.put_under([Segment(0, bytearray(inline))])

    async def truncate(self, size: int, old_size: int) -> None:
        """Drop what lies behind `size`, and let a file that grows again read zeros there."""
        async with self._lock:
            self._begin_change()
            self._buffer.truncate(size)
            if size < old_size:
                self._extents.truncate(size)
                if size == 0:
                    self._tree = None
                    self._extents = ExtentMap()

    def settle_at_once(self) -> bool:
        """Settle without waiting for anything, as a small file allows; False where it does not."""
        if self._is_touched and (self._keep_inline() or self._keep_small()):
            self._note_settled()
        return not self._is_touched

    async def settle(self) -> None:
        """Hand everything over, and put the extents into the node's entry."""
        if self.settle_at_once():
            return
        await self._hand_over(is_final=True)
        await self._defragment()
        if not self._is_touched:
            # Another task has settled it meanwhile; a newer content may be at work by now.
            return
        self._note_settled()

    def _note_settled(self) -> None:
        """Put what is placed into the entry; the entry and the flag change together."""
        if self._buffer.size_bytes == 0 and not self._flushing:
            self._is_touched = False
        entry = self._node.entry
        assert entry is not None
        entry = msgspec.structs.replace(entry, inline=self._inline, extents=self._extents.extents())
        if entry.extra is not None or self._tree is not None:
            extra = msgspec.structs.replace(extra_of(entry), extent_tree=self._tree)
            entry = with_extra(entry, extra)
        self._node.entry = entry
        self._node.backup.names.touch(self._node)

    def _keep_inline(self) -> bool:
        """Keep a tiny file in its entry; the buffer is emptied then."""
        entry = self._node.entry
        assert entry is not None
        if entry.size > INLINE_MAX_BYTES or len(self._extents) or self._tree or self._flushing:
            return False
        content = bytearray(entry.size)
        copy_over(self._buffer.segments, 0, content)
        self._buffer.take()
        self._inline = bytes(content) if entry.size else None
        return True

    def _keep_small(self) -> bool:
        """Place a file that was written in one piece; the buffer is emptied then."""
        segments = self._buffer.segments
        is_small = len(segments) == 1 and self._buffer.size_bytes <= INLINE_CUT_BYTES
        if not is_small or len(self._extents) or self._tree or self._lock.locked():
            return False
        segment = segments[0]
        chunk = memoryview(segment.data)
        if is_zero(chunk):
            self._extents.punch(segment.start, len(chunk))
        elif piece := self._repository.writer.add_at_once(chunk):
            self._extents.write(segment.start, len(chunk), piece, 0)
        else:
            return False
        self._buffer.take()
        self._placed += 1
        return True

    async def _hand_over(self, *, is_final: bool) -> None:
        async with self._lock:
            self._flushing = self._buffer.take()
            try:
                parts = plan_parts(self._flushing)
                for number, part in enumerate(parts):
                    if number % CROWDS_AHEAD == 0:
                        await self._expect_crowds(parts[number : number + CROWDS_AHEAD])
                    if isinstance(part, Crowd):
                        await self._place_crowd(part)
                    else:
                        await self._place(part, is_final=is_final)
                await self._merge_if_large()
            except BaseException:
                # What was refused is not lost: all is handed over again with the next attempt.
                self._buffer.put_under(self._flushing)
                raise
            finally:
                self._flushing = []
                self._placed += 1

    async def _expect_crowds(self, parts: Sequence[Segment | Crowd]) -> None:
        """Let what several crowds lie over come at once; each of them waits for its own."""
        wanted = []
        for part in parts:
            if isinstance(part, Crowd):
                plan = await self._plan(part.start, part.end - part.start, MAX_FILE_BYTES)
                wanted += [extent.content for extent in plan if extent.content is not None]
        if wanted:
            self._repository.prefetch(wanted)

    async def _place_crowd(self, crowd: Crowd) -> None:
        """Write a range with many small segments as one content, with what lies between them."""
        content = bytearray(crowd.end - crowd.start)
        await self._fill(
            await self._plan(crowd.start, len(content), MAX_FILE_BYTES), crowd.start, content
        )
        copy_over(self._flushing, crowd.start, content)
        await self._place_chunk(crowd.start, memoryview(content))

    async def _place(self, segment: Segment, *, is_final: bool) -> None:
        """Cut one segment, and let extents point at its pieces.

        What is left over goes back into the buffer, below what was written since.
        """
        bounds = self._repository.chunk_bounds
        is_final = is_final or len(segment.data) < bounds.max_bytes
        view = memoryview(segment.data)
        if len(view) <= INLINE_CUT_BYTES:
            chunks = [view]
        else:
            chunks = await trio.to_thread.run_sync(_cut, view, bounds, is_final)
        offset = segment.start
        for chunk in chunks:
            await self._place_chunk(offset, chunk)
            offset += len(chunk)
        rest = view[offset - segment.start :]
        if rest:
            self._buffer.put_under([Segment(offset, bytearray(rest))])

    async def _place_chunk(self, offset: int, chunk: memoryview) -> None:
        if is_zero(chunk):
            self._extents.punch(offset, len(chunk))
            return
        piece = await self._repository.writer.add(chunk)
        self._extents.write(offset, len(chunk), piece, 0)

    async def _merge_if_large(self) -> None:
        """Move extents into the extent tree before they are too many for memory."""
        if len(self._extents) <= OVERLAY_MAX_EXTENTS:
            return
        extents = self._extents.extents()
        await self._repository.writer.drain()
        self._tree = await merge_extents(self._node.backup.nodes, self._tree, extents)
        self._extents = ExtentMap(is_overlay=self._tree is not None)

    # -- keeping extents few -----------------------------------------------------------------

    async def _defragment(self) -> None:
        """Read crowded ranges and write them again as one chunk each."""
        if len(self._extents) <= EXTENTS_MAX_INLINE // 2 and self._tree is None:
            windows = plan_defragment(self._extents.extents()) if len(self._extents) > 15 else []
        else:
            windows = plan_defragment(self._extents.extents())
        for number, window in enumerate(windows):
            # The first time all of them, then the one that comes into sight.
            seen = number + WINDOWS_AHEAD - 1 if number else 0
            await self._expect_windows(windows[seen : number + WINDOWS_AHEAD])
            await self._rewrite(window)

    async def _expect_windows(self, windows: Sequence[Window]) -> None:
        """Let what lies in windows come while others are written; memory bounds how much does."""
        wanted = []
        for window in windows:
            plan = await self._plan(window.file_offset, window.length, MAX_FILE_BYTES)
            wanted += [extent.content for extent in plan if extent.content is not None]
        self._repository.prefetch(wanted)

    async def _rewrite(self, window: Window) -> None:
        async with self._lock:
            entry = self._node.entry
            assert entry is not None
            # The file may have been cut since the window was chosen.
            length = min(window.length, entry.size - window.file_offset)
            if length <= 0:
                return
            plan = await self._plan(window.file_offset, length, MAX_FILE_BYTES)
            content = bytearray(length)
            await self._fill(plan, window.file_offset, content)
            await self._place_chunk(window.file_offset, memoryview(content))

    # -- checkpoints -------------------------------------------------------------------------

    def swapped(self, captured: Entry, stored: Entry) -> None:
        """Continue from the stored extents, if the content has not changed since the capture."""
        entry = self._node.entry
        if self._is_touched or entry is None or entry.extents is not captured.extents:
            return
        if extra_of(entry).extent_tree is not extra_of(captured).extent_tree:
            return
        self._placed += 1
        self._tree = extra_of(stored).extent_tree
        self._extents = ExtentMap(stored.extents, is_overlay=self._tree is not None)
        self._node.entry = with_extra(
            msgspec.structs.replace(entry, extents=stored.extents),
            msgspec.structs.replace(entry.extra or NO_EXTRA, extent_tree=self._tree),
        )


def _cut(view: memoryview, bounds: ChunkBounds, is_final: bool) -> list[memoryview]:
    return cut(view, bounds, is_final=is_final)


def _padded(data: bytes, length: int) -> bytes:
    return data if len(data) == length else data.ljust(length, b"\0")
