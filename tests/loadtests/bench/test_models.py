"""The benchmark's models: the same file every time, and batching that changes no answer."""

from pathlib import Path

import numpy as np
import pytest

from loadtests.bench import models
from loadtests.bench.models import BULK, ENCODER, FRAUD, TOLERANCE, BenchModel


def test_the_same_bytes_every_time() -> None:
    assert models.build(FRAUD).SerializeToString() == models.build(FRAUD).SerializeToString()


@pytest.mark.parametrize(("model", "outputs", "size"), [(FRAUD, 2, 25_542), (ENCODER, 64, 62_300_975), (BULK, 1, 146)])
def test_shapes_and_sizes(model: BenchModel, outputs: int, size: int, tmp_path: Path) -> None:
    path = models.write(model, tmp_path)
    assert path.stat().st_size == pytest.approx(size, rel=0.01)
    session = models.session(path)
    (source,), (target,) = session.get_inputs(), session.get_outputs()
    assert (source.name, source.shape[0], target.name) == (model.input_name, "N", model.output_name)
    assert target.shape == ["N", outputs]


@pytest.mark.parametrize("model", [FRAUD, ENCODER])
def test_a_batch_answers_like_single_rows(model: BenchModel, tmp_path: Path) -> None:
    path = models.write(model, tmp_path)
    known = models.samples(model, path, 32)
    batch = np.stack([sample.input for sample in known])
    answers = models.session(path).run(None, {model.input_name: batch})[0]
    assert np.abs(answers - np.stack([sample.answer for sample in known])).max() < TOLERANCE
    # Distinct answers, or a mixed-up one would not be noticed.
    assert min(np.abs(answers[0] - other).max() for other in answers[1:]) > 10 * TOLERANCE
