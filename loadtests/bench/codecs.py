"""How fast text becomes tensors, without a network: `python -m loadtests.bench.codecs`.

1,000 rows of 30 floats as JSON against orjson + numpy, and as CSV against numpy.loadtxt; for numbers of different lengths,
on which both sides depend. Everything is measured with all its checks of the input.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from time import perf_counter
from typing import Final, NamedTuple

import numpy as np
import orjson

from serving.codecs import registry
from serving.codecs.plan import InputPlan
from serving.contract import Array, ModelSpec, TensorSpec

ROWS: Final = 1000
WIDTH: Final = 30

NUMBERS: Final[dict[str, Callable[[Array], Array]]] = {
    "4 decimals": lambda values: np.round(values, 4),
    "float32": lambda values: values.astype(np.float32),
    "float64": lambda values: values,
}
"""Kinds of numbers, as their shortest text that is read back as the same number."""


class Ratio(NamedTuple):
    """One comparison: microseconds of a body, ours and theirs."""

    name: str
    body_bytes: int
    ours_us: float
    theirs_us: float

    @property
    def times(self) -> float:
        """How many times as fast."""
        return self.theirs_us / self.ours_us


def best_us(work: Callable[[], object], runs: int) -> float:
    """Microseconds of the fastest of some runs."""
    best = float("inf")
    for _ in range(runs):
        started = perf_counter()
        work()
        best = min(best, perf_counter() - started)
    return best * 1e6


def measure(runs: int = 50) -> list[Ratio]:
    """All comparisons; whoever is compared gives the same tensor."""
    spec = ModelSpec((TensorSpec("x", "FP32", (-1, WIDTH)),), (TensorSpec("y", "FP32", (-1,)),), "bench", True)
    plan = InputPlan(spec, "bench")
    json_decode = registry.decoder(plan, registry.JSON, None)
    csv_decode = registry.decoder(plan, registry.CSV, None)
    values = np.random.default_rng(1).normal(size=(ROWS, WIDTH))
    found = []
    for name, shorten in NUMBERS.items():
        numbers = shorten(values)
        json_body = orjson.dumps({"instances": numbers}, option=orjson.OPT_SERIALIZE_NUMPY)
        lines = [orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1] for row in numbers]
        csv_body = b"\n".join([*lines, b""])

        def by_numpy(body: bytes = json_body) -> Array:
            return np.asarray(orjson.loads(body)["instances"], np.float32)

        def by_loadtxt(body: bytes = csv_body) -> Array:
            return np.loadtxt(io.BytesIO(body), np.float32, delimiter=",")

        for kind, decode, body, theirs in (
            ("JSON", json_decode, json_body, by_numpy),
            ("CSV", csv_decode, csv_body, by_loadtxt),
        ):
            rows, (column,), _, _ = decode(body)
            if rows != ROWS or column != theirs().tobytes():
                raise RuntimeError(f"{kind} of {name} was read differently")
            ours_us = best_us(lambda decode=decode, body=body: decode(body), runs)  # type: ignore[misc]
            found.append(Ratio(f"{kind}, {name}", len(body), ours_us, best_us(theirs, runs)))
    return found


def main() -> None:
    """Prints the table."""
    print(f"{ROWS} x {WIDTH} to float32{'bytes':>16}{'ours, us':>10}{'theirs, us':>12}{'times':>8}")
    for ratio in measure():
        print(
            f"{ratio.name:<21}{ratio.body_bytes:>16}{ratio.ours_us:>10.0f}{ratio.theirs_us:>12.0f}{ratio.times:>8.2f}"
        )


if __name__ == "__main__":
    main()
