"""Access control lists, against the rules of acl(5)."""

from __future__ import annotations

import errno
import stat
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3backfs.errors import FileSystemError
from s3backfs.fs import acl
from s3backfs.fs.acl import AclEntry
from tests.fs.strategies import examples

NO_ID = 0xFFFFFFFF
permissions = st.integers(0, 7)
modes = st.integers(0, 0o7777)


@st.composite
def lists(draw: st.DrawFn) -> list[AclEntry]:
    """Valid lists: three base entries, named ones, and a mask where there must be one."""
    named = [
        AclEntry(tag, draw(permissions), number)
        for tag in (acl.USER, acl.GROUP)
        for number in sorted(draw(st.sets(st.integers(0, 70_000), max_size=3)))
    ]
    entries = [
        AclEntry(tag, draw(permissions), NO_ID) for tag in (acl.USER_OBJ, acl.GROUP_OBJ, acl.OTHER)
    ]
    if named or draw(st.booleans()):
        named.append(AclEntry(acl.MASK, draw(permissions), NO_ID))
    return sorted([*entries, *named], key=lambda entry: (entry.tag, entry.id))


def permissions_of(entries: list[AclEntry], tag: int) -> int:
    return next(entry.permissions for entry in entries if entry.tag == tag)


def has_mask(entries: list[AclEntry]) -> bool:
    return any(entry.tag == acl.MASK for entry in entries)


PROPERTY = settings(deadline=None, max_examples=examples(100, 10_000))


@PROPERTY
@given(entries=lists())
def test_lists_travel_unchanged(entries: list[AclEntry]) -> None:
    """Decoding undoes encoding."""
    assert acl.decode(acl.encode(entries)) == entries


@PROPERTY
@given(entries=lists(), mode=modes)
def test_a_list_of_three_lines_is_a_mode(entries: list[AclEntry], mode: int) -> None:
    """The short way to the mode agrees with the long one, and is for lists of three lines only."""
    folded, rest = acl.folded(entries, mode)
    assert acl.minimal_mode(acl.encode(entries), mode) == (folded if rest is None else None)


@PROPERTY
@given(value=st.binary(min_size=28, max_size=28))
def test_the_short_way_refuses_what_is_no_list(value: bytes) -> None:
    """What the decoder refuses has no mode."""
    with suppress(FileSystemError):
        acl.decode(value)
        return
    assert acl.minimal_mode(value, 0o644) is None


@PROPERTY
@given(value=st.binary(max_size=80))
def test_what_is_no_list_is_refused(value: bytes) -> None:
    """Any bytes are a list that encodes to the same bytes, or refused."""
    with suppress(FileSystemError):
        assert acl.encode(acl.decode(value)) == value


@PROPERTY
@given(entries=lists(), mode=modes)
def test_mode_shows_owner_mask_and_others(entries: list[AclEntry], mode: int) -> None:
    """The group bits of the mode are the mask, else the group; a minimal list is kept nowhere."""
    found, kept = acl.folded(entries, stat.S_IFREG | mode)
    group = acl.MASK if has_mask(entries) else acl.GROUP_OBJ
    tags = (acl.USER_OBJ, group, acl.OTHER)
    owner, middle, others = (permissions_of(entries, tag) for tag in tags)
    assert found == stat.S_IFREG | mode & 0o7000 | owner << 6 | middle << 3 | others
    assert kept == (None if len(entries) == 3 else entries)


@PROPERTY
@given(entries=lists(), mode=modes)
def test_chmod_and_folding_agree(entries: list[AclEntry], mode: int) -> None:
    """After chmod the list says what the mode says, and what it says of others stays."""
    changed = acl.decode(acl.after_chmod(acl.encode(entries), mode))
    assert acl.folded(changed, 0)[0] == mode & 0o777
    untouched = (acl.USER, acl.GROUP, *([acl.GROUP_OBJ] if has_mask(entries) else []))
    before = [entry for entry in entries if entry.tag in untouched]
    assert [entry for entry in changed if entry.tag in untouched] == before


@PROPERTY
@given(entries=lists(), mode=modes, kind=st.sampled_from([stat.S_IFREG, stat.S_IFDIR]))
def test_inheriting_never_grants_more(entries: list[AclEntry], mode: int, kind: int) -> None:
    """A new inode has no right that the mode asked for or the default list does not grant."""
    found, taken = acl.inherited({acl.DEFAULT: acl.encode(entries)}, kind | mode)
    assert found & 0o777 & ~mode == 0
    assert found & ~0o777 == (kind | mode) & ~0o777
    assert (acl.DEFAULT in taken) == (kind == stat.S_IFDIR)
    if acl.ACCESS in taken:
        assert acl.folded(acl.decode(taken[acl.ACCESS]), found)[0] == found


def test_links_inherit_nothing() -> None:
    """A symbolic link has no list, whatever its directory's default is."""
    default = acl.encode([AclEntry(tag, 7, NO_ID) for tag in (1, 4, 32)])
    assert acl.inherited({acl.DEFAULT: default}, stat.S_IFLNK | 0o777)[1] == {}


@pytest.mark.parametrize("tags", [(1, 4), (1, 1, 4, 32), (1, 2, 4, 32), (1, 4, 16, 16, 32)])
def test_lists_with_missing_or_double_entries_are_refused(tags: tuple[int, ...]) -> None:
    """Every base entry stands exactly once, and a mask at most once, with named entries always."""
    with pytest.raises(FileSystemError) as caught:
        acl.decode(acl.encode([AclEntry(tag, 7, 0) for tag in tags]))
    assert caught.value.errno_code == errno.EINVAL
