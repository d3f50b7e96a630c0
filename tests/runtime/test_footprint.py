"""Footprints: what is estimated before anything is known, and what loads teach."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.runtime.footprint import BASE_BYTES, LEAST, MOST, SMALLEST_BYTES, Footprint

MIB = 1 << 20


def teach(footprint: Footprint, kind: str, artifact: int, grown: int, times: int = 200) -> None:
    for _ in range(times):
        footprint.loaded(kind, artifact, grown)


def test_a_graph_of_a_megabyte_takes_about_two() -> None:
    assert Footprint().estimate("onnx", MIB) == pytest.approx(1.9 * MIB, rel=0.05)


def test_kinds_that_nobody_knows_are_taken_for_large() -> None:
    footprint = Footprint()
    assert footprint.estimate("new", MIB) > footprint.estimate("onnx", MIB)
    assert footprint.estimate("new", MIB) == footprint.estimate("xgboost", MIB)


@pytest.mark.parametrize("artifact", [-5, 0, 1])
def test_the_smallest_takes_its_base(artifact: int) -> None:
    assert BASE_BYTES <= Footprint().estimate("onnx", artifact) < BASE_BYTES + 10


@pytest.mark.parametrize("factor", [1.0, 3.0, 9.0])
def test_loads_teach_the_factor_of_their_kind_alone(factor: float) -> None:
    footprint = Footprint()
    teach(footprint, "onnx", 4 * MIB, BASE_BYTES + int(factor * 4 * MIB))
    assert footprint.factor("onnx") == pytest.approx(factor, rel=0.01)
    assert footprint.factor("xgboost") == Footprint().factor("xgboost")
    assert footprint.estimate("onnx", 10 * MIB) == pytest.approx(BASE_BYTES + factor * 10 * MIB, rel=0.01)


def test_one_load_moves_it_a_little() -> None:
    footprint = Footprint()
    before = footprint.factor("onnx")
    footprint.loaded("onnx", MIB, 1000 * MIB)
    assert before < footprint.factor("onnx") <= 1.4 * before


@pytest.mark.parametrize("grown", [-MIB, 0, 4096, BASE_BYTES, BASE_BYTES + MIB // 4])
def test_memory_that_was_used_again_teaches_nothing(grown: int) -> None:
    footprint = Footprint()
    before = footprint.factor("onnx")
    teach(footprint, "onnx", MIB, grown)
    assert footprint.factor("onnx") == before


def test_tiny_artifacts_teach_nothing() -> None:
    footprint = Footprint()
    before = footprint.factor("onnx")
    teach(footprint, "onnx", SMALLEST_BYTES - 1, 100 * MIB)
    teach(footprint, "onnx", 0, 100 * MIB)
    assert footprint.factor("onnx") == before


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["onnx", "sklearn", "new"]),
            st.integers(-10, 10**12),
            st.integers(-(10**13), 10**13) | st.integers(0, 10**7),
        ),
        max_size=60,
    )
)
@settings(max_examples=100, deadline=None)
def test_whatever_it_is_told_it_stays_within_bounds(loads: list[tuple[str, int, int]]) -> None:
    footprint = Footprint()
    for kind, artifact, grown in loads:
        footprint.loaded(kind, artifact, grown)
        assert LEAST <= footprint.factor(kind) <= MOST
        assert footprint.estimate(kind, max(artifact, 0)) >= BASE_BYTES
