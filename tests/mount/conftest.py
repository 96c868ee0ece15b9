"""Machines and repositories for tests on real mounts."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.mount.trees import differences
from tests.mounts import Machine, Mount
from tests.proxy import Proxy, proxy_for
from tests.servers import Server, rclone_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real S3 server, for the whole session."""
    with rclone_server(tmp_path_factory.mktemp("s3") / "data") as running:
        yield running


@pytest.fixture
def url(server: Server) -> str:
    """A bucket of its own with nothing in it, and a prefix."""
    return f"s3://{server.make_bucket(f'mount-{uuid.uuid4().hex}')}/some/prefix"


@pytest.fixture
def open_home() -> Iterator[Path]:
    """A directory that other users may enter, which they may not with pytest's."""
    with tempfile.TemporaryDirectory(prefix="s3backfs-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def machine(tmp_path: Path, server: Server, url: str) -> Machine:
    """The machine that writes, with a new repository."""
    home = tmp_path / "first"
    home.mkdir()
    made = Machine(home, url, server.environment)
    made.run("init", url)
    return made


@pytest.fixture
def other(tmp_path: Path, machine: Machine) -> Machine:
    """A machine that has never seen the repository."""
    home = tmp_path / "other"
    home.mkdir()
    return Machine(home, machine.url, machine.environment)


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """What stands between `behind` and the server."""
    with proxy_for(server) as running:
        yield running


@pytest.fixture
def behind(machine: Machine, proxy: Proxy, tmp_path: Path) -> Machine:
    """A machine that reaches the repository of `machine` through the proxy only."""
    # Short: the path of a socket lies in it.
    home = tmp_path / "b"
    home.mkdir()
    return Machine(home, machine.url, proxy.server.environment)


@dataclass
class Shared:
    """One mount for many tests; what they compared is compared again on another machine."""

    mount: Mount
    other: Machine
    compared: list[tuple[Path, Path]] = field(default_factory=list)

    def new_backup(self) -> Path:
        """Begin a backup."""
        path = self.mount.path / uuid.uuid4().hex
        path.mkdir()
        return path

    def seal(self, backup: Path) -> None:
        """Make a backup immutable."""
        self.mount.machine.run("seal", str(backup))

    def differences(self, source: Path, path: Path) -> str:
        """What differs from `source`; both must stay as they are now."""
        self.compared.append((source, path))
        return differences(source, path)

    def differences_elsewhere(self) -> str:
        """What another machine reads differently of all that was compared so far."""
        self.mount.machine.run("sync", str(self.mount.path))
        compared, self.compared = self.compared, []
        with self.other.mounted("--read-only") as mount:
            paths = [mount.path / path.relative_to(self.mount.path) for _, path in compared]
            return "".join(
                differences(source, path) for (source, _), path in zip(compared, paths, strict=True)
            )


@pytest.fixture(scope="session")
def shared(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """A mount for all tests that need none of their own; other users may enter it."""
    url = f"s3://{server.make_bucket(f'shared-{uuid.uuid4().hex}')}/shared"
    # Nobody else may enter a directory of pytest's.
    with tempfile.TemporaryDirectory(prefix="s3backfs-test-") as name:
        home = Path(name)
        home.chmod(0o755)
        writer = Machine(home, url, server.environment)
        reader = Machine(tmp_path_factory.mktemp("reader"), url, server.environment)
        writer.run("init", url)
        with writer.mounted("-o", "allow_other") as mount:
            yield Shared(mount, reader)


@pytest.fixture
def backup(shared: Shared) -> Path:
    """An open backup with nothing in it."""
    return shared.new_backup()


@pytest.fixture(scope="session")
def sealed(shared: Shared) -> Path:
    """A sealed backup with a little of everything."""
    path = shared.new_backup()
    (path / "dir" / "empty").mkdir(parents=True)
    (path / "file").write_bytes(b"content")
    os.setxattr(path / "file", "user.name", b"value")
    os.link(path / "file", path / "second name")
    os.symlink("file", path / "link")
    shared.seal(path)
    return path
