"""Model archives of fraud-mlp, each with weights of its own, so that every answer tells whose model gave it."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

from loadtests.bench import models
from loadtests.bench.models import FRAUD, BenchModel, Sample

IMAGE = "onnx"
FIRST_SEED = 100


@dataclass(frozen=True, slots=True)
class Archive:
    """A `model.tar.gz` and the ONNX file in it; `number` chooses its weights."""

    number: int
    path: Path
    onnx: Path

    @property
    def url(self) -> str:
        """Where it lies on this machine."""
        return self.path.as_uri()

    def model(self, endpoint: str) -> BenchModel:
        """The model as a caller of that endpoint asks it."""
        return dataclasses.replace(FRAUD, name=endpoint, seed=FIRST_SEED + self.number)

    def sample(self) -> Sample:
        """One input with the right answer of these weights."""
        return models.samples(self.model("fraud"), self.onnx, 1)[0]


def archives(folder: Path, count: int) -> list[Archive]:
    """That many archives under `folder`, made on the first call."""
    return [_archive(folder.resolve(), number) for number in range(count)]


def _archive(folder: Path, number: int) -> Archive:
    made = Archive(number, folder / f"fraud-{number}.tar.gz", folder / f"fraud-{number}.onnx")
    if not made.path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        content = models.build(made.model("fraud")).SerializeToString()
        made.onnx.write_bytes(content)
        pack(made.path, content)
    return made


def pack(path: Path, onnx: bytes) -> None:
    """Writes a gzipped tar that holds one `model.onnx`, at once."""
    partial = path.with_suffix(".partial")
    with tarfile.open(partial, "w:gz") as tar:
        member = tarfile.TarInfo("model.onnx")
        member.size = len(onnx)
        tar.addfile(member, io.BytesIO(onnx))
    partial.rename(path)
