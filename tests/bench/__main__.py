"""`python -m tests.bench`: measure works and peers side by side, on one server in one run."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import traceback
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from tests.bench import results
from tests.bench.data import Data
from tests.bench.meter import Meter, wait_until
from tests.bench.peers import PEERS, Peer, Place
from tests.bench.proxy import COUNTS_PATH
from tests.bench.results import Result
from tests.bench.works import WORKS, Run, can
from tests.servers import Server, free_port, rclone_server, stop


@dataclass(frozen=True)
class Bench:
    """The server, what it stores, and the folder all runs work in."""

    server: Server
    stored: Path
    work_folder: Path
    data: Data

    def measure(self, work: str, peer: Peer, latency_ms: float) -> Result:
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
            run = Run(peer, place, meter, self.data, lambda: _forget(endpoint))
            WORKS[work](run)
            return self._result(work, latency_ms, run, _take(endpoint))

    def _result(self, work: str, latency_ms: float, run: Run, counts: dict[str, Any]) -> Result:
        kept = self.stored / run.place.bucket
        folder = kept if any(kept.iterdir()) else run.place.local
        files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        return Result(
            work=work,
            peer=run.peer.name,
            latency_ms=latency_ms,
            wall_s=run.wall_s,
            cpu_s=run.meter.cpu_s,
            peak_bytes=run.meter.peak_bytes,
            files_count=run.files_count,
            content_bytes=run.content_bytes,
            stored_bytes=sum(path.stat().st_size for path in files),
            **counts,
        )


@contextlib.contextmanager
def _proxy(server: Server, latency_ms: float) -> Iterator[str]:
    port, upstream = free_port(), server.endpoint.rpartition(":")[2]
    command = [sys.executable, "-m", "tests.bench.proxy", str(port), upstream, str(latency_ms)]
    process = subprocess.Popen(command)
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


@click.command()
@click.option("--work", default="", help="Works, by commas; all of them else.")
@click.option("--peer", default="", help="Peers, by commas; all that are installed else.")
@click.option("--latency", default="0", help="Milliseconds added to each request, by commas.")
@click.option("--runs", default=1, help="Runs of each; tables show medians.")
@click.option("--scale", default=1.0, help="Size of the data: 0.1 for a quick look.")
@click.option("--folder", default="/tmp/s3backfs-bench", type=click.Path(path_type=Path))
@click.option("--json", "kept", type=click.Path(path_type=Path), help="Keep every run in a file.")
@click.option("--compare", nargs=2, type=click.Path(path_type=Path), help="Two kept files.")
def main(
    work: str,
    peer: str,
    latency: str,
    runs: int,
    scale: float,
    folder: Path,
    kept: Path | None,
    compare: tuple[Path, Path] | None,
) -> None:
    """Measure s3backfs beside its peers."""
    # As Ctrl-C does: mounts, servers and folders go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if compare:
        results.compare(*(results.load(path) for path in compare))
        return
    peers = [PEERS[name] for name in _words(peer, PEERS) if PEERS[name].is_installed()]
    done: list[Result] = []
    with _bench(folder, scale) as bench:
        # Peers take turns inside each run, so that a noisy minute hits all of them.
        for name in _words(work, WORKS):
            for latency_ms in map(float, latency.split(",")):
                for _ in range(runs):
                    done += _paired(bench, name, peers, latency_ms)
                    if kept:
                        results.save(kept, done)
    results.show(done)


def _paired(bench: Bench, work: str, peers: list[Peer], latency_ms: float) -> Iterator[Result]:
    for peer in peers:
        if not can(peer, work):
            continue
        try:
            result = bench.measure(work, peer, latency_ms)
        except Exception:
            click.echo(f"{work} {peer.name} failed:\n{traceback.format_exc(limit=-2)}", err=True)
            continue
        requests = sum(result.requests.values())
        click.echo(
            f"{work} {latency_ms:.0f} ms {peer.name}: {result.wall_s:.2f} s, "
            f"CPU {result.cpu_s:.2f} s, {requests} requests",
            err=True,
        )
        yield result


@contextlib.contextmanager
def _bench(folder: Path, scale: float) -> Iterator[Bench]:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        stored = Path(name, "buckets")
        with rclone_server(stored) as server:
            data = Data(folder / f"data-{scale:g}", scale)
            yield Bench(server, stored, folder, data)


if __name__ == "__main__":
    main()
