"""What storing costs: a table of prices in TOML, and what follows for a repository."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import msgspec

from s3backfs.errors import ConfigurationError

PRICES_TOML = """\
# Prices for `s3backfs stats --prices FILE`, in one currency, without taxes. These are of one
# region and one day; write your own. A table for each storage class.
currency = "USD"

[classes.STANDARD]
storage_gib_month = 0.023
put_1000 = 0.005
get_1000 = 0.0004
retrieval_gib = 0.0

[classes.STANDARD_IA]
storage_gib_month = 0.0125
put_1000 = 0.01
get_1000 = 0.001
retrieval_gib = 0.01

[classes.GLACIER_IR]
storage_gib_month = 0.004
put_1000 = 0.02
get_1000 = 0.01
retrieval_gib = 0.03
"""

_GIB = 1 << 30
_READ_BYTES = 8 * 1024 * 1024
"""So much one GET of a restore brings, about."""


Price = Annotated[float, msgspec.Meta(ge=0)]


class Prices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The prices of one storage class."""

    storage_gib_month: Price
    put_1000: Price = 0.0
    get_1000: Price = 0.0
    retrieval_gib: Price = 0.0


class PriceTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices by storage class."""

    currency: str = ""
    classes: dict[str, Prices]


class Cost(msgspec.Struct, frozen=True):
    """What a month will cost if it is like the last one, and one restore of everything."""

    storage_class: str
    storage: float
    requests: float
    restore: float

    @property
    def month(self) -> float:
        """Storage and requests of a month."""
        return self.storage + self.requests


def load_prices(path: Path | None) -> PriceTable:
    """Read a price table; without a file the built-in one.

    Raises:
        ConfigurationError: the file cannot be read, or is no such table.
    """
    try:
        text = PRICES_TOML if path is None else path.read_text()
        return msgspec.convert(tomllib.loads(text), PriceTable)
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise ConfigurationError(f"{path}: no table of prices: {error}") from error


def project_costs(
    table: PriceTable, stored_bytes: float, growth_bytes: float, puts: float
) -> list[Cost]:
    """The costs of the month to come in each class; growth and requests are those of a month."""
    gib = (stored_bytes + growth_bytes) / _GIB
    gets = stored_bytes / _READ_BYTES
    return [
        Cost(
            name,
            storage=gib * prices.storage_gib_month,
            requests=puts / 1000 * prices.put_1000,
            restore=gets / 1000 * prices.get_1000 + stored_bytes / _GIB * prices.retrieval_gib,
        )
        for name, prices in table.classes.items()
    ]
