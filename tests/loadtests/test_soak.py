"""What counts as growth in the soak."""

from loadtests.bench.proc import Usage
from loadtests.soak.verdict import grown


def series(rss: int = 0, threads: int = 0, descriptors: int = 0) -> list[Usage]:
    """20 samples of a process that grows by so much from each to the next."""
    return [Usage(1, 0, 0.0, 100_000_000 + rss * n, 10 + threads * n, 50 + descriptors * n) for n in range(20)]


def test_a_flat_process() -> None:
    assert grown(series()) == []


def test_each_kind_of_growth_is_named() -> None:
    assert [line.split()[2] for line in grown(series(rss=5_000_000))] == ["rss_bytes"]
    assert [line.split()[2] for line in grown(series(threads=1))] == ["threads"]
    assert [line.split()[2] for line in grown(series(descriptors=3))] == ["descriptors"]


def test_a_short_life_is_not_judged() -> None:
    assert grown(series(rss=50_000_000)[:9]) == []
