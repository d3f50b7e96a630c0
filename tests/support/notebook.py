"""What a notebook has: a server with an S3 of its own, the variables that `serving env` sets, and models to deploy."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import boto3
import numpy as np
import onnx
import onnxruntime
import xgboost
from onnx import helper

from serving.samples import fraud
from tests.support import onnx_models, server
from tests.support.server import Server

ROLE: Final = "arn:aws:iam::123456789012:role/serving"
XGBOOST_IMAGE: Final = "683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-xgboost:1.7-1"

ENVIRONMENT_WITHIN_S: Final = 30.0
HOLD_S: Final = 25

Rows = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class Notebook:
    """A running server, and what a shell or notebook of its user has in the environment."""

    server: Server
    variables: Mapping[str, str]

    @contextlib.contextmanager
    def client(self, service: str, **arguments: Any) -> Iterator[Any]:
        """boto3's client for a service, made of nothing but the variables, and closed after."""
        before = dict(os.environ)
        os.environ.update(self.variables)
        try:
            client = boto3.Session().client(service, **arguments)
        finally:
            os.environ.clear()
            os.environ.update(before)
        try:
            yield client
        finally:
            client.close()


@contextlib.contextmanager
def opened(state_dir: Path, *arguments: str | Path) -> Iterator[Notebook]:
    """A server with its own S3 on free ports, its endpoints kept in `state_dir`; nothing of it is left afterwards."""
    # A load that a busy machine draws out beyond the usual hold would cost its waiter 30 seconds.
    usual = ("--with-s3", "--s3-port", "0", "--describe-hold-s", str(HOLD_S))
    with server.running(*usual, *arguments, state_dir=state_dir) as started:
        yield Notebook(started, variables(state_dir))


def variables(state_dir: Path) -> dict[str, str]:
    """What `eval $(serving env)` sets in a shell that has nothing set."""
    serving = f'"{sys.executable}" -m serving.cli.main env --state-dir "{state_dir}"'
    printed = subprocess.run(
        ["env", "-i", "bash", "-c", f'set -e; told=$({serving}); eval "$told"; env -0'],
        capture_output=True,
        check=False,
        timeout=ENVIRONMENT_WITHIN_S,
    )
    assert printed.returncode == 0, printed.stderr.decode()
    found = dict(each.split("=", 1) for each in printed.stdout.decode().rstrip("\0").split("\0"))
    return {name: value for name, value in found.items() if name.startswith("AWS_")}


def archive(file: Path, members: Mapping[str, bytes]) -> Path:
    """Writes `members`, by their paths in it, to a gzipped tar and gives its path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
    return file


def rows() -> Rows:
    """Payments, as the `fraud` sample takes them: FP32[5, 4], one of them fraud to the eye."""
    return np.concatenate([np.array(fraud.ROWS, np.float32), fraud.table(3, seed=7)[0]])


def _classifier(folder: Path) -> bytes:
    """A small network in ONNX: `features` FP32[N,4] to `probabilities` FP32[N,3], which add up to 1."""
    random = np.random.default_rng(11)
    nodes = [
        helper.make_node("Gemm", ["features", "w1", "b1"], ["hidden"]),
        helper.make_node("Tanh", ["hidden"], ["activated"]),
        helper.make_node("Gemm", ["activated", "w2", "b2"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    constants = {
        "w1": random.normal(0, 0.1, (4, 16)).astype(np.float32),
        "b1": random.normal(0, 0.1, 16).astype(np.float32),
        "w2": random.normal(0, 0.5, (16, 3)).astype(np.float32),
        "b2": random.normal(0, 0.1, 3).astype(np.float32),
    }
    inputs, outputs = [("features", "FP32", ("N", 4))], [("probabilities", "FP32", ("N", 3))]
    file = onnx_models.write(folder / "classifier.onnx", inputs, outputs, nodes, **constants)
    onnx.checker.check_model(file)
    return file.read_bytes()


@dataclass(frozen=True, slots=True)
class Models:
    """Archives to deploy, and what the models in them say when their own libraries run them.

    `xgboost` is the `fraud` sample, `onnx` a small classifier, `triton` the same in Triton's layout, `sklearn` a logistic
    regression in a skops file. All take FP32[N,4].
    """

    folder: Path
    answers: Mapping[str, Callable[[Rows], Rows]]

    @classmethod
    def make(cls, folder: Path) -> Models:
        """Trains and packs them under `folder`."""
        import skops.io
        from sklearn.linear_model import LogisticRegression

        (folder / "xgboost").mkdir(parents=True)
        packed = fraud.train()
        (folder / "xgboost" / "model.tar.gz").write_bytes(packed)
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            member = tar.extractfile(fraud.BOOSTER)
            assert member is not None
            booster = xgboost.Booster(model_file=bytearray(member.read()))

        graph = _classifier(folder)
        session = onnxruntime.InferenceSession(graph)
        archive(folder / "onnx" / "model.tar.gz", {"model.onnx": graph})
        archive(
            folder / "triton" / "model.tar.gz",
            {"classifier/1/model.onnx": graph, "classifier/config.pbtxt": b'platform: "onnxruntime_onnx"\n'},
        )

        table, labels = fraud.table(400, seed=3)
        estimator = LogisticRegression(max_iter=1000).fit(table, labels)
        archive(folder / "sklearn" / "model.tar.gz", {"model.skops": bytes(skops.io.dumps(estimator))})
        return cls(
            folder,
            {
                "xgboost": lambda asked: booster.predict(xgboost.DMatrix(asked, feature_names=list(fraud.FEATURES))),
                "onnx": lambda asked: session.run(None, {"features": asked})[0],
                "triton": lambda asked: session.run(None, {"features": asked})[0],
                "sklearn": estimator.predict,
            },
        )

    def archive(self, name: str) -> Path:
        """The `model.tar.gz` of one."""
        return self.folder / name / "model.tar.gz"

    def answer(self, name: str, asked: Rows) -> Rows:
        """What the model's own library answers."""
        return self.answers[name](asked)
