"""The SageMaker Python SDK 3.27.0, unmodified: notebooks of it that deploy from S3, predict and register."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.clients.conftest import Run
from tests.support.answers import close, same
from tests.support.notebook import Rows

Answers = Callable[[str], Rows]

AT_ONCE_S = 2.0


def test_resources(run: Run, answers: Answers) -> None:
    found, expected = run("sdk3", "deploy_resources", "onnx"), answers("onnx")
    assert found["seconds"] < AT_ONCE_S
    close(found["csv"], expected)
    close(found["json"], expected)
    same(found["npy"], expected)
    assert found["variant"] == "AllTraffic"
    assert found["listed"] == [["sdk3-onnx"]] * 3
    assert found["tags"] == [["team", "payments"]]
    assert found["echoed"] == "s3://sdk3-onnx/classifier/model.tar.gz"
    assert found["updated_seconds"] < AT_ONCE_S
    assert found["updated"] == ["sdk3-onnx-next"] * 2
    # It looks at once, and again 5 seconds later.
    assert found["deleted_seconds"] < AT_ONCE_S
    assert "s3://sdk3-onnx/missing/model.tar.gz" in found["missing"]
    assert found["absent"] == {
        "Code": "ValidationException",
        "Message": 'Could not find endpoint "arn:aws:sagemaker:us-east-1:123456789012:endpoint/sdk3-absent".',
    }


def test_model_builder_and_registry(run: Run, answers: Answers) -> None:
    found, expected = run("sdk3", "model_builder", "xgboost"), answers("xgboost")
    assert found["seconds"] < AT_ONCE_S
    close(found["csv"], expected)
    close(found["json"], expected)
    same(found["npy"], expected)
    arn = "arn:aws:sagemaker:us-east-1:123456789012:model-package/sdk3-fraud/1"
    assert found["registered"] == [arn, 1, "PendingManualApproval"]
    assert found["pending"]["Code"] == "ValidationException"
    assert arn in found["pending"]["Message"]
    assert found["approved"] == "Approved"
    assert found["versions"] == [arn]
    close(found["package_csv"], expected)


@pytest.mark.slow
def test_deploy_that_waits_by_itself(run: Run, answers: Answers) -> None:
    found = run("sdk3", "deploy_and_wait", "onnx")
    # The 30 seconds are the SDK's own sleep before its first look.
    assert found["seconds"] < 30 + AT_ONCE_S
    close(found["csv"], answers("onnx"))
