"""The cases by name and what each figure has to reach: the promises of the README as data."""

from __future__ import annotations

from dataclasses import dataclass

FRAUD_CONNECTIONS = (1, 16, 64)
ENCODER_CONNECTIONS = ((16, 16), (64, 32))
"""Connections with the batch size whose no-server limit they are held against."""
ENCODER_RUNS = 6
POISSON_BATCH = 32
"""The batch size whose rate the arrivals are shares of."""
POISSON_SHARES = (0.1, 0.5, 0.9)
PEER_CONNECTIONS = {"fraud-mlp": ((1, 1), (16, 16), (64, 32)), "encoder": ((1, 1), (16, 16), (64, 32))}
PEER_SHARES = (0.2, 0.5, 0.8)
"""Open-loop rates as shares of what a system reached with the most connections."""

GRPC_TRANSPORTS = ("h2corn", "grpcio")
"""What carries gRPC; the figures are the first one's."""

CASES = {
    "fraud-mlp/c1": "fraud-mlp, one connection: JSON invocations, v2 JSON, v2 binary against the uvicorn floor",
    "fraud-mlp/c16": "the same with 16 connections",
    "fraud-mlp/c64": "the same with 64 connections",
    "encoder/c16": "encoder with 16 connections against session.run at batch 16",
    "encoder/c64": "encoder with 64 connections against session.run at batch 32",
    "encoder/poisson": "open-loop arrivals on encoder against the simulated ideal batcher",
    "mixed": "both models on one core; fraud-mlp beside a caller of 20 MB bodies",
    **{
        f"grpc/fraud-mlp/c{c}": f"ModelInfer with raw contents, {c} connection{'s' * (c > 1)}, against the uvicorn floor of HTTP"
        for c in FRAUD_CONNECTIONS
    },
    **{
        f"grpc/encoder/c{c}": f"the same on encoder, {c} connections, against session.run at batch {batch}"
        for c, batch in ENCODER_CONNECTIONS
    },
    "grpc/mixed": "callers of HTTP and of gRPC on encoder at once: whether they share batches",
    "workers": "--workers 2 over two cores against one worker",
    "startup": "start to ready, and resident memory when idle",
    "streaming": "answers in parts, in the framing that boto3 reads",
    "trees": "XGBoost, 500 trees of depth 6: a row of CSV beside fraud-mlp, 1,024 rows beside the library, loading",
    "harness": "what wrk and the open-loop generator can do themselves, against a constant answer",
    "peers": "other servers from PyPI on both models, closed and open loop",
}


@dataclass(frozen=True, slots=True)
class Target:
    """A bound that a figure must reach (`at_least`) or must not pass."""

    bound: float
    at_least: bool

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:g}"


def at_least(bound: float) -> Target:
    """More is better."""
    return Target(bound, at_least=True)


def at_most(bound: float) -> Target:
    """Less is better."""
    return Target(bound, at_least=False)


TARGETS = {
    # 0.13 ms where the floor takes 0.07 ms, as a ratio so that it means the same on another machine.
    "fraud-mlp/c1 invocations: p50 to floor": at_most(0.13 / 0.07),
    "fraud-mlp/c16 invocations: requests/s to floor": at_least(1.3),
    "fraud-mlp/c16 invocations: p99 ms": at_most(1.0),
    "fraud-mlp/c64 invocations: requests/s to floor": at_least(1.6),
    **{f"fraud-mlp/c{c} v2-json: CPU to invocations": at_most(1.08) for c in FRAUD_CONNECTIONS},
    **{f"fraud-mlp/c{c} v2-binary: CPU to invocations": at_most(1.0) for c in FRAUD_CONNECTIONS},
    "encoder/c16: rows/s to session.run at batch 16": at_least(0.93),
    "encoder/c16: p99 ms": at_most(9.0),
    "encoder/c64: rows/s to session.run at batch 32": at_least(0.98),
    "encoder/poisson 10 % of batch 1: p50 ms over a lone request": at_most(0.15),
    **{
        f"encoder/poisson {share:.0%} of batch 32: {kind} to ideal".replace("%", " %"): at_most(1.15)
        for share in POISSON_SHARES
        for kind in ("p50", "p99")
    },
    "mixed: fraud-mlp c4 requests/s beside encoder c16": at_least(10_000),
    "mixed: fraud-mlp c4 p99 ms beside encoder c16": at_most(8.0),
    "mixed: encoder c16 rows/s beside fraud-mlp c4": at_least(900),
    "mixed: fraud-mlp p99 ms beside 20 MB v2 binary bodies": at_most(10.0),
    "mixed: fraud-mlp p99 ms beside 20 MB JSON bodies": at_most(10.0),
    "grpc/fraud-mlp/c16: requests/s to the HTTP floor": at_least(0.7),
    "grpc/fraud-mlp/c16: p99 ms": at_most(1.5),
    "grpc/fraud-mlp/c64: requests/s to the HTTP floor": at_least(0.85),
    "grpc/encoder/c16: rows/s to session.run at batch 16": at_least(0.93),
    "grpc/encoder/c64: rows/s to session.run at batch 32": at_least(0.98),
    "grpc/mixed: batches that hold more requests than one face's callers": at_least(0.5),
    "workers: encoder c128 rows/s, two workers to one": at_least(1.7),
    "workers: fraud-mlp c128 CPU, two workers to one": at_most(1.1),
    "startup: start to ready after imports, s": at_most(1.0),
    "startup: idle worker RSS, MB": at_most(120.0),
    "trees: CSV requests/s to fraud-mlp at c16": at_least(0.6),
    "trees: rows/s of 1024 a request to inplace_predict": at_least(0.9),
    "trees: first load, conversion included, s": at_most(3.0),
    "streaming: parts/s on one core": at_least(20_000),
    "streaming: first byte after the first part, p50 ms": at_most(0.5),
}
