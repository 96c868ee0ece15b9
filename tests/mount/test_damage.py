"""What is damaged in the bucket is an error for what it touches, and for nothing else."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounts import Machine

pytestmark = pytest.mark.mount

SIZE_BYTES = 12 << 20
CONTENT = os.urandom(SIZE_BYTES)
STEP_BYTES = 64 << 10
MANY_COUNT = 2000


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A repository on the local disk with two backups."""
    path = tmp_path / "repository"
    path.mkdir()
    home = tmp_path / "maker"
    home.mkdir()
    maker = Machine(home, path.as_uri())
    maker.run("init")
    with maker.mounted() as mount:
        for backup in ("monday", "tuesday"):
            (mount.path / backup / "many").mkdir(parents=True)
            for number in range(2000):
                (mount.path / backup / "many" / f"{backup} {number}").touch()
            maker.run("seal", str(mount.path / backup))
        (mount.path / "wednesday").mkdir()
        (mount.path / "wednesday" / "large").write_bytes(CONTENT)
        (mount.path / "wednesday" / "tiny").write_bytes(b"tiny")
    return path


@pytest.fixture
def reader(tmp_path: Path, directory: Path) -> Machine:
    home = tmp_path / "reader"
    home.mkdir()
    return Machine(home, directory.as_uri())


def flip(path: Path, offset: int) -> None:
    """Change one bit of a file."""
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def largest(directory: Path) -> Path:
    return max(directory.iterdir(), key=lambda path: path.stat().st_size)


def listed(machine: Machine) -> tuple[int, dict[str, str]]:
    done = machine.run("list", "--json", check=False)
    return done.returncode, {row["name"]: row["state"] for row in json.loads(done.stdout)}


@contextlib.contextmanager
def only_eio() -> Iterator[None]:
    """Let EIO pass, and no other error."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


def readable_steps(path: Path) -> list[bool]:
    """Which parts of a file can be read; those must hold the right bytes."""
    readable = []
    with path.open("rb", buffering=0) as file:
        for offset in range(0, SIZE_BYTES, STEP_BYTES):
            data = b""
            with only_eio():
                data = os.pread(file.fileno(), STEP_BYTES, offset)
            # What lies before the damage may be given as a short read.
            assert data == CONTENT[offset : offset + len(data)]
            readable.append(len(data) == STEP_BYTES)
    return readable


def test_a_damaged_chunk(directory: Path, reader: Machine) -> None:
    """One chunk's bytes answer EIO, the rest reads; the log names file, pack and offset."""
    pack = largest(directory / "data")
    flip(pack, SIZE_BYTES // 2)
    with reader.mounted("--read-only") as mount:
        steps = readable_steps(mount.path / "wednesday" / "large")
        assert (mount.path / "wednesday" / "tiny").read_bytes() == b"tiny"
        assert len(os.listdir(mount.path / "monday" / "many")) == 2000
    # A chunk has at most 8 MiB, so both ends are whole, and what is not lies in one piece.
    assert steps[0]
    assert steps[-1]
    assert 0 < steps.count(False) < len(steps) // 2
    assert steps[steps.index(False) :].index(True) == steps.count(False)
    lines = [line for line in reader.log().splitlines() if "wednesday/large" in line]
    assert lines
    assert all(f"data/{pack.name} at byte " in line for line in lines)


@pytest.mark.parametrize("place", ["footer", "index"])
def test_unneeded(place: str, directory: Path, reader: Machine) -> None:
    """A damaged pack table and damaged index segments harm no reader, and no writer."""
    if place == "footer":
        for pack in [*(directory / "data").iterdir(), *(directory / "meta").iterdir()]:
            flip(pack, pack.stat().st_size - 40)
    for segment in (directory / "index").iterdir():
        flip(segment, segment.stat().st_size // 2)
    with reader.mounted() as mount:
        assert all(readable_steps(mount.path / "wednesday" / "large"))
        (mount.path / "thursday").mkdir()
        (mount.path / "thursday" / "large").write_bytes(CONTENT)
    with reader.mounted() as mount:
        assert (mount.path / "thursday" / "large").read_bytes() == CONTENT


def test_a_damaged_root(directory: Path, reader: Machine) -> None:
    """A backup whose root is damaged keeps its name and answers EIO; the others are whole."""
    root = sorted((directory / "backups").iterdir())[0]
    flip(root, root.stat().st_size // 2)
    code, found = listed(reader)
    assert (code, sorted(found.values())) == (20, ["damaged", "sealed", "sealed"])
    damaged = next(name for name, state in found.items() if state == "damaged")
    with reader.mounted() as mount:
        assert sorted(os.listdir(mount.path)) == ["monday", "tuesday", "wednesday"]
        with pytest.raises(OSError, match="Input/output error"):
            os.stat(mount.path / damaged)
        with pytest.raises(OSError, match="Input/output error"):
            (mount.path / damaged).mkdir()
        for name in found.keys() - {damaged}:
            assert os.listdir(mount.path / name)
    assert f"backup {damaged} cannot be read: backups/{root.name} at byte " in reader.log()


def test_lost_nodes(directory: Path, reader: Machine) -> None:
    """Without its nodes a backup keeps its name and answers EIO; what needs none of them reads."""
    for pack in (directory / "meta").iterdir():
        pack.unlink()
    with reader.mounted() as mount:
        assert sorted(os.listdir(mount.path)) == ["monday", "tuesday", "wednesday"]
        assert (mount.path / "wednesday" / "tiny").read_bytes() == b"tiny"
        with pytest.raises(OSError, match="Input/output error"):
            os.listdir(mount.path / "monday" / "many")
    assert "the pack is gone" in reader.log()


@pytest.mark.parametrize("name", ["repository.json", "keys"])
@pytest.mark.parametrize("verb", ["list", "mount"])
def test_no_way_in(name: str, verb: str, directory: Path, reader: Machine) -> None:
    """Damaged parameters and keys are one line that names the object, and an exit code."""
    path = directory / name
    if path.is_dir():
        path = next(path.iterdir())
    flip(path, path.stat().st_size // 2)
    (reader.home / "mnt").mkdir()
    places = [str(reader.home / "mnt")] if verb == "mount" else []
    done = reader.run(verb, *places, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (20, "", 1)
    assert f"{path.relative_to(directory)} at byte 0: " in done.stderr
    assert "older version" in done.stderr


def test_a_newer_format(directory: Path, reader: Machine) -> None:
    """A repository of a newer format is refused by its number."""
    path = directory / "repository.json"
    stated = json.loads(path.read_bytes())
    path.chmod(0o600)
    path.write_text(json.dumps({**stated, "format": 2, "new_field": 1}))
    done = reader.run("list", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (14, 1)
    assert "format 2" in done.stderr


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A repository on the local disk with one directory of many small files."""
    path = tmp_path / "many"
    path.mkdir()
    home = tmp_path / "f"
    home.mkdir()
    maker = Machine(home, path.as_uri())
    maker.run("init")
    with maker.mounted() as mount:
        top = mount.path / "thursday" / "many"
        (top / "a directory").mkdir(parents=True)
        for number in range(MANY_COUNT):
            (top / name_of(number)).write_bytes(bytes_of(number))
    return path


def name_of(number: int) -> str:
    return f"a rather long name for a file {number:04}"


def bytes_of(number: int) -> bytes:
    """Too much for an entry, so that it is read from a pack."""
    return f"{number} ".encode() * 200


def listing(path: Path) -> tuple[list[str], int | None]:
    """The names that a directory gives, and the error that the listing ends with."""
    names = []
    with os.scandir(path) as found:
        while True:
            try:
                names.append(next(found).name)
            except StopIteration:
                return sorted(names), None
            except OSError as error:
                return sorted(names), error.errno


def readable(path: Path) -> set[int]:
    """The files that can be read; they must hold the right bytes."""
    numbers = set()
    for number in range(MANY_COUNT):
        with only_eio():
            assert (path / name_of(number)).read_bytes() == bytes_of(number)
            numbers.add(number)
    return numbers


def there(path: Path) -> set[int]:
    """The files that can be looked at."""
    numbers = set()
    for number in range(MANY_COUNT):
        with only_eio():
            (path / name_of(number)).stat()
            numbers.add(number)
    return numbers


def test_a_damaged_node(many: Path, tmp_path: Path) -> None:
    """Every file whose name is in an intact node is read and listed; the listing ends with EIO."""
    pack = largest(many / "meta")
    for tenths in (6, 5, 7, 4, 3, 8, 2, 9):
        flip(pack, pack.stat().st_size * tenths // 10)
        home = tmp_path / f"r{tenths}"
        home.mkdir()
        reader = Machine(home, many.as_uri())
        with reader.mounted("--read-only") as mount:
            top = mount.path / "thursday" / "many"
            intact = there(top)
            found = readable(top)
            names, error = listing(top) if found else ([], None)
        # Where nodes end is up to the key. Not every place is in a leaf that others stand before.
        if intact and len(intact) < MANY_COUNT:
            break
        flip(pack, pack.stat().st_size * tenths // 10)
    assert 0 < len(intact) < MANY_COUNT
    assert found == intact
    assert names == sorted([*(name_of(number) for number in found), "a directory"])
    assert error == errno.EIO
    log = reader.log()
    assert "names of thursday/many are missing: meta/" in log
    assert not any(f"reading thursday/many/{name}" in log for name in names)
