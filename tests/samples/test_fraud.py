"""The fraud sample: its table, its archive and the answers that the documentation promises."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import xgboost

from containers.xgboost.container import XGBoostKind
from serving.contract import Container, ModelConfig, TensorSpec
from serving.objects.archive import Archives
from serving.samples import fraud
from tests.support.repositories import resolve


@pytest.fixture(scope="module")
def booster(samples: Path) -> Path:
    """The file in the archive, unpacked."""
    directory = samples.parent / "unpacked"
    with tarfile.open(samples / "fraud" / fraud.ARCHIVE) as archive:
        archive.extractall(directory, filter="data")
    return directory / fraud.BOOSTER


@pytest.fixture(scope="module")
def model(booster: Path) -> Container:
    return XGBoostKind().load(booster, ModelConfig())


def test_the_archive_is_what_a_training_job_leaves(samples: Path) -> None:
    with tarfile.open(samples / "fraud" / fraud.ARCHIVE) as archive:
        assert archive.getnames() == ["xgboost-model"]


def test_the_model_takes_features_by_name_and_gives_a_score(model: Container) -> None:
    assert model.spec.inputs == (TensorSpec("features", "FP32", (-1, 4), fraud.FEATURES),)
    assert model.spec.outputs == (TensorSpec("score", "FP32", (-1,)),)


def test_the_promised_answers(model: Container) -> None:
    (scores,) = model.execute([np.array(fraud.ROWS, np.float32)])
    np.testing.assert_allclose(scores, fraud.ANSWERS, atol=fraud.TOLERANCE)


def test_the_answers_are_the_librarys(model: Container, booster: Path) -> None:
    rows, _ = fraud.table(500, seed=3)
    library = xgboost.Booster()
    library.load_model(bytearray(booster.read_bytes()))
    (scores,) = model.execute([rows])
    np.testing.assert_allclose(scores, library.inplace_predict(rows), atol=1e-6)


def test_it_has_learnt_the_rule(model: Container) -> None:
    rows, labels = fraud.table(4000, seed=99)
    (scores,) = model.execute([rows])
    assert 0.05 < labels.mean() < 0.2
    assert ((scores > 0.5) == labels).mean() > 0.93


def test_a_row_has_the_same_answer_in_every_batch(model: Container) -> None:
    rows, _ = fraud.table(200, seed=7)
    (together,) = model.execute([rows])
    for size in (1, 3, 64):
        apart = [model.execute([rows[i : i + size]])[0] for i in range(0, len(rows), size)]
        np.testing.assert_array_equal(np.concatenate(apart), together)


def test_training_again_gives_the_same_archive(samples: Path) -> None:
    assert fraud.train() == (samples / "fraud" / fraud.ARCHIVE).read_bytes()


def test_the_folder_and_the_archive_are_the_same_model(samples: Path, tmp_path: Path) -> None:
    archives = Archives(tmp_path)
    for path in (samples / "fraud", samples / "fraud" / fraud.ARCHIVE):
        source = resolve(path, None, archives)
        assert (source.name, source.container, source.artifact.name) == ("fraud", "xgboost", "xgboost-model")


def test_it_is_made_again_only_when_the_recipe_changed(samples: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fraud"
    folder.mkdir()
    (folder / fraud.ARCHIVE).write_bytes((samples / "fraud" / fraud.ARCHIVE).read_bytes())
    (folder / "recipe.json").write_text(fraud.RECIPE)
    (folder / "notes.txt").write_text("kept")
    assert not fraud.make(tmp_path)
    (folder / "recipe.json").write_text(fraud.RECIPE.replace("0.15", "0.1"))
    assert fraud.make(tmp_path)
    assert not fraud.make(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == [fraud.ARCHIVE, "notes.txt", "recipe.json"]


def test_the_sample_as_it_was_before_it_came_in_an_archive_goes(tmp_path: Path) -> None:
    folder = tmp_path / "fraud"
    folder.mkdir()
    for name in ("model.onnx", "model.yaml"):
        (folder / name).write_text("old")
    assert fraud.make(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == [fraud.ARCHIVE, "recipe.json"]
