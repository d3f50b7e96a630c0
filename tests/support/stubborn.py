"""A container kind whose loads do what files beside the model say, installed for one server by an entry point of its own.

A model is a file `model.stubborn` with a number, which it adds to its rows. While the file `hang` lies beside the place
that the number's line names (`NUMBER PLACE`), loading does not end; where `kill` does, loading ends its process; where
`fail` does, it fails.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from serving.contract import Array, ModelConfig, ModelSpec, TensorSpec
from serving.errors import ArtifactError
from tests.support import scripted

KIND = "stubborn"


class StubbornContainer:
    """Implements `serving.contract.Container`: FP32[N,4] to the same, more by a number."""

    def __init__(self, number: float) -> None:
        self._number = number
        self.spec = ModelSpec(
            inputs=(TensorSpec("x", "FP32", (-1, 4)),),
            outputs=(TensorSpec("y", "FP32", (-1, 4)),),
            platform=KIND,
            batched=True,
        )

    def execute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """Adds."""
        return [inputs[0] + self._number]

    def close(self) -> None:
        """Nothing to free."""


class StubbornKind:
    """Files called `*.stubborn`; see `serving.contract.ContainerKind`."""

    def artifact(self, path: Path) -> Path | None:
        """The file itself, or `model.stubborn` in a directory."""
        file = path / "model.stubborn" if path.is_dir() else path
        return file if file.suffix == ".stubborn" and file.is_file() else None

    def load(self, artifact: Path, config: ModelConfig, known: ModelSpec | None = None) -> StubbornContainer:
        """See the module."""
        number, _, place = artifact.read_text().strip().partition(" ")
        with (Path(place) / "loads").open("a") as loads:
            loads.write(f"{os.getpid()}\n")
        if (Path(place) / "kill").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        while (Path(place) / "hang").exists():
            time.sleep(0.01)
        if (Path(place) / "fail").exists():
            raise ArtifactError("it does not want to")
        return StubbornContainer(float(number))


class Stubborn:
    """A model in `folder`, and what its next loads do."""

    def __init__(self, folder: Path, number: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.file = folder / "model.stubborn"
        self.file.write_text(f"{number} {folder}\n")

    def will(self, what: str) -> None:
        """From now on loads `hang`, `kill` or `fail`."""
        (self._folder / what).touch()

    def will_not(self, what: str) -> None:
        """No longer."""
        (self._folder / what).unlink(missing_ok=True)

    @property
    def loads(self) -> int:
        """How often it was begun to be loaded."""
        file = self._folder / "loads"
        return len(file.read_text().splitlines()) if file.exists() else 0


def install(directory: Path) -> dict[str, str]:
    """The environment in which a server knows the kind."""
    return scripted.installed(directory, KIND, f"{__name__}:{StubbornKind.__name__}")
