"""What a store, with the credentials given, is good for: pure judgements on what trials found."""

from __future__ import annotations

from dataclasses import dataclass

from s3backfs.store.capabilities import Capabilities, Capability, Verdict

LARGEST_SKEW_S = 300.0
"""S3 refuses requests that are a quarter of an hour off; leases want much less."""

_MIB = 1 << 20
_PART_CHOICES_MIB = (8, 16, 32, 64, 128)
_ENOUGH = 0.9


@dataclass(frozen=True, slots=True)
class Speed:
    """Bytes a second with so many requests at once."""

    connections: int
    up_bytes_per_s: float
    down_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Function:
    """Something that the product does: whether it will work here, and what to change if not."""

    name: str
    works: bool
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Settings that suit what was measured."""

    connections: int
    part_bytes: int


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that the doctor found."""

    url: str
    endpoint: str
    region: str
    is_repository: bool | None
    """None where these credentials may not look."""
    clock_skew_s: float | None
    """How far this machine's clock is ahead of the server's; None where unknown."""
    capabilities: tuple[Capability, ...]
    functions: tuple[Function, ...]
    advice: tuple[str, ...]
    latency_ms: float | None
    speeds: tuple[Speed, ...]
    suggestion: Suggestion | None
    left_behind: str
    """Why test objects could not all be removed; empty where nothing stays."""

    @property
    def is_well(self) -> bool:
        """Whether everything that the product does will work, and nothing was left behind."""
        return all(function.works for function in self.functions) and not self.left_behind


# What each function needs: names of trials. Areas are the prefixes of the repository.
_NEEDS = (
    ("restore a named backup", ("read",)),
    ("list and mount all backups", ("read", "list")),
    ("write and seal backups", ("read", "list", "put", "multipart", "delete")),
    ("init", ("read", "list", "put", "maintain")),
    ("forget and prune", ("read", "list", "put", "copy", "multipart", "maintain")),
)

_PERMISSIONS = {
    "read": "s3:GetObject",
    "list": "s3:ListBucket",
    "put": "s3:PutObject",
    "multipart": "s3:PutObject and s3:AbortMultipartUpload",
    "copy": "s3:GetObject and s3:PutObject",
    "delete": "s3:DeleteObject below leases/ and open/",
    "maintain": "s3:DeleteObject below the whole prefix",
}


def judge(capabilities: Capabilities) -> tuple[Function, ...]:
    """Say which of the product's functions will work."""
    return tuple(_judge_one(name, needs, capabilities) for name, needs in _NEEDS)


def _judge_one(name: str, needs: tuple[str, ...], capabilities: Capabilities) -> Function:
    missing = [need for need in needs if not _is_met(need, capabilities)]
    if not missing:
        return Function(name, works=True)
    remedies = [_remedy(need, capabilities.verdict(need)) for need in missing]
    return Function(name, works=False, remedy="; ".join(remedies))


def _is_met(need: str, capabilities: Capabilities) -> bool:
    if need == "maintain" and capabilities.verdict(need) is Verdict.UNTRIED:
        return capabilities.has("delete")
    return capabilities.has(need)


def _remedy(need: str, verdict: Verdict) -> str:
    if verdict is Verdict.NO:
        return f"the server lacks {need}: another one is needed"
    if verdict is Verdict.FAILED:
        return f"{need} failed: see above"
    return f"allow {_PERMISSIONS[need]}"


def advise(capabilities: Capabilities, clock_skew_s: float | None) -> tuple[str, ...]:
    """Say what works but could be better."""
    advice = []
    if capabilities.verdict("conditional put") in (Verdict.NO, Verdict.FAILED):
        advice.append(
            "conditional writes are not enforced: one writer per name is advised, and policies "
            "that only allow to create cannot protect sealed backups"
        )
    if capabilities.verdict("list uploads") is not Verdict.YES and capabilities.has("multipart"):
        advice.append(
            "broken uploads cannot be listed: let a lifecycle rule abort them after some days"
        )
    is_s3 = capabilities.verdict("versioning") is not Verdict.UNTRIED
    if is_s3 and not (capabilities.has("versioning") or capabilities.has("object lock")):
        advice.append(
            "neither versioning nor Object Lock: whoever steals credentials that may delete or "
            "replace can destroy sealed backups; see `s3backfs policy`"
        )
    if clock_skew_s is not None and abs(clock_skew_s) > LARGEST_SKEW_S:
        advice.append(f"this machine's clock is {clock_skew_s:+.0f} s off: set it right")
    return tuple(advice)


def suggest(latency_ms: float, speeds: tuple[Speed, ...]) -> Suggestion | None:
    """Choose settings: the fewest connections that are about as fast as the most.

    A part is large enough if waiting for the answer is a tenth of the time that it takes.
    """
    if not speeds:
        return None
    best = max(speed.up_bytes_per_s for speed in speeds)
    chosen = next(speed for speed in speeds if speed.up_bytes_per_s >= _ENOUGH * best)
    each_bytes_per_s = chosen.up_bytes_per_s / chosen.connections
    wanted_bytes = 9 * latency_ms / 1000 * each_bytes_per_s
    part_mib = next(
        (mib for mib in _PART_CHOICES_MIB if mib * _MIB >= wanted_bytes), _PART_CHOICES_MIB[-1]
    )
    return Suggestion(max(4, chosen.connections), part_mib * _MIB)
