"""Writer ids of verbs of maintenance that were killed on this machine."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from s3backfs.repository.local_state import WriterIdentity, boot_id

DEAD = bytes(range(16))


def _leave(directory: Path, text: str) -> Path:
    path = directory / "writers" / DEAD.hex()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_killed_verb_is_found(tmp_path: Path) -> None:
    """The id is held, and its file goes when nothing is left of it."""
    path = _leave(tmp_path, f"maintenance {boot_id()}\n")
    with closing(WriterIdentity(tmp_path, takes_dead=False)) as identity:
        assert identity.hold_dead_maintenance() == [DEAD]
        identity.forget_dead([DEAD])
        assert not path.exists()


def test_a_verb_at_work_is_left_alone(tmp_path: Path) -> None:
    """What another process works under is not held, also where it began first."""
    with (
        closing(WriterIdentity(tmp_path, takes_dead=False)),
        closing(WriterIdentity(tmp_path, takes_dead=False)) as other,
    ):
        assert other.hold_dead_maintenance() == []


def test_other_boots_and_mounts_are_left_alone(tmp_path: Path) -> None:
    """A clone of the disk shows files of live processes elsewhere; a mount may own backups."""
    with closing(WriterIdentity(tmp_path, takes_dead=False)) as identity:
        for text in ("maintenance another-boot\n", "", "finishing\n"):
            _leave(tmp_path, text)
            assert identity.hold_dead_maintenance() == []


def test_mounts_leave_killed_verbs_to_maintenance(tmp_path: Path) -> None:
    """A mount takes over from dead mounts only: a verb owns no open backup, but has a lease."""
    path = _leave(tmp_path, f"maintenance {boot_id()}\n")
    with closing(WriterIdentity(tmp_path)) as mount:
        assert not mount.is_own(DEAD)
        mount.retire_dead()
    assert path.exists()
