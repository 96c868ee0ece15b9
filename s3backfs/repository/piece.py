"""A piece of content on its way into the repository.

An extent points at a piece while its bytes are still in memory; the writer sets `ref` when they
have their place in a pack, and drops the bytes. Many extents, in several backups, may share one.
"""

from __future__ import annotations

from s3backfs.format.refs import Ref


class Piece:
    """Bytes that were handed to the writer; `data` until they are sealed, `ref` from then on.

    Exactly one of the two is set. A set `ref` says where the bytes will be, not that the pack is
    durable: that is what `Writer.barrier` waits for.
    """

    __slots__ = ("data", "length", "ref")

    def __init__(self, data: bytes | memoryview) -> None:
        self.data: bytes | memoryview | None = data
        self.length: int = len(data)
        self.ref: Ref | None = None

    def settle(self, ref: Ref) -> None:
        """Take the place the bytes were given, and let go of them."""
        self.ref = ref
        self.data = None
