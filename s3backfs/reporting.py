"""What long work says of itself while it goes on; who shows it is not its matter."""

from __future__ import annotations

from typing import Protocol


class Report(Protocol):
    """Takes what is being done, and how much of it is done where that is known.

    `done` and `total` are in any unit; a total of 0 is one that is not known. It is called often
    and must be cheap.
    """

    def __call__(self, text: str, done: float = 0, total: float = 0) -> None:
        """Say what is being done now."""
        ...


def silent(text: str, done: float = 0, total: float = 0) -> None:
    """Say nothing."""
