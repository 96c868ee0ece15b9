"""Reading the table at the end of a pack, which says all that the pack holds."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from s3backfs.errors import UnsupportedFormatError
from s3backfs.format.keys import Keyring
from s3backfs.format.pack import FOOTER_BYTES, TAIL_BYTES, PackTable, decode_footer, open_pack_table
from s3backfs.format.refs import Kind
from s3backfs.repository.packing import pack_key
from s3backfs.store.base import Store


@dataclass(frozen=True, slots=True)
class PackContents:
    """What a pack holds; `rows` are sorted by offset."""

    pack_id: bytes
    kind: Kind
    epoch: int
    length_bytes: int
    rows: PackTable


async def load_pack_table(
    store: Store, keyring: Keyring, kind: Kind, pack_id: bytes, length_bytes: int
) -> PackContents:
    """Read what a pack of a known length holds, in one or two GETs.

    Raises:
        IntegrityError: footer or table are damaged, or of another pack.
        UnsupportedFormatError: a newer program wrote it.
        ObjectMissingError: it is gone.
    """
    key = pack_key(kind, pack_id)
    tail = (await store.get(key, offset=-min(length_bytes, TAIL_BYTES))).data
    try:
        footer = decode_footer(tail, length_bytes)
    except UnsupportedFormatError as error:
        raise UnsupportedFormatError(f"{key}: {error}") from error
    if footer.tail_length > len(tail):
        tail = (await store.get(key, offset=-footer.tail_length)).data
    cipher = keyring.pack_cipher(kind, pack_id, footer.epoch)
    end = len(tail) - FOOTER_BYTES
    frame = tail[end - footer.table_length : end]
    rows = await trio.to_thread.run_sync(open_pack_table, cipher, footer, frame, length_bytes)
    return PackContents(pack_id, kind, footer.epoch, length_bytes, rows)
