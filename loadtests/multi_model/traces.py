"""Traces: which of many models is asked for, one request after the other; the same numbers on every machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

MB: Final = 1_000_000
GB: Final = 1_000 * MB
MODELS: Final = 5_000
REQUESTS: Final = 1_000_000
SECONDS: Final = 0.005
"""What loading takes beside its bytes: a session's creation."""
BYTES_PER_S: Final = 100 * MB


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests by the number of the model; `sizes` in bytes and `seconds` of loading by model; the budget that it is made for.

    `noise` is the standard deviation of the logarithm of what is measured of one load, against `seconds`.
    """

    name: str
    about: str
    keys: NDArray[np.int32]
    sizes: NDArray[np.int64]
    seconds: NDArray[np.float64]
    budget: int
    noise: float = 0.0


def zipf(exponent: float, models: int, requests: int, random: np.random.Generator) -> NDArray[np.int32]:
    """Independent requests; the chance of model k is proportional to 1 / (k + 1) ** exponent."""
    weights = np.arange(1, models + 1, dtype=np.float64) ** -exponent
    borders = np.cumsum(weights)
    drawn: NDArray[np.int32] = np.searchsorted(borders, random.random(requests) * borders[-1]).astype(np.int32)
    return drawn


def popular(exponent: float, requests: int = REQUESTS, *, noise: float = 0.0) -> Trace:
    """5,000 models of 1 MB under 1 GB; the popular ones stay popular."""
    about = f"Zipf({exponent:g})" + (f", each load's time off by a factor of e^{noise:g}" if noise else "")
    keys = zipf(exponent, MODELS, requests, np.random.default_rng(1))
    return _equal(f"zipf-{exponent:g}" + ("-noise" if noise else ""), about, keys, noise=noise)


def sizes(requests: int = REQUESTS) -> Trace:
    """Models of 0.1 to 50 MB (log-normal), big and small ones equally popular, under a seventh of their bytes."""
    random = np.random.default_rng(2)
    many = np.clip(np.exp(random.normal(np.log(2 * MB), 1.5, MODELS)), 0.1 * MB, 50 * MB).astype(np.int64)
    keys = zipf(1.0, MODELS, requests, random)
    about = "Zipf(1), log-normal 0.1 to 50 MB, budget a seventh of all"
    return Trace("sizes", about, keys, many, _seconds(many), int(many.sum()) // 7)


def mixed(requests: int = REQUESTS) -> Trace:
    """Everything at once: sizes as above, Zipf(0.9) that drifts, scans, and loads whose measured time is off."""
    random = np.random.default_rng(9)
    many = np.clip(np.exp(random.normal(np.log(2 * MB), 1.5, MODELS)), 0.1 * MB, 50 * MB).astype(np.int64)
    drawn = random.permutation(MODELS)[(zipf(0.9, MODELS, requests, random) + np.arange(requests) // 2_000) % MODELS]
    keys = _scanned(drawn.astype(np.int32), random.permutation(MODELS).astype(np.int32))
    about = "Zipf(0.9) that drifts, log-normal sizes, scans, loads' time off by a factor of e^0.7; a seventh of all"
    return Trace("mixed", about, keys, many, _seconds(many), int(many.sum()) // 7, 0.7)


def scan(requests: int = REQUESTS) -> Trace:
    """Zipf(1.1), and ten times all models are asked for once, each time in their order."""
    keys = zipf(1.1, MODELS, requests, np.random.default_rng(3))
    order = np.random.default_rng(4).permutation(MODELS).astype(np.int32)
    return _equal("scan", "Zipf(1.1), ten times a scan over all models", _scanned(keys, order))


def shift(requests: int = REQUESTS, times: int = 10) -> Trace:
    """Zipf(1.1), and everything changes, time and again: which models are popular is drawn anew."""
    random = np.random.default_rng(5)
    parts = [random.permutation(MODELS)[zipf(1.1, MODELS, requests // times, random)] for _ in range(times)]
    name = "shift" if times == 10 else f"shift-{times}"
    return _equal(name, f"Zipf(1.1), the ranks drawn anew {times} times", np.concatenate(parts))


def drift(requests: int = REQUESTS) -> Trace:
    """Zipf(1), and the ranks move on by one model in each 400 requests: a model is new, popular, and forgotten."""
    random = np.random.default_rng(6)
    moved = np.arange(requests) // 400
    return _equal(
        "drift",
        "Zipf(1), the ranks move on by one in 400 requests",
        (zipf(1.0, MODELS, requests, random) + moved) % MODELS,
    )


def loop(requests: int = REQUESTS) -> Trace:
    """All of 1,100 models one after the other, again and again, where 1,000 have room."""
    return _equal("loop", "1,100 models in turn, room for 1,000", np.arange(requests) % 1_100)


def bursts(requests: int = REQUESTS) -> Trace:
    """Sessions: a model is asked for 20 times within some 2,000 requests and then left alone; the models by Zipf(0.6)."""
    random = np.random.default_rng(7)
    sessions = zipf(0.6, MODELS, requests // 20 + 1, random)
    starts = np.sort(random.random(len(sessions))) * requests
    moments = starts[:, None] + np.cumsum(random.exponential(100.0, (len(sessions), 20)), axis=1)
    return _equal(
        "bursts",
        "sessions of 20 requests, the models by Zipf(0.6)",
        np.repeat(sessions, 20)[np.argsort(moments.reshape(-1), kind="stable")][:requests],
    )


TRACES: Final[Mapping[str, Callable[[int], Trace]]] = MappingProxyType(
    {
        "zipf-1.1": lambda requests: popular(1.1, requests),
        "zipf-0.8": lambda requests: popular(0.8, requests),
        "zipf-1.1-noise": lambda requests: popular(1.1, requests, noise=0.7),
        "sizes": sizes,
        "mixed": mixed,
        "scan": scan,
        "shift": shift,
        "shift-100": lambda requests: shift(requests, 100),
        "drift": drift,
        "loop": loop,
        "bursts": bursts,
    }
)
"""The traces that policies are compared on, by name; each of as many requests as are asked for."""


def _scanned(keys: NDArray[np.int32], order: NDArray[np.int32]) -> NDArray[np.int32]:
    """As many requests, with ten scans among them, which are half of all at most."""
    order = order[: len(keys) // 20]
    first, *parts = np.array_split(keys[: len(keys) - 10 * len(order)], 11)
    return np.concatenate([first, *(each for part in parts for each in (order, part))])


def _equal(name: str, about: str, keys: NDArray[np.integer], *, noise: float = 0.0) -> Trace:
    """Models of 1 MB under 1 GB."""
    many = np.full(MODELS, MB, np.int64)
    return Trace(name, about, keys.astype(np.int32), many, _seconds(many), GB, noise)


def _seconds(many: NDArray[np.int64]) -> NDArray[np.float64]:
    return SECONDS + many / BYTES_PER_S
