"""What is counted of batches, and how the rows of several workers add up."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InternalError
from serving.runtime.inference_counts import lasting, merge
from serving.runtime.statistics import MOST_SIZES, ModelStatistics, VariantStatistics
from serving.telemetry.accumulators import ROW_BOUNDS, Histogram, HistogramValue, freeze

SIZES = st.one_of(st.integers(1, 70), st.integers(MOST_SIZES - 2, MOST_SIZES + 2), st.integers(1, 2_000_000))


@given(st.lists(st.tuples(SIZES, st.floats(0, 1)), max_size=200))
def test_batches_by_size_are_the_histogram_of_their_rows(batches: list[tuple[int, float]]) -> None:
    counted = ModelStatistics("m", "1")
    expected = Histogram(ROW_BOUNDS)
    for rows, seconds in batches:
        size = counted.sizes.get(rows) or counted.size(rows)
        size[0] += 1
        size[1] += seconds
        expected.observe(rows)
    found = next(sample.value for sample in counted.samples() if sample.name == "serving_batch_rows")
    assert found == freeze(expected)
    assert isinstance(found, HistogramValue)
    assert counted.batches == len(batches)
    assert counted.rows == sum(rows for rows, _ in batches)
    assert sum(seconds for _, seconds in counted.sizes.values()) == pytest.approx(sum(each for _, each in batches))


def test_sizes_are_bounded() -> None:
    counted = ModelStatistics("m", "1")
    for rows in range(1, 20 * MOST_SIZES):
        counted.size(rows)
    assert len(counted.sizes) <= MOST_SIZES + 20


durations = st.fixed_dictionaries({"count": st.integers(0, 9), "ns": st.integers(0, 2**60)})
rows = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["a", "a:b"]),
        "version": st.sampled_from(["1", "2"]),
        "last_inference": st.integers(0, 2**41),
        "inference_count": st.integers(0, 99),
        "execution_count": st.integers(0, 99),
        "inference_stats": st.fixed_dictionaries({"success": durations, "fail": durations}),
        "batch_stats": st.dictionaries(st.integers(1, 4), durations).map(
            lambda sizes: [{"batch_size": size, "compute_infer": found} for size, found in sizes.items()]
        ),
        "memory_usage": st.lists(
            st.fixed_dictionaries({"type": st.just("CPU"), "id": st.just(0), "byte_size": st.integers(1, 9)}),
            max_size=1,
        ),
        "response_stats": st.just({}),
    }
)


@given(st.lists(rows, max_size=8), st.randoms(use_true_random=False))
def test_rows_add_up_in_any_order(told: list[dict[str, Any]], chance: random.Random) -> None:
    merged = merge(told)
    keys = [(row["name"], row["version"]) for row in merged]
    assert keys == list(dict.fromkeys((row["name"], row["version"]) for row in told))
    for key, row in zip(keys, merged, strict=True):
        same = [each for each in told if (each["name"], each["version"]) == key]
        assert row["last_inference"] == max(each["last_inference"] for each in same)
        assert row["inference_count"] == sum(each["inference_count"] for each in same)
        assert row["inference_stats"]["fail"]["ns"] == sum(each["inference_stats"]["fail"]["ns"] for each in same)
        runs = {batch["batch_size"]: batch["compute_infer"]["count"] for batch in row["batch_stats"]}
        for size, count in runs.items():
            batches = [batch for each in same for batch in each["batch_stats"] if batch["batch_size"] == size]
            assert count == sum(batch["compute_infer"]["count"] for batch in batches)
        memory = sum(usage["byte_size"] for each in same for usage in each["memory_usage"])
        assert sum(usage["byte_size"] for usage in row["memory_usage"]) == memory
    shuffled = list(told)
    chance.shuffle(shuffled)

    def ordered(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {**row, "batch_stats": sorted(row["batch_stats"], key=lambda batch: batch["batch_size"])}
            for row in sorted(found, key=lambda row: (row["name"], row["version"]))
        ]

    assert ordered(merge(shuffled)) == ordered(merged)


@given(st.lists(st.tuples(SIZES, st.booleans()), max_size=100))
def test_failed_batches_are_left_out(batches: list[tuple[int, bool]]) -> None:
    counted = ModelStatistics("m", "1")
    for rows, failed in batches:
        size = counted.sizes.get(rows) or counted.size(rows)
        size[0] += 1
        size[1] += 1.0
        if failed:
            counted.failed(1, rows, 1.0, 0.0)
    found = counted.succeeded()
    expected = Counter(_counted_under(rows) for rows, failed in batches if not failed)
    assert [(rows, count) for rows, count, _ in found] == sorted(expected.items())
    assert all(seconds == pytest.approx(count) for _, count, seconds in found)


def _counted_under(rows: int) -> int:
    return rows if rows <= MOST_SIZES else 1 << (rows - 1).bit_length()


def test_versions_that_are_gone_are_bounded() -> None:
    keys = [("m", str(number)) for number in range(100)] + [("n", "1")]
    kept = lasting(keys, [("m", "3"), ("o", "1")])
    assert kept == {("m", "3"), ("o", "1"), ("n", "1"), *(("m", str(number)) for number in range(84, 100))}


def test_what_variants_counted_adds_up() -> None:
    one, other = VariantStatistics("e", "v"), VariantStatistics("e", "v")
    for counted, seconds in ((one, 0.5), (other, 0.25)):
        counted.failed(InternalError())
        counted.latency.observe(seconds)
        counted.streams.seconds.observe(seconds)
        counted.streams.broken_s += seconds
    one.add(other)
    assert (one.invocations, one.errors_5xx, one.latency.total, sum(one.latency.counts)) == (2, 2, 0.75, 2)
    assert (one.streams.seconds.total, one.streams.broken_s) == (0.75, 0.75)
