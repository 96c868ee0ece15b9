"""Whatever bytes a decoder gets, it reads them or calls them damaged, and stays small."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3backfs.errors import IntegrityError
from s3backfs.format.codec import MAX_PLAIN_BYTES
from s3backfs.manifest.node import ENTRIES, EXTENTS, MAX_NODE_BYTES, decode_node
from tests.fuzz.targets import TARGETS, Target, resigned

EXAMPLES_COUNT = int(os.environ.get("FUZZ_EXAMPLES", "50"))

each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)

SURPRISES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 15, 16, 255, 2**16, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63),
    *(2**64 - 1, -(2**63), 1.5, float("inf"), "", "x", "\ud800", "\x1b[2J", "9" * 5000),
    *(b"", b"\0", b"/", b"..", bytes(16), bytes(300), [], {}, [[]], [[[[[[[]]]]]]], {"a": 1}),
)


@each_target
def test_samples_are_read(target: Target) -> None:
    """The first valid input is read: what the others mutate reaches the decoder."""
    target.read(target.samples[0])
    for sample in target.samples:
        target.run(sample)


@each_target
@given(data=st.binary(max_size=2000))
@settings(max_examples=EXAMPLES_COUNT // 2, deadline=None)
def test_arbitrary_bytes(target: Target, data: bytes) -> None:
    """Bytes of nobody raise what the decoder documents, and nothing else."""
    target.run(data)


@each_target
@given(data=st.data())
@settings(max_examples=EXAMPLES_COUNT, deadline=None)
def test_mutated_bytes(target: Target, data: st.DataObject) -> None:
    """A valid input with bytes changed, cut out or put in raises what is documented, or reads."""
    mutated = bytearray(data.draw(st.sampled_from(target.samples)))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(mutated)))
        length = data.draw(st.sampled_from([0, 1, 1, 2, 4, 16]))
        mutated[start : start + length] = data.draw(st.binary(max_size=8))
    target.run(bytes(mutated))


@each_target
@given(data=st.data())
@settings(max_examples=EXAMPLES_COUNT, deadline=None)
def test_mutated_values(target: Target, data: st.DataObject) -> None:
    """A valid input with one value replaced by a surprising one is refused as documented, or read.

    The result is written in the form of the input again, a slot's digest included.
    """
    sample = data.draw(st.sampled_from(target.samples))
    value, encode = _value_of(sample)
    changed = _mutated(value, data.draw)
    try:
        target.run(encode(changed))
    except UnencodableError:
        return


class UnencodableError(Exception):
    """A changed value cannot be written."""


def _value_of(sample: bytes) -> tuple[Any, Callable[[Any], bytes]]:
    if sample.startswith(b"{"):
        return json.loads(sample), _write_json
    try:
        return msgspec.msgpack.decode(sample, strict=False), _write_msgpack
    except (msgspec.DecodeError, ValueError):
        return sample, lambda value: value if isinstance(value, bytes) else b""


def _write_json(value: Any) -> bytes:
    try:
        return resigned(json.dumps(value).encode())
    except (TypeError, ValueError) as error:
        raise UnencodableError from error


def _write_msgpack(value: Any) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UnencodableError from error


def _mutated(value: Any, draw: Callable[[st.SearchStrategy[Any]], Any]) -> Any:
    """Replace, drop or repeat one value somewhere inside."""
    if isinstance(value, (list, dict)) and value and draw(st.integers(0, 4)):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = draw(st.sampled_from(keys))
        copied = value.copy()
        match draw(st.sampled_from(["in", "in", "in", "drop", "repeat"])):
            case "drop":
                del copied[key]
            case "repeat" if isinstance(copied, list):
                copied.insert(key, copied[key])
            case _:
                copied[key] = _mutated(value[key], draw)
        return copied
    return draw(st.sampled_from(SURPRISES))


def _nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\x90"


@each_target
@pytest.mark.parametrize(
    "bomb",
    [
        *(_nested(depth) for depth in (500, 100_000)),
        *(b"\x81\xa1b" * 100_000, b"[" * 100_000, b'{"a":' * 100_000),
        # Arrays, maps, strings that state four thousand million items and have none.
        *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"),
        *(b"\x99" + b"\xdd\xff\xff\xff\xff" * 9, b"9" * 200_000, b"\0" * 200_000),
    ],
    ids=lambda bomb: f"{bomb[:5].hex()}x{len(bomb)}",
)
def test_bombs(target: Target, bomb: bytes) -> None:
    """Depth and stated lengths cost no memory to speak of, and are refused as documented."""
    tracemalloc.start()
    try:
        target.run(bomb)
        for sample in target.samples:
            target.run(sample + bomb)
            target.run(sample[: len(sample) // 2] + bomb)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 32 << 20


@pytest.mark.parametrize("family", [ENTRIES, EXTENTS], ids=["entries", "extents"])
def test_a_node_has_a_bound(family: Any) -> None:
    """A node of many rows, which compress to nothing, is refused before it is decoded."""
    assert MAX_NODE_BYTES < MAX_PLAIN_BYTES
    row = msgspec.msgpack.encode([b"n", 1, 1, 1, 1, 1, 1, None, [], None])
    data = row * (MAX_NODE_BYTES // len(row) + 1)
    with pytest.raises(IntegrityError, match="longer"):
        decode_node(family, data)
