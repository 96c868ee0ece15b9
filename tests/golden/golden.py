"""Where the golden repositories are, and what they hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FORMATS = sorted(HERE.glob("format-*"))
REPOSITORIES = sorted(path.parent for path in HERE.glob("format-*/*/repository.json"))
PASSPHRASE = b"golden passphrase"
OPENERS = {
    file.parent / name: json.loads(file.read_text())
    for file in HERE.glob("format-*/openers.json")
    for name in ("rotated", "rewrapped")
}
"""What opens a repository, by the kind of slot."""


def name_of(path: Path) -> str:
    return str(path.relative_to(HERE))


def expected(repository: Path) -> dict[str, dict[str, Any]]:
    """What the backups of a repository hold, by backup and path."""
    told: dict[str, dict[str, Any]] = json.loads((repository.parent / "expected.json").read_text())
    return told


def copied(repository: Path, target: Path) -> Path:
    """Copy a repository: a program may leave a lock in it."""
    return Path(shutil.copytree(repository, target))


def refused_cases() -> dict[str, tuple[Path, dict[str, str]]]:
    """The directory and the description of everything that must fail."""
    cases = {}
    for file in HERE.glob("format-*/refused/cases.json"):
        for name, case in json.loads(file.read_text()).items():
            cases[f"{file.parent.parent.name}/{name}"] = (file.parent / name, case)
    return cases
