"""One line for each system, the fastest first, and the reason where there is no figure."""

from loadtests.bench.rows import FLOOR, Row
from loadtests.bench.table import HEAD, side_by_side


def test_systems_are_lines_and_cases_columns() -> None:
    rows = [
        Row("fraud-mlp/c64", FLOOR, 40_000.0, 1.4, 2.8),
        Row("fraud-mlp/c64", "slow", 1_234.4, 52.3, 1234.5),
        Row("fraud-mlp/c64", "fast", 70_000.0, 0.654, 1.0),
        Row("fraud-mlp/c64", "fast", 1.0, 1.0, 1.0),
        Row("encoder/open 50 %", "slow", 200.0, 9.994, 9.996),
        Row("startup", "other", 1.0, 1.0, 1.0),
    ]
    fast, slow = (dict(zip(HEAD, line.cells(), strict=True)) for line in side_by_side(rows))
    assert (fast["system"], slow["system"]) == ("fast", "slow")
    assert fast["fraud-mlp c=64"] == "70,000 (0.65 / 1.00)"  # the first row of a case, not a later one
    assert slow["fraud-mlp c=64"] == "1,234 (52 / 1234)"
    assert slow["encoder open 50 %"] == "200 (9.99 / 10.00)"
    assert slow["fraud-mlp c=1"] == ""


def test_what_was_not_measured_says_why() -> None:
    rows = [
        Row("peers", "absent", note="could not be\ninstalled: no network"),
        Row("fraud-mlp/c1", "half", 100.0, 1.0, 2.0),
        Row("fraud-mlp/c16", "half", note="3 errors"),
    ]
    lines = {line.system: line for line in side_by_side(rows)}
    assert lines["absent"].cells()[1] == "could not be installed: no network"
    assert lines["half"].cells()[1:3] == ["100 (1.00 / 2.00)", "3 errors"]


def test_no_rows_no_table() -> None:
    assert side_by_side([Row("workers", "serving", 1.0)]) == []
