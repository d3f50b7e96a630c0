"""A container that streams what its input says, installed for one server by an entry point of its own.

Input `script` INT64[up to 5]: number of parts (-1: for ever), integers in each, the part that fails (-1: none), how
(an index of `FAULTS`), the part that waits until the file `go` lies beside the model (-1: none). Output `number` INT64[integers]: the part's
number, again and again. When a stream ends, in whatever way, a line with the number of parts that it made is added to
the file `ended` beside the model.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from serving.contract import Array, ModelConfig, ModelSpec, TensorSpec
from serving.errors import InvalidInput, ModelFailure

ROOT: Final = Path(__file__).parents[2]

FAULTS: Final = ("failure", "exception", "outputs", "unwritable", "input")


class ScriptedContainer:
    """Implements `serving.contract.StreamingContainer`."""

    def __init__(self, directory: Path) -> None:
        self.spec = ModelSpec(
            inputs=(TensorSpec("script", "INT64", (-1,)),),
            outputs=(TensorSpec("number", "INT64", (-1,)),),
            platform="scripted",
            batched=False,
            why_not_batched="it is a script",
            streams=True,
        )
        self._go = directory / "go"
        self._ended = directory / "ended"

    def execute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """All parts in one."""
        return [np.concatenate([part[0] for part in self.stream(inputs)])]

    def stream(self, inputs: Sequence[Array]) -> Generator[Sequence[Array], None, None]:
        """See the module."""
        parts, size, fails_at, fault, waits_at = _five(inputs[0])
        number = 0
        try:
            while number != parts:
                if number == waits_at:
                    while not self._go.exists():
                        time.sleep(0.002)
                part: Any = np.full(size, number, np.int64)
                if number == fails_at:
                    part = _failed(FAULTS[fault])
                yield [] if part is None else [part]
                number += 1
        finally:
            with self._ended.open("a") as file:
                file.write(f"{number}\n")

    def close(self) -> None:
        """Nothing to free."""


class ScriptedKind:
    """Files called `*.script`; see `serving.contract.ContainerKind`."""

    def artifact(self, path: Path) -> Path | None:
        """The file itself, or `model.script` in a directory."""
        file = path / "model.script" if path.is_dir() else path
        return file if file.suffix == ".script" and file.is_file() else None

    def load(self, artifact: Path, config: ModelConfig, known: ModelSpec | None = None) -> ScriptedContainer:
        """Nothing is read but where the model lies."""
        return ScriptedContainer(artifact.parent)


def make(directory: Path, settings: str = "") -> Path:
    """A model folder."""
    directory.mkdir(parents=True)
    (directory / "model.script").write_text("")
    (directory / "model.yaml").write_text(f"warmup: false\n{settings}")
    return directory


def install(directory: Path) -> dict[str, str]:
    """The environment in which a server knows the kind `scripted`."""
    return installed(directory, "scripted", "tests.support.scripted:ScriptedKind")


def installed(directory: Path, kind: str, loads: str) -> dict[str, str]:
    """The environment in which a server knows a kind that `loads`, as MODULE:CLASS, loads."""
    info = directory / f"{kind}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {kind}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[serving.containers]\n{kind} = {loads}\n")
    return {"PYTHONPATH": os.pathsep.join((str(directory), str(ROOT)))}


def _five(script: Array) -> list[int]:
    given: list[int] = script.tolist()
    return given + [-1, 1, -1, 0, -1][len(given) :]


def _failed(fault: str) -> Any:
    if fault == "failure":
        raise ModelFailure("the script failed")
    if fault == "exception":
        raise RuntimeError("the script was wrong")
    if fault == "input":
        raise InvalidInput("the script is no good")
    return None if fault == "outputs" else np.array([object()], object)
