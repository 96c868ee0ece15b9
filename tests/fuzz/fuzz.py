"""Run atheris on the decoders, one after the other: `python -m tests.fuzz.fuzz SECONDS [NAME]`.

Each decoder runs in a process of its own, with bounded memory and time for each input. What was
found stays in `fuzz-found/`; inputs that reach new code stay in `fuzz-corpus/` for the next run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["s3backfs", "json"]):
    from tests.fuzz.targets import TARGETS, Target

CORPUS, FOUND = Path("fuzz-corpus"), Path("fuzz-found")


def fuzz(target: Target, seconds: int) -> None:
    """Fuzz one decoder; ends the process."""
    corpus = CORPUS / target.name.replace(" ", "-")
    corpus.mkdir(parents=True, exist_ok=True)
    FOUND.mkdir(exist_ok=True)
    for number, sample in enumerate(target.samples):
        (corpus / f"sample-{number}").write_bytes(sample)
    limits = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=1024", "-max_len=65536"]
    arguments = [sys.argv[0], *limits, f"-artifact_prefix={FOUND}/", "-verbosity=0", str(corpus)]

    def run(data: bytes) -> None:
        target.run(data)

    atheris.Setup(arguments, run)
    atheris.Fuzz()


def fuzz_all(seconds: int) -> int:
    """Fuzz every decoder for a while; return how many broke."""
    broken = 0
    for target in TARGETS:
        print(f"{target.name}, {seconds} s", flush=True)
        command = [sys.executable, "-m", "tests.fuzz.fuzz", str(seconds), target.name]
        broken += subprocess.run(command, check=False).returncode != 0
    return broken


if __name__ == "__main__":
    if len(sys.argv) > 2:
        fuzz(next(each for each in TARGETS if each.name == sys.argv[2]), int(sys.argv[1]))
    sys.exit(min(fuzz_all(int(sys.argv[1])), 1))
