"""Where a stream of bytes is cut into chunks.

Source: docs/format.md, "Chunks" (the cuts are the writer's choice; readers do not need them).
"""

from __future__ import annotations

from fastcdc import fastcdc

from s3backfs.format.parameters import ChunkBounds

_STEP = 64 * 1024
_ZEROS = bytes(_STEP)


def cut(data: memoryview, bounds: ChunkBounds, *, is_final: bool) -> list[memoryview]:
    """Cut `data` by content into views; what is left over at the end is not among them.

    Unless `is_final`, a chunk is cut only where more bytes could not move the cut, so that a
    stream gets the same chunks however it is handed over. A final call leaves nothing over.
    """
    chunks: list[memoryview] = []
    start = 0
    while start < len(data) and (is_final or len(data) - start >= bounds.max_bytes):
        window = data[start : start + bounds.max_bytes]
        first = next(fastcdc(window, bounds.min_bytes, bounds.average_bytes, bounds.max_bytes))
        chunks.append(data[start : start + first.length])
        start += first.length
    return chunks


def is_zero(data: memoryview) -> bool:
    """Say whether every byte is zero; data that is not costs next to nothing."""
    if data[0] or data[-1] or data[len(data) // 2]:
        return False
    return all(
        bytes(data[start : start + _STEP]) == _ZEROS[: len(data) - start]
        for start in range(0, len(data), _STEP)
    )
