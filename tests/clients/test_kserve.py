"""The KServe SDK 0.21.0, unmodified: its clients of the Open Inference Protocol over REST and over gRPC."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.clients.conftest import ALONE, ENDS_WITHIN_S, ENVIRONMENTS
from tests.support import onnx_models
from tests.support.server import free_ports, running

NUMBERS = np.array([[0.5, -1.25, 3.0], [1e-3, 7.0, -0.0]], np.float32)
TEXTS = ["left", "", "größer"]
FORMS = ("plain", "binary")
"""Typed contents or JSON, and raw bytes."""


@pytest.fixture(scope="module", params=("grpcio", "h2corn"))
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program reports of a server that echoes numbers and text, by face."""
    python = ENVIRONMENTS / "kserve" / "bin" / "python"
    if not python.exists():
        pytest.skip("the environment .clients/kserve is missing: run `make test-clients`")
    folder = tmp_path_factory.mktemp("kserve")
    models = folder / "models"
    onnx_models.echo(models / "numbers" / "model.onnx", "FP32")
    onnx_models.echo(models / "texts" / "model.onnx", "BYTES", ("N",))
    report, asked, log = folder / "report.json", folder / "numbers.npy", folder / "printed"
    np.save(asked, NUMBERS)
    (port,) = free_ports(1)
    settings = ("--model-repository", models, "--grpc-port", str(port), "--grpc-transport", request.param)
    script = Path(__file__).parent / "kserve" / "open_inference.py"
    variables = {"HOME": str(folder), "PATH": os.defpath, "LC_ALL": "C.UTF-8", **ALONE}
    with running(*settings, state_dir=folder / "state") as server, log.open("wb") as output:
        command = [python, "-W", "ignore", script, server.url, f"127.0.0.1:{port}", asked, report]
        ended = subprocess.run(
            list(map(str, command)), env=variables, stdout=output, stderr=output, timeout=ENDS_WITHIN_S, check=False
        )
        assert ended.returncode == 0, f"{log.read_text()}\nand the server:\n{server.output}"
        assert not server.unexpected()
    said: dict[str, Any] = json.loads(report.read_text())
    return said


@pytest.mark.parametrize("face", ["rest", "grpc"])
def test_health_and_readiness(found: dict[str, Any], face: str) -> None:
    assert [found[face][what] for what in ("live", "ready", "model")] == [True] * 3
    assert not found["rest"]["absent"]


@pytest.mark.parametrize("face", ["rest", "grpc"])
@pytest.mark.parametrize("form", FORMS)
def test_numbers(found: dict[str, Any], face: str, form: str) -> None:
    answer = found[face][f"numbers {form}"]
    assert (answer["model"], answer["id"]) == ("numbers", f"numbers-{form == 'binary'}")
    assert answer["output"] == ["y", "FP32", list(NUMBERS.shape)]
    assert answer["values"] == NUMBERS.ravel().tolist()


@pytest.mark.parametrize("face", ["rest", "grpc"])
@pytest.mark.parametrize("form", FORMS)
def test_text(found: dict[str, Any], face: str, form: str) -> None:
    answer = found[face][f"texts {form}"]
    assert (answer["model"], answer["id"]) == ("texts", f"texts-{form == 'binary'}")
    assert answer["output"] == ["y", "BYTES", [len(TEXTS)]]
    assert answer["values"] == TEXTS


def test_refusals(found: dict[str, Any]) -> None:
    status, said = found["rest"]["refused"]
    assert status == 404
    assert "absent" in said
    code, details = found["grpc"]["refused"]
    assert code == "NOT_FOUND"
    assert "absent" in details
