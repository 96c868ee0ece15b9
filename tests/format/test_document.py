"""docs/format.md and the code name the same things."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from pathlib import Path

TOP = Path(__file__).parents[2]
TEXT = (TOP / "docs/format.md").read_text()
HEADINGS = set(re.findall(r"^## (.+)$", TEXT, re.MULTILINE))
SOURCES = [*(TOP / "s3backfs").rglob("*.py")]


def test_every_reference_has_its_section() -> None:
    """Each `Source: docs/format.md, "X"` in the code leads to a section of the document."""
    for path in SOURCES:
        for line in re.findall(r"docs/format\.md, (.+)", path.read_text()):
            named = set(re.findall(r'"([^"]+)"', line))
            assert named <= HEADINGS, path


def test_every_info_string_is_documented() -> None:
    """No key derives with an info string that the document does not name."""
    for path in SOURCES:
        for info in re.findall(r'b"(s3backfs 1 [^"\\]+)"', path.read_text()):
            assert f'"{info}"' in TEXT, path


def test_every_module_is_documented() -> None:
    """Each module of the format is named by the section that it mirrors, and each name exists."""
    named = set(re.findall(r"`(s3backfs/[a-z_/]+\.py)`", TEXT))
    assert all((TOP / name).exists() for name in named)
    modules = {str(path.relative_to(TOP)) for path in (TOP / "s3backfs/format").glob("[a-z]*.py")}
    assert modules <= named


def test_every_vector_is_documented() -> None:
    """Each vector in the file is named in the document, and each name there is in the file."""
    vectors = json.loads((Path(__file__).parent / "vectors.json").read_text())
    names = {
        f"{part}.{section}" if not isinstance(value, dict) else f"{part}.{section}.{name}"
        for part, sections in vectors.items()
        for section, value in sections.items()
        for name in (value if isinstance(value, dict) else ("",))
    }
    patterns = [
        pattern.replace("<mode>", "*")
        for pattern in re.findall(r"`((?:written|read)\.[^`]+)`", TEXT)
    ]
    patterns = [name if name not in ("written.keys", "read.slot") else f"{name}.*"
                for name in patterns]  # fmt: skip
    patterns += ["read.patch_plain", "read.patch_base"]
    for name in names:
        assert any(fnmatch(name, pattern) for pattern in patterns), name
    for pattern in patterns:
        assert any(fnmatch(name, pattern) for name in names), pattern
