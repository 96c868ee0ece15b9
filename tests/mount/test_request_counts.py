"""How many requests small works cost: on a real store each of them is paid, and waited for."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.mounts import Machine, Mount


def _requests_count(mount: Mount) -> int:
    status = json.loads((mount.path / ".s3backfs" / "status.json").read_text())
    return sum(status["requests"].values())


def _write_tree(top: Path) -> None:
    for number in range(20):
        folder = top / f"directory {number}"
        folder.mkdir()
        for name in range(50):
            (folder / f"file {name}").write_bytes(b"%d/%d" % (number, name) * 200)


def test_small_files_cost_few_requests(machine: Machine) -> None:
    """Mounting, writing a thousand small files and sealing take 38 requests at most."""
    with machine.mounted() as mount:
        (mount.path / "backup").mkdir()
        _write_tree(mount.path / "backup")
        machine.run("seal", str(mount.path / "backup"))
        assert _requests_count(mount) <= 38


def test_a_cold_walk_costs_few_requests(machine: Machine, other: Machine) -> None:
    """On a fresh machine, mounting and looking at every name take 9 requests at most."""
    with machine.mounted() as mount:
        (mount.path / "backup").mkdir()
        _write_tree(mount.path / "backup")
    with other.mounted("--read-only") as mount:
        assert sum(1 for path in mount.path.rglob("file *") if path.stat().st_size) == 1000
        assert _requests_count(mount) <= 9


def _shuffled(chance: random.Random, folder: Path) -> list[Path]:
    paths = list(folder.iterdir())
    chance.shuffle(paths)
    return paths


def test_a_cold_restore_costs_few_requests(machine: Machine, other: Machine) -> None:
    """On a fresh machine, reading 20 MB of 600 directories, in any order, takes 15 GETs at most."""
    chance = random.Random(5)
    with machine.mounted() as mount:
        for number in range(600):
            folder = mount.path / "backup" / f"part {number // 30}" / f"directory {number}"
            folder.mkdir(parents=True)
            for name in range(2):
                (folder / f"file {name}").write_bytes(chance.randbytes(17_000))
    with other.mounted("--read-only") as mount:
        for part in _shuffled(chance, mount.path / "backup"):
            for folder in _shuffled(chance, part):
                for path in _shuffled(chance, folder):
                    assert len(path.read_bytes()) == 17_000
        status = json.loads((mount.path / ".s3backfs" / "status.json").read_text())
        assert status["requests"]["get"] <= 15
