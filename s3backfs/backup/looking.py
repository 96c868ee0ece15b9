"""The roots in the store, as far as these credentials may list them."""

from __future__ import annotations

from s3backfs.backup.copies import Beside, list_beside
from s3backfs.backup.finding import Found, list_roots, look_for
from s3backfs.errors import DeniedError
from s3backfs.format.keys import Keyring
from s3backfs.store.base import Store


class Looking:
    """Lists roots; who may not, and wants `only` one to read, looks for that."""

    def __init__(
        self, store: Store, keyring: Keyring, *, only: bytes | None, is_read_only: bool
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._only = only
        self._is_read_only = is_read_only
        self._is_blind = False

    async def find(self) -> dict[bytes, Found]:
        """List all roots, or look for the one that is wanted.

        Raises:
            DeniedError: these credentials may do neither.
        """
        if not self._is_blind:
            try:
                return await list_roots(self._store, self._keyring)
            except DeniedError as error:
                self._go_blind(error)
        assert self._only is not None
        return await look_for(self._store, self._keyring, self._only)

    async def beside(self) -> Beside:
        """List what stands beside the roots; nothing where that may not be listed.

        Raises:
            DeniedError: it may not be listed, and must be.
        """
        if not self._is_blind:
            try:
                return await list_beside(self._store)
            except DeniedError as error:
                self._go_blind(error)
        return Beside()

    def wanted(self, found: dict[bytes, Found]) -> dict[bytes, Found]:
        """Of what was found leave what this mount shows."""
        if self._only is None:
            return found
        return {name: entry for name, entry in found.items() if name == self._only}

    def _go_blind(self, error: DeniedError) -> None:
        """Do without listings, as far as that is possible."""
        if self._only is None or not self._is_read_only:
            text = f"{error}; who may not list mounts with -o ro --backup NAME"
            raise DeniedError(text) from error
        self._is_blind = True
