"""Tags as extended attributes, as the tools of attr(5) and other users see them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.mount.conftest import Shared
from tests.mount.test_users import User

pytestmark = pytest.mark.mount

OWNER, OTHER = 1234, 65534


def run(*words: str | Path) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("is_sealed", [False, True])
def test_tools_set_and_read_tags(shared: Shared, is_sealed: bool) -> None:
    """setfattr and getfattr set, read and remove tags of open and of sealed backups."""
    top = shared.new_backup()
    if is_sealed:
        shared.seal(top)
    run("setfattr", "-n", "user.s3backfs.tag.release", "-v", "2.4 \u00e4", top)
    assert run("getfattr", "--only-values", "-n", "user.s3backfs.tag.release", top) == "2.4 \u00e4"
    assert run("getfattr", "--only-values", "-n", "user.s3backfs.tags", top) == "release\n"
    assert run("getfattr", "-d", top) == ""
    run("setfattr", "-x", "user.s3backfs.tag.release", top)
    assert run("getfattr", "--only-values", "-n", "user.s3backfs.tags", top) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_only_its_owner_tags_a_backup(shared: Shared) -> None:
    """Who may write into a backup, and does not own it, can neither lock nor unlock it."""
    top = shared.new_backup()
    os.chown(top, OWNER, OWNER)
    top.chmod(0o777)
    set_tag = f"setfattr -n user.s3backfs.tag.locked -v 1 {top}"
    remove = f"setfattr -x user.s3backfs.tag.locked {top}"
    assert "not permitted" in User(OTHER).say(f"LC_ALL=C {set_tag}")
    assert User(OWNER).run(set_tag).returncode == 0
    assert "not permitted" in User(OTHER).say(f"LC_ALL=C {remove}")
    assert User(OWNER).run(remove).returncode == 0
