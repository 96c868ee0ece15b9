"""Nights as cron sees them: a backup, then forget, prune and check, by commands alone."""

from __future__ import annotations

import pytest

from tests.mounts import Machine

pytestmark = pytest.mark.mount


def look_after(machine: Machine) -> None:
    """Drop what is not needed, at once, and check; each command ends with 0."""
    machine.run("forget", "--keep-last", "1", "--max-share", "100%")
    machine.run("prune", "--grace", "0s")
    assert "sound" in machine.run("check").stdout


def test_nights_of_forgetting_and_pruning_are_sound(machine: Machine) -> None:
    """What was removed on purpose is no damage, though the newest backup has seen it."""
    for night in range(2):
        with machine.mounted("--allow-forget") as mount:
            (mount.path / f"host-2026-01-0{night + 1}").mkdir()
            (mount.path / f"host-2026-01-0{night + 1}" / "file").write_text("x" * 5000)
        look_after(machine)
    with machine.mounted("--keep-open") as mount:
        (mount.path / "host-2026-01-02").rename(mount.path / "renamed")
    look_after(machine)
