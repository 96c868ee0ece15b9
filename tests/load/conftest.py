"""Machines for load: the same as for all tests on real mounts."""

from __future__ import annotations

from tests.mount.conftest import machine as machine
from tests.mount.conftest import other as other
from tests.mount.conftest import server as server
from tests.mount.conftest import url as url
