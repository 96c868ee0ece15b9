"""What runs only with LOAD_LONG=1, as `make test-load` does."""

from __future__ import annotations

import os

import pytest

IS_LONG = "LOAD_LONG" in os.environ

only_long = pytest.mark.skipif(not IS_LONG, reason="takes long; set LOAD_LONG=1")
