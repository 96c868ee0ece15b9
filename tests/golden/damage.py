"""Make the files below format-1/refused: how, for the record.

    python tests/golden/damage.py tests/golden/format-1

Each case is a directory with the few objects that stand in the place of those of a good
repository; `cases.json` says which, and what a program must say.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blake3 import blake3
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Json = dict[str, Any]
Change = Callable[[bytes], bytes]
NEWER = b'{"format": 2, "product": "s3backfs", "what": {"nobody": "knows"}}'


def canonical(value: Json) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def edited(**changes: Any) -> Change:
    """Change fields, and leave digests and macs as they were."""
    return lambda data: canonical(json.loads(data) | changes)


def with_mac(**changes: Any) -> Change:
    """Change fields of a repository.json without encryption as its owner could."""

    def change(data: bytes) -> bytes:
        fields = json.loads(data) | changes
        del fields["mac"]
        master = base64.b64decode(fields["master"])
        key = HKDF(SHA256(), 32, b"", b"s3backfs 1 parameters").derive(master)
        return canonical(fields | {"mac": blake3(canonical(fields), key=key).hexdigest()})

    return change


def with_digest(**changes: Any) -> Change:
    """Change fields of a key slot, with a digest that fits."""

    def change(data: bytes) -> bytes:
        fields = json.loads(data) | changes
        del fields["digest"]
        return canonical(fields | {"digest": blake3(canonical(fields)).hexdigest()})

    return change


def flipped(offset: int) -> Change:
    """Change one bit."""

    def change(data: bytes) -> bytes:
        at = offset % len(data)
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    return change


def length(path: Path) -> int:
    return path.stat().st_size


def replaced(offset: int, new: bytes) -> Change:
    return lambda data: data[:offset] + new + data[offset + len(new) :]


def main(directory: str) -> None:
    top = Path(directory)
    plain, encrypted = top / "plain", top / "encrypted"
    (slot,) = (encrypted / "keys").iterdir()
    roots = sorted((encrypted / "backups").iterdir())
    newer, damaged, wrong = "UnsupportedFormatError", "IntegrityError", "WrongKeyError"
    dear = {"lanes": 4, "memory_kib": 1 << 21, "passes": 3}
    cases: list[tuple[str, Path, str, str, Change]] = [
        ("newer-repository", encrypted / "repository.json", "open", newer, edited(format=2)),
        ("newer-layout", plain / "repository.json", "open", newer, lambda _: NEWER),
        ("unknown-feature", plain / "repository.json", "open", newer, with_mac(requires=["new"])),
        ("changed-parameters", plain / "repository.json", "open", damaged, edited(created_s=1)),
        ("other-json", plain / "repository.json", "open", damaged, lambda data: data + b"\n"),
        ("encryption-off", encrypted / "repository.json", "open", damaged, edited(
            encryption="none", master=base64.b64encode(bytes(32)).decode())),
        ("damaged-slot", slot, "open", damaged, flipped(100)),
        ("changed-slot", slot, "open", damaged, edited(epoch=1)),
        ("dear-slot", slot, "open", damaged, with_digest(argon2id=dear)),
        ("other-slot-salt", slot, "open", wrong, with_digest(salt="A" * 22 + "==")),
        ("newer-root", roots[0], "root", newer, replaced(4, b"\2")),
        ("damaged-root", roots[0], "root", damaged, flipped(-1)),
        ("root-of-another-name", roots[0], "root", damaged, lambda _: roots[1].read_bytes()),
        ("plain-damaged-root", plain / "backups" / "monday", "root", damaged, flipped(60)),
        ("plain-root-of-another-name", plain / "backups" / "monday", "root", damaged,
            lambda _: (plain / "backups" / "tuesday").read_bytes()),
    ]  # fmt: skip
    for room in ("encrypted", "plain"):
        small, *_ = sorted((top / room / "data").iterdir(), key=length)
        *_, large = sorted((top / room / "meta").iterdir(), key=length)
        cases += [
            (f"{room}-damaged-data", small, "content", damaged, flipped(50)),
            (f"{room}-short-data", small, "content", damaged, lambda data: data[:9]),
            # An extent tree comes first in this pack, then leaves of entries.
            (f"{room}-damaged-extents", large, "content", damaged, flipped(50)),
            (f"{room}-damaged-meta", large, "names", damaged, flipped(10_000)),
            (f"{room}-short-meta", large, "names", damaged, lambda data: data[:7000]),
        ]
    write(top, cases)


def write(top: Path, cases: list[tuple[str, Path, str, str, Change]]) -> None:
    told: Json = {}
    for name, path, stage, error, change in cases:
        place = path.relative_to(top)
        target = top / "refused" / name / Path(*place.parts[1:])
        target.parent.mkdir(parents=True)
        target.write_bytes(change(path.read_bytes()))
        told[name] = {"instead_of": place.parts[0], "at": stage, "error": error}
    lines = (f'"{name}": {json.dumps(case)}' for name, case in told.items())
    (top / "refused" / "cases.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
