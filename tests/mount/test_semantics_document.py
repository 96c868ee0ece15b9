"""docs/semantics.md and the tests it names."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
DOCUMENT = HERE.parent.parent / "docs" / "semantics.md"


def defined(pattern: str) -> set[str]:
    text = "".join(path.read_text() for path in HERE.glob(pattern))
    return set(re.findall(r"^def (test_\w+)", text, re.MULTILINE))


def named() -> set[str]:
    words = set(re.findall(r"`(test_\w+)`", DOCUMENT.read_text()))
    return {word for word in words if not (HERE / f"{word}.py").exists()}


def test_every_named_test_exists() -> None:
    """docs/semantics.md names no test that is not there."""
    assert named() - defined("test_*.py") == set()


def test_every_semantics_test_is_named() -> None:
    """Each test of a semantics file stands behind a claim of the document."""
    own = defined("test_semantics_document.py")
    assert defined("test_semantics_*.py") - own - named() == set()
