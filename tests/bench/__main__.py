"""`python -m tests.bench`: measure works and peers side by side, on one server in one run."""

from __future__ import annotations

import compileall
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import traceback
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec

import s3backfs
from tests.bench import tables
from tests.bench.data import Data
from tests.bench.meter import Meter, wait_until
from tests.bench.micro import DEFAULT_RUNS, PartResult, measure_all
from tests.bench.parts import PARTS
from tests.bench.peers import PEERS, Peer, Place
from tests.bench.proxy import COUNTS_PATH
from tests.bench.results import Result, Results, load, parts_of, save, works_of
from tests.bench.tree_parts import TREE_PARTS
from tests.bench.works import FOR_ITSELF, GROWING, WORKS, Run, can
from tests.servers import Server, free_port, moto_server, rclone_server, stop

BUCKETS = "buckets"
MAX_LATENCY_MS = 10_000
SCALES = click.FloatRange(0, 100, min_open=True)
KEPT = click.Path(path_type=Path, exists=True, dir_okay=False)
ALL_PARTS = {**PARTS, **TREE_PARTS}
SERVERS: dict[str, Callable[[str], AbstractContextManager[Server]]] = {
    "rclone": lambda folder: rclone_server(Path(folder, BUCKETS)),
    "moto": lambda folder: moto_server(),
}


@dataclass(frozen=True)
class Bench:
    """The server, the folder all runs work in, and that of a server that keeps files."""

    server: Server
    server_name: str
    work_folder: Path
    buckets_folder: Path

    def data(self, scale: float) -> Data:
        return Data(self.work_folder / f"data-{scale:g}", scale)

    def measure(self, work: str, peer: Peer, latency_ms: float, scale: float) -> Result:
        """Do one work with one peer, in a bucket of its own."""
        bucket = self.server.make_bucket(f"bench-{uuid.uuid4().hex}")
        with (
            tempfile.TemporaryDirectory(dir=self.work_folder) as name,
            _proxy(self.server, latency_ms) as endpoint,
        ):
            home = Path(name, "home")
            home.mkdir()
            place = Place(home, bucket, endpoint, Path(name, "local"))
            meter = Meter(self.work_folder / "log", place.environment())
            peer.begin(place, meter)
            kept = (self.buckets_folder / bucket, place.local)
            run = Run(
                *(peer, place, meter, self.data(scale), kept),
                warm_up=lambda: self._warm_up(bucket),
                on_start=lambda: _forget(endpoint),
            )
            WORKS[work](run)
            return self._result(work, latency_ms, run, _take(endpoint))

    def _result(self, work: str, latency_ms: float, run: Run, counts: dict[str, Any]) -> Result:
        return Result(
            work=work,
            peer=run.peer.name,
            latency_ms=latency_ms,
            wall_s=run.wall_s,
            cpu_s=run.meter.cpu_s,
            peak_bytes=run.meter.peak_bytes,
            files_count=run.files_count,
            content_bytes=run.content_bytes,
            stored_bytes=self._stored_bytes(run.place),
            scale=run.data.scale,
            server=self.server_name,
            **counts,
        )

    def _objects(self, bucket: str) -> Iterator[Any]:
        pages = self.server.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return (row for page in pages for row in page.get("Contents", ()))

    def _warm_up(self, bucket: str) -> None:
        """Get a byte of every object: rclone's server computes the MD5 of all of it then."""
        client = self.server.client()
        for row in self._objects(bucket):
            if row["Size"]:
                client.get_object(Bucket=bucket, Key=row["Key"], Range="bytes=0-0")["Body"].read()

    def _stored_bytes(self, place: Place) -> int:
        stored_bytes: int = sum(row["Size"] for row in self._objects(place.bucket))
        local = (path for path in place.local.rglob("*") if not path.is_symlink())
        return stored_bytes + sum(path.stat().st_size for path in local if path.is_file())


@contextlib.contextmanager
def _proxy(server: Server, latency_ms: float) -> Iterator[str]:
    port, upstream = free_port(), server.endpoint.rpartition(":")[2]
    program = ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", "tests.bench.proxy"]
    process = subprocess.Popen([*program, str(port), upstream, str(latency_ms)], process_group=0)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(endpoint))
        yield endpoint
    finally:
        stop(process)


def _answers(endpoint: str) -> bool:
    with contextlib.suppress(OSError):
        _take(endpoint)
        return True
    return False


def _take(endpoint: str) -> dict[str, Any]:
    with urllib.request.urlopen(endpoint + COUNTS_PATH, timeout=10) as answer:
        return dict(json.load(answer))


def _forget(endpoint: str) -> None:
    _take(endpoint)


def _words(text: str, known: dict[str, Any]) -> list[str]:
    words = text.split(",") if text else list(known)
    if unknown := set(words) - set(known):
        raise click.BadParameter(f"{sorted(unknown)}; there are {', '.join(known)}")
    return words


def _latencies_ms(_: click.Context, __: click.Parameter, text: str) -> list[float]:
    """Read milliseconds, by commas."""
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError as error:
        raise click.BadParameter("milliseconds by commas, for example 0,30") from error
    if not all(0 <= each < MAX_LATENCY_MS for each in found):
        raise click.BadParameter(f"from 0 to {MAX_LATENCY_MS}")
    return found


def _kept(_: click.Context, __: click.Parameter, paths: tuple[Path, Path] | None) -> list[Results]:
    """Read what --json has kept."""
    try:
        return [load(path) for path in paths or ()]
    except msgspec.MsgspecError as error:
        raise click.BadParameter(f"not what --json keeps: {error}") from error


@click.command()
@click.option("--work", default="", help="Works, by commas; all of them else. Or: grow.")
@click.option("--micro", is_flag=True, help="Parts of the pipeline instead; --work chooses some.")
@click.option("--server", default="rclone", type=click.Choice(sorted(SERVERS)))
@click.option("--peer", default="", help="Peers, by commas; all that are installed else.")
@click.option(
    "--latency",
    default="0",
    callback=_latencies_ms,
    help="Added milliseconds, by commas.",
)
@click.option("--runs", type=click.IntRange(1), help="Runs of each (1; 5 of parts): medians.")
@click.option("--scale", default=1.0, type=SCALES, help="Size of the data: 0.1 for a quick look.")
@click.option("--folder", default="/tmp/s3backfs-bench", type=click.Path(path_type=Path))
@click.option("--json", "kept", type=click.Path(path_type=Path), help="Keep every run in a file.")
@click.option("--compare", nargs=2, type=KEPT, callback=_kept, help="Two kept files.")
def main(
    work: str,
    micro: bool,
    server: str,
    peer: str,
    latency: list[float],
    runs: int | None,
    scale: float,
    folder: Path,
    kept: Path | None,
    compare: list[Results],
) -> None:
    """Measure s3backfs beside its peers."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    folder.mkdir(parents=True, exist_ok=True)
    if compare:
        _compare(*compare)
    elif micro:
        _measure_parts(_words(work, ALL_PARTS), scale, runs or DEFAULT_RUNS, folder, kept)
    else:
        peers = [PEERS[name] for name in _words(peer, PEERS) if _is_usable(PEERS[name], server)]
        plan = [
            (name, latency_ms, size)
            for name, size in _sized(work, scale)
            for latency_ms in latency
            for _ in range(runs or 1)
        ]
        _measure(plan, peers, server, folder, kept)


def _compile() -> None:
    """Compile all modules, as an installation has them, whatever the environment says."""
    for folder in (*s3backfs.__path__, Path(__file__).parent):
        compileall.compile_dir(folder, quiet=1)


def _end(number: int, frame: object) -> None:
    """Unwind, so that mounts, servers and folders go; another signal does not disturb that."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def _is_usable(peer: Peer, server: str) -> bool:
    return peer.is_installed() and server in peer.servers


def _sized(work: str, scale: float) -> list[tuple[str, float]]:
    """Works with their scales; `grow` stands for some works at two."""
    if work == "grow":
        return [(name, size) for name in GROWING for size in (scale / 10, scale)]
    usual = {name: WORKS[name] for name in WORKS if work or name not in FOR_ITSELF}
    return [(name, scale) for name in _words(work, usual)]


def _compare(before: Results, after: Results) -> None:
    old_parts, new_parts = parts_of(before), parts_of(after)
    if old_parts or new_parts:
        tables.compare_parts(old_parts, new_parts)
    tables.compare(works_of(before), works_of(after))


def _measure_parts(
    names: list[str], scale: float, runs: int, folder: Path, kept: Path | None
) -> None:
    done: list[PartResult] = []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for result in measure_all(ALL_PARTS, names, scale, Path(place), runs):
            click.echo(f"{result.part}: {result.rate:,.1f} {result.unit} a second", err=True)
            done.append(result)
            if kept:
                save(kept, done)
    tables.show_parts(done)


def _measure(
    plan: list[tuple[str, float, float]],
    peers: list[Peer],
    server: str,
    folder: Path,
    kept: Path | None,
) -> None:
    done: list[Result] = []
    _compile()
    with _bench(folder, server) as bench:
        # Peers take turns inside each run, so that a noisy minute hits all of them.
        for name, latency_ms, scale in plan:
            done += _paired(bench, name, peers, latency_ms, scale)
            if kept:
                save(kept, done)
    tables.show(done)
    tables.show_growth(done)


def _paired(
    bench: Bench, work: str, peers: list[Peer], latency_ms: float, scale: float
) -> Iterator[Result]:
    for peer in peers:
        if not can(peer, work):
            click.echo(f"{work}: not for {peer.name}", err=True)
            continue
        try:
            result = bench.measure(work, peer, latency_ms, scale)
        except Exception as error:
            if _is_ending(error):
                raise
            click.echo(f"{work} {peer.name} failed:\n{traceback.format_exc(limit=-2)}", err=True)
            continue
        requests = sum(result.requests.values())
        click.echo(
            f"{work} {latency_ms:.0f} ms {peer.name}: {result.wall_s:.2f} s, "
            f"CPU {result.cpu_s:.2f} s, {requests} requests",
            err=True,
        )
        yield result


def _is_ending(error: BaseException | None) -> bool:
    """Whether an error came up while a signal's end was on its way."""
    while error is not None and not isinstance(error, SystemExit):
        error = error.__context__
    return error is not None


@contextlib.contextmanager
def _bench(folder: Path, server_name: str) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(dir=folder) as name, SERVERS[server_name](name) as server:
        yield Bench(server, server_name, folder, Path(name, BUCKETS))


if __name__ == "__main__":
    main()
