"""What is learned of run times."""

from __future__ import annotations

import pytest

from serving.runtime.costs import Costs


def test_one_descheduled_run_does_not_mislead() -> None:
    for believed in (False, True):
        costs = Costs()
        costs.learn(4, 0.001)
        costs.learn(4, 1.0, believed=believed)
        assert costs.predict(4) < 0.0015


def test_a_quick_run_that_is_believed_is_what_is_known() -> None:
    costs = Costs()
    costs.learn(4, 0.001)
    costs.learn(4, 0.0002)
    assert costs.predict(4) == pytest.approx(0.0009)
    costs.learn(4, 0.0002, believed=True)
    assert costs.predict(4) == pytest.approx(0.0002)
