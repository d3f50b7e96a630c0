"""The comparison of eviction policies: its traces are what they say, its simulation counts right, and its bounds are bounds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.multi_model import policies
from loadtests.multi_model.bounds import bound, following
from loadtests.multi_model.comparison import ALL, BOUND, RIVALS, Cell, cell, markdown
from loadtests.multi_model.simulation import Outcome, simulate
from loadtests.multi_model.traces import GB, MODELS, TRACES, Trace
from serving.runtime.eviction import POLICIES, policy

REQUESTS = 20_000


def trace(keys: Sequence[int], sizes: Sequence[int], budget: int, seconds: Sequence[float] | None = None) -> Trace:
    return Trace(
        "test",
        "",
        np.array(keys, np.int32),
        np.array(sizes, np.int64),
        np.array(seconds if seconds is not None else [1.0] * len(sizes)),
        budget,
    )


small = st.builds(
    lambda keys, sizes, budget: trace(keys, sizes, budget, [size / 7 + 0.5 for size in sizes]),
    st.lists(st.integers(0, 5), min_size=1, max_size=60),
    st.lists(st.integers(1, 4), min_size=6, max_size=6),
    st.integers(4, 12),
)


# ---------------------------------------------------------------------- traces


@pytest.mark.parametrize("name", TRACES)
def test_a_trace_is_the_same_each_time_and_whole(name: str) -> None:
    made, again = TRACES[name](REQUESTS), TRACES[name](REQUESTS)
    assert made.name == name
    assert np.array_equal(made.keys, again.keys)
    assert len(made.keys) == REQUESTS
    assert made.keys.dtype == np.int32
    assert made.keys.min() >= 0
    assert made.keys.max() < len(made.sizes) == len(made.seconds) == MODELS
    assert made.sizes.max() < made.budget < made.sizes.sum()


def test_zipf_is_zipf() -> None:
    made = TRACES["zipf-1.1"](200_000)
    asked = np.bincount(made.keys, minlength=MODELS)
    assert asked[0] / asked[9] == pytest.approx(10**1.1, rel=0.1)
    assert asked[0] / asked[:100].sum() == pytest.approx(1 / sum(rank**-1.1 for rank in range(1, 101)), rel=0.03)
    assert made.budget == GB


def test_sizes_lie_between_their_limits_and_cost_time() -> None:
    made = TRACES["sizes"](100)
    assert made.sizes.min() >= 100_000
    assert made.sizes.max() <= 50_000_000
    assert made.sizes.max() / made.sizes.min() > 100
    assert np.all(np.diff(made.seconds[np.argsort(made.sizes)]) >= 0)


def test_a_scan_asks_for_every_model_ten_times() -> None:
    made = TRACES["scan"](200_000)
    assert np.bincount(made.keys, minlength=MODELS).min() >= 10


# ---------------------------------------------------------------------- simulation


def test_the_simulation_counts() -> None:
    made = trace([0, 1, 0, 2, 1, 0], [1, 2, 3], 4, [1.0, 2.0, 4.0])
    # 0 in, 1 in, 0 again, 2 in the place of 1 (0 is of no help and stays), 1 in the place of 2, 0 again.
    assert simulate(policy("lru"), made, in_use=0) == Outcome(6, 2, 1 + 2 + 1 + 3 + 2 + 1, 2, 1.0 + 2.0 + 4.0 + 2.0)


def test_what_is_in_use_stays() -> None:
    made = trace([0, 1, 2, 0], [1, 1, 1], 2)
    assert simulate(policy("lru"), made, in_use=0).hits == 0
    assert simulate(policy("lru"), made, in_use=2).hits == 1
    assert simulate(policy("lru"), made, budget=3).hits == 1


@pytest.mark.parametrize("name", [*POLICIES, *RIVALS])
@given(small)
@settings(max_examples=60, deadline=None)
def test_every_policy_lists_what_is_in_and_does_no_better_than_the_bound(name: str, made: Trace) -> None:
    told = ALL[name]()
    present = set[int]()
    for key in made.keys.tolist():
        if key not in present:
            for victim in list(itertools.islice(told.victims(), max(0, len(present) - 2))):
                told.removed(victim, evicted=True)
                present.remove(victim)
            told.added(key, int(made.sizes[key]), float(made.seconds[key]), 0.0)
            present.add(key)
        told.used(key, 1, 0.0)
        order = list(told.victims())
        assert sorted(order) == sorted(present)
    outcome, best = simulate(ALL[name](), made, in_use=0), bound(made)
    assert outcome.hits <= best.hits
    assert outcome.hit_bytes <= best.hit_bytes
    assert outcome.loading_s >= best.loading_s - 1e-9
    assert outcome.bytes == best.bytes


# ---------------------------------------------------------------------- bounds


def test_the_next_request_of_the_same_model() -> None:
    assert following(np.array([3, 1, 3, 3, 2, 1], np.int32)).tolist() == [2, 5, 3, 12, 12, 12]


def most_hits(keys: Sequence[int], room: int) -> int:
    """By trying everything."""
    states = {frozenset[int](): 0}
    for key in keys:
        after: dict[frozenset[int], int] = {}
        for state, hits in states.items():
            if key in state:
                nexts = {state: hits + 1}
            elif len(state) < room:
                nexts = {state | {key}: hits}
            else:
                nexts = {(state - {victim}) | {key}: hits for victim in state}
            for one, count in nexts.items():
                after[one] = max(after.get(one, 0), count)
        states = after
    return max(states.values())


@given(st.lists(st.integers(0, 5), min_size=1, max_size=25), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_beladys_bound_is_the_optimum_where_all_models_are_alike(keys: list[int], room: int) -> None:
    assert bound(trace(keys, [1] * 6, room)).hits == most_hits(keys, room)


# ---------------------------------------------------------------------- what the default is chosen for


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return [cell(name, made, REQUESTS) for made in TRACES for name in (*POLICIES, BOUND)]


@pytest.mark.parametrize("name", TRACES)
def test_the_default_is_no_worse_than_lru(cells: list[Cell], name: str) -> None:
    by_policy = {each.policy: each.outcome for each in cells if each.trace == name}
    # In a trace so short, what is popular changes every 2,000 (200) requests, and there is room for 1,000 models.
    assert by_policy["gdsf"].hit_ratio > by_policy["lru"].hit_ratio - (0.02 if "shift" in name else 0.002)


@pytest.mark.parametrize(("name", "share"), [("sizes", 0.92), ("mixed", 0.8), ("scan", 0.6), ("zipf-0.8", 0.92)])
def test_the_default_loads_for_less_time(cells: list[Cell], name: str, share: float) -> None:
    by_policy = {each.policy: each.outcome for each in cells if each.trace == name}
    assert by_policy["gdsf"].loading_s < share * by_policy["lru"].loading_s


# ---------------------------------------------------------------------- the command


def test_the_table_has_every_policy_and_marks_the_best() -> None:
    def made(name: str, hits: int, seconds: float) -> Cell:
        return Cell(name, "loop", 1.0, Outcome(100, hits, 100, hits, seconds), 0.1)

    rest = [made(name, 10, 40.0) for name in ALL if name not in ("gdsf", "lru")]
    text = markdown([made("gdsf", 50, 20.0), made("lru", 40, 19.0), *rest, made(BOUND, 60, 1.0)])
    lines = text.splitlines()
    assert "| gdsf | **50.0** |" in lines
    assert "| lru | **19** |" in lines
    assert f"| {BOUND} | 60.0 |" in lines
    assert sum(line.startswith("| S3-FIFO |") for line in lines) == 3


def test_the_command_writes_what_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(policies, "QUICK_REQUESTS", 1_000)
    asked = ["--quick", "--processes", "1", "--markdown", str(tmp_path / "a" / "b.md"), "--plots", str(tmp_path / "p")]
    assert policies.main(asked) == 0
    text = (tmp_path / "a" / "b.md").read_text()
    assert text in capsys.readouterr().out
    assert all(f"| {name} |" in text for name in (*ALL, BOUND))
    drawn = sorted((tmp_path / "p").iterdir())
    assert [path.name for path in drawn] == ["eviction-budgets.svg", "eviction-hits.svg", "eviction-seconds.svg"]
    assert all("W-TinyLFU" in path.read_text() for path in drawn)
