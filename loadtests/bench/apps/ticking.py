"""A container that streams as fast as it is let: input `parts` INT64[1], output `made` INT64[1], when the part was made.

Times are nanoseconds of the monotonic clock, which all processes of a machine share. The kind is found by the entry
point that `install` writes.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from time import monotonic_ns
from typing import Final

import numpy as np

from serving.contract import Array, ModelConfig, ModelSpec, TensorSpec

SPEC: Final = ModelSpec(
    inputs=(TensorSpec("parts", "INT64", (1,)),),
    outputs=(TensorSpec("made", "INT64", (-1,)),),
    platform="ticking",
    batched=False,
    why_not_batched="it only streams",
    streams=True,
)


class TickingContainer:
    """Implements `serving.contract.StreamingContainer`."""

    spec = SPEC

    def execute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """All parts in one."""
        return [np.array([part[0][0] for part in self.stream(inputs)], np.int64)]

    def stream(self, inputs: Sequence[Array]) -> Generator[Sequence[Array], None, None]:
        """As many parts as were asked for."""
        for _ in range(int(inputs[0][0])):
            yield [np.array([monotonic_ns()])]

    def close(self) -> None:
        """Nothing to free."""


class TickingKind:
    """Files called `*.ticking`; see `serving.contract.ContainerKind`."""

    def artifact(self, path: Path) -> Path | None:
        """The file itself."""
        return path if path.suffix == ".ticking" and path.is_file() else None

    def load(self, artifact: Path, config: ModelConfig) -> TickingContainer:
        """Nothing is read."""
        return TickingContainer()


def install(folder: Path) -> Path:
    """Makes `folder` one that, on the Python path, brings the kind; gives the model to serve."""
    info = folder / "ticking-1.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ticking\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[serving.containers]\nticking = loadtests.bench.apps.ticking:TickingKind\n")
    model = folder / "stream.ticking"
    model.write_text("")
    return model
