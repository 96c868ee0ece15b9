"""Whether somebody may go through a directory, as the kernel decides it on the way down.

Pure. Needed where a name is reached without its directories having been passed.
Source: path_resolution(7), acl(5) "ACCESS CHECK ALGORITHM".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from s3backfs.fs import acl
from s3backfs.manifest.entry import Entry, extra_of

SEARCH = 1


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks; `is_member` says whether a group is one of theirs."""

    uid: int
    is_member: Callable[[int], bool]


@dataclass(frozen=True, slots=True)
class Guard:
    """What of a directory decides who may pass."""

    mode: int
    uid: int
    gid: int
    access_list: bytes | None = None

    @classmethod
    def of(cls, entry: Entry) -> Guard:
        """The guard of a directory whose extended attributes are loaded."""
        return cls(entry.mode, entry.uid, entry.gid, extra_of(entry).xattrs.get(acl.ACCESS))

    def lets_pass(self, asker: Asker) -> bool:
        """Whether somebody may look up names in this directory."""
        if asker.uid == 0:
            return True
        if asker.uid == self.uid:
            return bool(self.mode >> 6 & SEARCH)
        if self.access_list is not None:
            return self._list_lets_pass(acl.decode(self.access_list), asker)
        if asker.is_member(self.gid):
            return bool(self.mode >> 3 & SEARCH)
        return bool(self.mode & SEARCH)

    def _list_lets_pass(self, entries: list[acl.AclEntry], asker: Asker) -> bool:
        mask = next((each.permissions for each in entries if each.tag == acl.MASK), 7)
        for each in entries:
            if each.tag == acl.USER and each.id == asker.uid:
                return bool(each.permissions & mask & SEARCH)
        groups = [each for each in entries if self._is_of_group(each, asker)]
        if groups:
            return any(each.permissions & mask & SEARCH for each in groups)
        return bool(self.mode & SEARCH)

    def _is_of_group(self, entry: acl.AclEntry, asker: Asker) -> bool:
        if entry.tag == acl.GROUP_OBJ:
            return asker.is_member(self.gid)
        return entry.tag == acl.GROUP and asker.is_member(entry.id)
