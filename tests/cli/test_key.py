"""`key` as a command of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import boto3
import pytest
from click.testing import CliRunner

from s3backfs.cli.key import key
from tests.servers import moto_server

from .conftest import Runner

RAW = "0123456789abcdef" * 4


@pytest.fixture
def url(tmp_path: Path, run_cli: Runner) -> str:
    """A repository in a directory; its passphrase is `secret`."""
    (tmp_path / "repository").mkdir()
    made = (tmp_path / "repository").as_uri()
    assert run_cli("init", made, S3BACKFS_PASSPHRASE="secret").returncode == 0
    return made


def add(run_cli: Runner, url: str, *options: str, new: str = "") -> str:
    """Add a slot and give what the command prints."""
    variables = {"S3BACKFS_NEW_PASSPHRASE": new} if new else {}
    done = run_cli("key", "add", url, *options, S3BACKFS_PASSPHRASE="secret", **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def opens(run_cli: Runner, url: str, **variables: str) -> bool:
    done = run_cli("list", url, **variables)
    assert done.returncode in (0, 13), done.stderr
    return done.returncode == 0


@pytest.mark.parametrize("verb", sorted(key.commands))
def test_help_has_examples(verb: str) -> None:
    """The help of every verb of `key` has examples."""
    result = CliRunner().invoke(key, [verb, "--help"])
    assert f"s3backfs key {verb}" in result.output.partition("Examples:")[2]


def test_every_kind(url: str, tmp_path: Path, run_cli: Runner) -> None:
    """Passphrases, recovery keys, identity files and raw keys open, before and after a rotation."""
    words = add(run_cli, url, "--recovery", "--label", "safe").strip()
    add(run_cli, url, "--identity", str(tmp_path / "id"), "--generate", "--label", "file")
    add(run_cli, url, "--raw-key", "--label", "raw", new=RAW)
    add(run_cli, url, "--label", "alice", "--argon2-memory", "1M", new="second")
    openers = [
        {"S3BACKFS_PASSPHRASE": words.upper().replace("-", " ")},
        {"S3BACKFS_IDENTITY_FILE": str(tmp_path / "id")},
        {"S3BACKFS_PASSPHRASE": RAW},
        {"S3BACKFS_PASSPHRASE": "second"},
    ]
    assert all(opens(run_cli, url, **opener) for opener in openers)
    assert (tmp_path / "id").stat().st_mode & 0o777 == 0o600
    done = run_cli("key", "rotate", url, "--remove", "alice", **openers[0])
    assert done.stdout.startswith("key epoch 1")
    assert [opens(run_cli, url, **opener) for opener in openers] == [True, True, True, False]


def test_list(url: str, run_cli: Runner) -> None:
    """The list says label, time and cost of each slot, and no secret."""
    add(run_cli, url, "--label", "alice", "--argon2-passes", "1", new="second")
    done = run_cli("key", "list", url, "--json", S3BACKFS_PASSPHRASE="second")
    slots = {slot["label"]: slot for slot in json.loads(done.stdout)}
    assert set(slots) == {"", "alice"}
    assert slots["alice"]["argon2id"] == {"lanes": 4, "memory_kib": 65536, "passes": 1}
    assert (slots["alice"]["is_open"], slots[""]["is_open"]) == (True, False)
    assert slots["alice"]["created_s"] > 1_700_000_000
    assert "alice" in run_cli("key", "list", url, S3BACKFS_PASSPHRASE="secret").stdout


def test_small_costs(url: str, run_cli: Runner) -> None:
    """The list does not round a small cost to nothing."""
    add(run_cli, url, "--argon2-memory", "32KiB", "--argon2-passes", "1", new="second")
    said = run_cli("key", "list", url, S3BACKFS_PASSPHRASE="secret").stdout
    assert "32.0 KiB, 1 passes" in said
    assert "64.0 MiB, 3 passes" in said


def test_one_identity_in_two_slots(url: str, tmp_path: Path, run_cli: Runner) -> None:
    """An identity gets no second slot; where it has one all the same, removing one says so."""
    identity, known = str(tmp_path / "id"), {"S3BACKFS_PASSPHRASE": "secret"}
    add(run_cli, url, "--identity", identity, "--generate", "--label", "first")
    again = run_cli("key", "add", url, "--identity", identity, "--label", "second", **known)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "(first) opens with the same already" in again.stderr
    # As older programs let it come about.
    listed = json.loads(run_cli("key", "list", url, "--json", **known).stdout)
    first = next(slot["slot"] for slot in listed if slot["label"] == "first")
    path = tmp_path / f"repository/keys/{first}.json"
    kept = path.read_bytes()
    run_cli("key", "remove", url, "--slot", "first", **known)
    add(run_cli, url, "--identity", identity, "--label", "second")
    path.write_bytes(kept)
    for verb in (["remove", "--slot", "first"], ["rotate", "--remove", "first"]):
        path.write_bytes(kept)
        done = run_cli("key", verb[0], url, *verb[1:], **known)
        assert (done.returncode, "still opens" in done.stderr) == (0, True), done.stderr
    assert opens(run_cli, url, S3BACKFS_IDENTITY_FILE=identity)


def test_passwd(url: str, run_cli: Runner) -> None:
    """A replaced passphrase opens nothing; the new one, given by a file, does."""
    done = run_cli(
        "key", "passwd", url, S3BACKFS_PASSPHRASE="secret", S3BACKFS_NEW_PASSPHRASE="other"
    )
    assert done.returncode == 0, done.stderr
    assert not opens(run_cli, url, S3BACKFS_PASSPHRASE="secret")
    assert opens(run_cli, url, S3BACKFS_PASSPHRASE="other")


def test_export_and_import(url: str, tmp_path: Path, run_cli: Runner) -> None:
    """An export makes a bucket readable that has lost its keys; no file is ever replaced."""
    output, known = tmp_path / "keys", {"S3BACKFS_PASSPHRASE": "secret"}
    assert run_cli("key", "export", url, "--output", str(output), **known).returncode == 0
    assert run_cli("key", "export", url, "--output", str(output), **known).returncode == 2
    assert output.stat().st_mode & 0o777 == 0o600
    for path in [
        *(tmp_path / "repository/keys").iterdir(),
        tmp_path / "repository/repository.json",
    ]:
        path.unlink()
    wrong = run_cli("key", "import", url, "--input", str(output), S3BACKFS_PASSPHRASE="wrong")
    assert wrong.returncode == 13
    assert run_cli("key", "import", url, "--input", str(output), **known).returncode == 0
    assert opens(run_cli, url, **known)


def test_import_where_no_backup_is(url: str, tmp_path: Path, run_cli: Runner) -> None:
    """Who imports into a wrong place is told that there is no backup, and what to undo."""
    output, known = tmp_path / "keys", {"S3BACKFS_PASSPHRASE": "secret"}
    assert run_cli("key", "export", url, "--output", str(output), **known).returncode == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = run_cli("key", "import", elsewhere.as_uri(), "--input", str(output), **known)
    assert done.returncode == 0, done.stderr
    assert f"there is no backup in {elsewhere.as_uri()}" in done.stderr
    (elsewhere / "repository.json").unlink()
    (elsewhere / "backups").mkdir()
    (elsewhere / "backups" / "some").write_bytes(b"x")
    done = run_cli("key", "import", elsewhere.as_uri(), "--input", str(output), **known)
    assert "no backup" not in done.stderr


BAD_INPUT = [
    (["remove", "--slot", "nobody"], "", "no key slot"),
    (["remove", "--slot", ""], "", "no key slot"),
    (["rotate", "--remove", "nobody"], "", "no key slot"),
    (["add"], "", "S3BACKFS_NEW_PASSPHRASE"),
    (["add", "--raw-key"], "xyz", "64 hexadecimal"),
    (["add", "--raw-key", "--recovery"], "", "choose one"),
    (["add", "--generate"], "", "--identity"),
    (["add", "--identity", "/nonexistent/x"], "", "age-keygen"),
    (["add", "--identity", "/dev/null"], "", "AGE-SECRET-KEY-1"),
    (["add", "--identity", "/dev/null", "--generate"], "", "without --generate"),
    (["add", "--label", "same"], "secret", "opens with the same already"),
    (["add", "--label", "x" * 65, "--recovery"], "", "64 characters"),
    (["add", "--argon2-memory", "2G"], "x", "1GiB"),
    (["import", "--input", "/dev/null"], "", "key export"),
]


def test_bad_input(url: str, tmp_path: Path, run_cli: Runner) -> None:
    """Bad input gets one line that says what to do, exit code 2, and changes nothing."""
    before = objects_in(tmp_path / "repository")
    for (verb, *options), new, text in BAD_INPUT:
        variables = {"S3BACKFS_NEW_PASSPHRASE": new} if new else {}
        done = run_cli("key", verb, url, *options, S3BACKFS_PASSPHRASE="secret", **variables)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert text in done.stderr
    assert objects_in(tmp_path / "repository") == before


def objects_in(directory: Path) -> dict[str, bytes]:
    paths = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def test_last_slot(url: str, run_cli: Runner) -> None:
    """The last slot can not be removed."""
    listed = run_cli("key", "list", url, "--json", S3BACKFS_PASSPHRASE="secret").stdout
    slot = json.loads(listed)[0]["slot"]
    done = run_cli("key", "remove", url, "--slot", slot[:8], S3BACKFS_PASSPHRASE="secret")
    assert (done.returncode, "key add" in done.stderr) == (2, True)
    assert opens(run_cli, url, S3BACKFS_PASSPHRASE="secret")


def test_mistake_in_a_recovery_key(url: str, run_cli: Runner) -> None:
    """A slip of the pen in a recovery key is told as one."""
    words = add(run_cli, url, "--recovery").strip()
    wrong = words[:-1] + ("b" if words[-1] != "b" else "d")
    done = run_cli("list", url, S3BACKFS_PASSPHRASE=wrong)
    assert (done.returncode, "mistake" in done.stderr) == (2, True)
    assert words not in done.stderr


def test_without_encryption(tmp_path: Path, run_cli: Runner) -> None:
    """A repository without encryption has no keys, and a key service that is trusted refuses it."""
    url = tmp_path.as_uri() + "/clear"
    (tmp_path / "clear").mkdir()
    run_cli("init", url, "--encryption", "none")
    done = run_cli("key", "rotate", url)
    assert (done.returncode, "not encrypted" in done.stderr) == (2, True)
    assert run_cli("list", url, S3BACKFS_KMS_KEY="alias/mine").returncode == 13


def test_init_with_a_raw_key(tmp_path: Path, run_cli: Runner) -> None:
    """`init --raw-key` makes a repository that these digits open."""
    (tmp_path / "raw").mkdir()
    url = (tmp_path / "raw").as_uri()
    bad = run_cli("init", url, "--raw-key", S3BACKFS_PASSPHRASE="no key")
    assert (bad.returncode, list((tmp_path / "raw").iterdir())) == (2, [])
    assert run_cli("init", url, "--raw-key", S3BACKFS_PASSPHRASE=RAW).returncode == 0
    assert opens(run_cli, url, S3BACKFS_PASSPHRASE=RAW.upper())
    assert not opens(run_cli, url, S3BACKFS_PASSPHRASE=RAW[:-1] + "0")


def test_kms(tmp_path: Path, run_cli: Runner) -> None:
    """A key of AWS KMS opens what it was made for, where it is trusted, also after a rotation."""
    with moto_server() as server:
        kms = boto3.client("kms", endpoint_url=server.endpoint, region_name="us-east-1",
                           aws_access_key_id="a", aws_secret_access_key="b")  # fmt: skip
        arns = [kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2)]
        kms.close()
        url = f"s3://{server.make_bucket('kms')}/prefix"

        def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
            return run_cli(*arguments, **server.environment, **more)

        made = run("init", url, "--kms-key", arns[0])
        assert (made.returncode, f"S3BACKFS_KMS_KEY={arns[0]}" in made.stderr) == (0, True)
        trusted = {"S3BACKFS_KMS_KEY": arns[0]}
        assert run("list", url, **trusted).returncode == 0
        assert run("list", url).returncode == 2
        other = run("list", url, S3BACKFS_KMS_KEY=arns[1])
        assert other.returncode != 0
        assert other.stderr.count("\n") == 1
        added = run("key", "add", url, S3BACKFS_NEW_PASSPHRASE="secret", **trusted)
        assert added.returncode == 0, added.stderr
        assert run("key", "rotate", url, S3BACKFS_PASSPHRASE="secret").returncode == 0
        assert run("list", url, **trusted).returncode == 0
        added = run("key", "add", url, "--kms-key", arns[1], S3BACKFS_PASSPHRASE="secret")
        assert added.returncode == 0, added.stderr
        assert run("list", url, S3BACKFS_KMS_KEY=arns[1]).returncode == 0
        again = run("key", "add", url, "--kms-key", arns[1], S3BACKFS_PASSPHRASE="secret")
        assert (again.returncode, "opens with the same" in again.stderr) == (2, True)
        missing = run("key", "add", url, "--kms-key", arns[0][:-4] + "0000", **trusted)
        assert missing.returncode != 0
        assert missing.stderr.count("\n") == 1
