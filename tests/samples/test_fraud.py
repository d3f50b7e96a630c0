"""The fraud sample: its table, its model and the answers that the documentation promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import yaml

from serving.samples import fraud


@pytest.fixture(scope="module")
def session(samples: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(samples / "fraud" / "model.onnx", options)


def test_the_model_takes_features_and_gives_probabilities_only(session: onnxruntime.InferenceSession) -> None:
    assert [(each.name, each.type, each.shape) for each in session.get_inputs()] == [
        ("features", "tensor(float)", ["N", 4])
    ]
    assert [(each.name, each.type, each.shape) for each in session.get_outputs()] == [
        ("probabilities", "tensor(float)", ["N", 2])
    ]


def test_the_promised_answers(session: onnxruntime.InferenceSession) -> None:
    (probabilities,) = session.run(None, {"features": np.array(fraud.ROWS, np.float32)})
    np.testing.assert_allclose(probabilities, fraud.ANSWERS, atol=fraud.TOLERANCE)


def test_it_has_learnt_the_rule(session: onnxruntime.InferenceSession) -> None:
    rows, labels = fraud.table(4000, seed=99)
    (probabilities,) = session.run(None, {"features": rows})
    assert 0.05 < labels.mean() < 0.2
    assert ((probabilities[:, 1] > 0.5) == labels).mean() > 0.93
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)


def test_a_row_has_the_same_answer_in_every_batch(session: onnxruntime.InferenceSession) -> None:
    rows, _ = fraud.table(200, seed=7)
    (together,) = session.run(None, {"features": rows})
    for size in (1, 3, 64):
        apart = [session.run(None, {"features": rows[i : i + size]})[0] for i in range(0, len(rows), size)]
        np.testing.assert_array_equal(np.concatenate(apart), together)


def test_training_again_gives_the_same_model(samples: Path) -> None:
    assert fraud.train() == (samples / "fraud" / "model.onnx").read_bytes()


def test_the_settings_name_the_features(samples: Path) -> None:
    settings = yaml.safe_load((samples / "fraud" / "model.yaml").read_text())
    assert settings["name"] == "fraud"
    assert settings["inputs"] == [{"name": "features", "features": ["amount", "hour", "merchant_risk", "velocity"]}]


def test_it_is_made_again_only_when_the_recipe_changed(samples: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fraud"
    folder.mkdir()
    (folder / "model.onnx").write_bytes((samples / "fraud" / "model.onnx").read_bytes())
    (folder / "model.yaml").write_text(fraud.CONFIG)
    (folder / "notes.txt").write_text("kept")
    assert not fraud.make(tmp_path)
    (folder / "model.yaml").write_text(fraud.CONFIG.replace('version: "1"', 'version: "0"'))
    assert fraud.make(tmp_path)
    assert not fraud.make(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "model.yaml", "notes.txt"]
