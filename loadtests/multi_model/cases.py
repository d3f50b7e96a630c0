"""The cases by name and what each figure has to reach: the promises of the README as data."""

from __future__ import annotations

from typing import Final

from loadtests.bench.cases import Target, at_least, at_most
from loadtests.multi_model import wide

CASES: Final = {
    "hit/c16": "fraud-mlp as a loaded target against itself on an endpoint of its own, 16 connections, one server",
    "hit/c64": "the same with 64 connections",
    "disk-hit/1MB": "a target that is on disk, to its answer, against session creation alone in a script",
    "disk-hit/10MB": "the same with a larger one",
    "disk-hit/100MB": "the same with a still larger one",
    "miss": "a target of 1 MB that is in S3 alone, to its answer, against get, extract, session and run in a script",
    "zipf/lru": "5,000 models of 1 MB, 1 GB of memory, Zipf(1.1), 32 connections; the least recently used goes first",
    "zipf/default": "the same with the policy that is the default",
    "known": "what models cost that are known and not in memory",
    "churn": "models loaded and unloaded again and again: memory and descriptors",
    "herd": "1,000 callers at once on one cold model, beside hits of another",
}

CONNECTIONS: Final = (16, 64)
POLICIES: Final = ("lru", "default")
GETTERS: Final = ("obstore", "boto3")

TARGETS: Final[dict[str, Target]] = {
    **{f"hit/c{connections}: CPU of a hit, to a single-model endpoint": at_most(1.05) for connections in CONNECTIONS},
    **{f"disk-hit/{size}MB: a disk hit less a hit, to session creation": at_most(1.2) for size in wide.HIDDEN},
    "miss: a miss, to a script": at_most(1.2),
    **{
        f"zipf/{policy}: {what}": bound
        for policy in POLICIES
        for what, bound in {
            "failed requests": at_most(0),
            "largest RSS over the idle worker, to the budget": at_most(1.1),
            "RSS over the idle worker once full, to the budget": at_least(0.9),
            "hit ratio, to the same policy simulated": at_least(0.97),
            "p99 of hits while misses load, to p99 without": at_most(2),
        }.items()
    },
    "known: bytes of a missing target in the cache": at_most(1000),
    "known: bytes of a target that was evicted in the cache": at_most(1000),
    "known: RSS of the server by each missing target, bytes": at_most(1000),
    "known: RSS of the server by each target that was evicted, bytes": at_most(1000),
    "churn: exit status": at_most(0),
    "herd: failed requests": at_most(0),
    "herd: loads": at_most(1),
}
