from __future__ import annotations

from loadtests.bench import codecs


def test_rows_of_numbers_are_read_faster_than_by_numpy() -> None:
    ratios = codecs.measure(runs=5)
    assert [ratio.name for ratio in ratios] == [
        f"{kind}, {name}" for name in codecs.NUMBERS for kind in ("JSON", "CSV")
    ]
    # The margins are in the benchmark's report; a busy machine may halve them.
    assert all(ratio.times > 1 for ratio in ratios)
