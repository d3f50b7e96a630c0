"""The SageMaker Python SDK 2.257.7, unmodified: notebooks of it that deploy from S3, predict and register."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.clients.conftest import Run
from tests.support import many
from tests.support.answers import close, same
from tests.support.notebook import Rows

Answers = Callable[[str], Rows]

AT_ONCE_S = 2.0


def test_xgboost(run: Run, answers: Answers) -> None:
    found, expected = run("sdk2", "deploy_xgboost", "xgboost"), answers("xgboost")
    assert found["seconds"] < AT_ONCE_S
    close(found["csv"], expected)
    close(found["json"], expected)
    same(found["npy"], expected)
    assert found["described"] == "InService"
    assert found["tags"] == [{"Key": "team", "Value": "payments"}]
    assert found["updated_seconds"] < AT_ONCE_S
    same(found["updated"], expected)
    assert found["deleted_seconds"] < AT_ONCE_S
    assert "sdk2-missing" in found["missing"]
    assert "s3://sdk2-xgboost/missing/model.tar.gz" in found["missing"]


def test_onnx(run: Run, answers: Answers) -> None:
    found, expected = run("sdk2", "deploy_onnx", "onnx", "triton"), answers("onnx")
    close(found["csv"], expected)
    close(found["json"], expected)
    same(found["npy"], expected)
    (output,) = found["triton"]
    assert {key: output[key] for key in ("name", "datatype", "shape")} == {
        "name": "probabilities",
        "datatype": "FP32",
        "shape": list(expected.shape),
    }
    close(output["data"], expected)


def test_framework_models(run: Run, answers: Answers) -> None:
    found = run("sdk2", "deploy_frameworks", "xgboost", "sklearn")
    close(found["xgboost"], answers("xgboost"))
    close(found["libsvm"], answers("xgboost"))
    same(found["sklearn"], answers("sklearn"))
    same(found["sklearn_json"], answers("sklearn"))
    # Scripts of one's own are not run yet; whoever deploys one is told so.
    assert "inference.py" in found["script"]
    assert "not built yet" in found["script"]


def test_multi_model(run: Run, rows: Rows, tmp_path: Path) -> None:
    packed = tmp_path / "many.tar"
    with tarfile.open(packed, "w") as tar:
        for number in range(50):
            content = many.archive(tmp_path / "graph", number)
            member = tarfile.TarInfo(f"m{number}.tar.gz")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    found = run("sdk2", "multi_model", packed)
    assert found["seconds"] < AT_ONCE_S
    assert found["listed"] == sorted(f"team/m{number}.tar.gz" for number in range(50))
    for number in range(50):
        same(np.float32(found["answers"][f"team/m{number}.tar.gz"]), rows * np.float32(number))
    same(np.float32(found["added"]), rows * np.float32(7))
    assert found["more"] is True
    assert "Failed to download model data" in found["missing"]


def test_registry(run: Run, answers: Answers) -> None:
    found = run("sdk2", "register_package", "xgboost")
    arn = "arn:aws:sagemaker:us-east-1:123456789012:model-package/sdk2-fraud"
    assert found["arns"] == [f"{arn}/1", f"{arn}/2"]
    assert found["pending"] == "PendingManualApproval"
    assert found["approved"] == ["Approved", "checked"]
    close(found["csv"], answers("xgboost"))


@pytest.mark.slow
def test_deploy_that_waits_by_itself(run: Run, answers: Answers) -> None:
    found = run("sdk2", "deploy_and_wait", "xgboost")
    # The 30 seconds are the SDK's own sleep before its first look.
    assert found["seconds"] < 30 + AT_ONCE_S
    close(found["csv"], answers("xgboost"))
