"""Loads: a first one proves and measures, a later one takes its word, and nothing of a closed model is left."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest

from loadtests.multi_model import churn
from serving.contract import Array, BatchingConfig, Container, ModelConfig, ModelSpec, TensorSpec, TreesConfig
from serving.errors import ArtifactError, ConfigurationError, ModelFailure
from serving.objects.kinds import kinds
from serving.runtime import loading
from serving.runtime.loading import load
from serving.settings import Settings

SETTINGS = Settings()
SPEC = ModelSpec(
    inputs=(TensorSpec("x", "FP32", (-1, 2)),),
    outputs=(TensorSpec("y", "FP32", (-1, 2)),),
    platform="counting",
    batched=True,
)


class CountingContainer:
    """A model that echoes and counts its runs; its file says what is wrong with it."""

    def __init__(self, spec: ModelSpec, fault: str) -> None:
        self.spec = spec
        self.runs: list[int] = []
        self.closed = False
        self._fault = fault

    def execute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        self.runs.append(len(inputs[0]))
        if self._fault == "refuses zeros":
            raise ModelFailure("zeros are not for me")
        if self._fault == "breaks":
            raise RuntimeError("broken")
        return inputs

    def close(self) -> None:
        self.closed = True


class CountingKind:
    """Remembers which specs it was given, and what it loaded."""

    def __init__(self) -> None:
        self.known: list[ModelSpec | None] = []
        self.loaded: list[CountingContainer] = []
        self.spec = SPEC

    def artifact(self, path: Path) -> Path | None:
        return path

    def load(self, artifact: Path, config: ModelConfig, known: ModelSpec | None = None) -> Container:
        self.known.append(known)
        text = artifact.read_text()
        if text == "is broken":
            raise ArtifactError("it is broken")
        self.loaded.append(CountingContainer(self.spec, text))
        return self.loaded[-1]


@pytest.fixture
def counting() -> Iterator[CountingKind]:
    kind = CountingKind()
    kinds()["counting"] = kind
    loading._ran.discard("counting")
    yield kind
    del kinds()["counting"]


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = tmp_path / "model" / "model.counting"
    path.parent.mkdir()
    path.write_text("")
    probe = tmp_path / "probe"
    probe.write_text("")
    while probe.stat().st_ctime_ns <= path.stat().st_ctime_ns:
        probe.write_text("")
    return path


def test_a_later_load_takes_the_word_of_the_first(counting: CountingKind, artifact: Path) -> None:
    first, costs = load("counting", artifact, ModelConfig(), SETTINGS)
    again, same = load("counting", artifact, ModelConfig(name="again"), SETTINGS)
    assert counting.known == [None, SPEC]
    assert set(counting.loaded[0].runs) == {1, 2, 4, 8, 16, 32, 64}
    assert counting.loaded[1].runs == []
    for rows in (1, 3, 64, 1000):
        assert same.predict(rows) == costs.predict(rows) > 0
    assert again.spec == first.spec == SPEC


def test_the_first_load_of_a_kind_in_a_process_runs_once(counting: CountingKind, artifact: Path) -> None:
    load("counting", artifact, ModelConfig(), SETTINGS)
    loading._ran.discard("counting")
    load("counting", artifact, ModelConfig(), SETTINGS)
    load("counting", artifact, ModelConfig(), SETTINGS)
    assert [set(container.runs) for container in counting.loaded[1:]] == [{1}, set()]


def test_a_file_that_changed_is_proved_and_measured_anew(counting: CountingKind, artifact: Path) -> None:
    load("counting", artifact, ModelConfig(), SETTINGS)
    artifact.with_name("new").write_text("")
    artifact.with_name("new").rename(artifact)
    load("counting", artifact, ModelConfig(), SETTINGS)
    assert counting.known == [None, None]
    assert counting.loaded[1].runs


def test_what_a_kind_proves_against_what_is_known_is_what_counts(counting: CountingKind, artifact: Path) -> None:
    load("counting", artifact, ModelConfig(), SETTINGS)
    counting.spec = msgspec.structs.replace(SPEC, batched=False, why_not_batched="now I know better")
    for _ in range(2):
        container, _ = load("counting", artifact, ModelConfig(), SETTINGS)
        assert container.spec == counting.spec
    assert counting.known == [None, SPEC, counting.spec]
    assert set(counting.loaded[1].runs) == {1}
    assert counting.loaded[2].runs == []


def test_without_warm_up_nothing_runs_and_all_is_remembered(counting: CountingKind, artifact: Path) -> None:
    for _ in range(2):
        _, costs = load("counting", artifact, ModelConfig(warmup=False), SETTINGS)
        assert costs.predict(1) == 0
    assert counting.known == [None, SPEC]
    assert [container.runs for container in counting.loaded] == [[], []]


def test_a_model_that_does_not_run_zeros_is_remembered_too(counting: CountingKind, artifact: Path) -> None:
    artifact.write_text("refuses zeros")
    for _ in range(2):
        _, costs = load("counting", artifact, ModelConfig(), SETTINGS)
        assert costs.predict(1) == 0
    assert counting.known[0] is None


def test_what_fails_is_closed_and_not_remembered(counting: CountingKind, artifact: Path) -> None:
    artifact.write_text("breaks")
    with pytest.raises(RuntimeError, match="broken"):
        load("counting", artifact, ModelConfig(), SETTINGS)
    assert counting.loaded[0].closed
    with pytest.raises(ConfigurationError, match="over its max_batch_size of 2"):
        load(
            "counting",
            artifact,
            ModelConfig(batching=BatchingConfig(max_batch_size=2, preferred_batch_sizes=(4,))),
            SETTINGS,
        )
    assert counting.loaded[1].closed
    artifact.write_text("is broken")
    with pytest.raises(ArtifactError):
        load("counting", artifact, ModelConfig(), SETTINGS)
    assert [path.name for path in artifact.parent.iterdir()] == [artifact.name]


def test_a_file_that_changes_while_it_is_loaded_is_not_remembered_as_it_became(
    counting: CountingKind, artifact: Path
) -> None:
    class Changing(CountingKind):
        def load(self, artifact: Path, config: ModelConfig, known: ModelSpec | None = None) -> Container:
            loaded = super().load(artifact, config, known)
            if len(self.known) == 1:
                artifact.with_name("new").write_text("")
                artifact.with_name("new").rename(artifact)
            return loaded

    kind = Changing()
    kinds()["counting"] = kind
    for _ in range(3):
        load("counting", artifact, ModelConfig(), SETTINGS)
    assert kind.known == [None, None, SPEC]


@pytest.fixture(scope="module", params=churn.KINDS)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Path]]:
    """A kind, and three models of it."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, [churn.make(request.param, folder / str(number), seed=number) for number in range(3)]


def test_every_kind_answers_the_same_by_what_is_remembered(models: tuple[str, list[Path]]) -> None:
    kind, (artifact, *_) = models
    first, costs = load(kind, artifact, ModelConfig(), SETTINGS)
    (profile,) = artifact.parent.glob(".*.profile")
    written = profile.stat().st_ctime_ns
    second, same = load(kind, artifact, ModelConfig(), SETTINGS)
    assert profile.stat().st_ctime_ns == written
    assert second.spec == first.spec
    assert same.predict(8) == costs.predict(8) > 0
    x = np.random.default_rng(1).standard_normal((3, churn.FEATURES), np.float32)
    for one, other in zip(first.execute([x]), second.execute([x]), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("engine", ["auto", "native"])
def test_nothing_of_a_closed_model_is_left(models: tuple[str, list[Path]], engine: str) -> None:
    kind, artifacts = models
    if engine == "native" and kind not in ("xgboost", "lightgbm"):
        pytest.skip("it has one engine")
    config = ModelConfig(trees=TreesConfig(engine=engine))
    container, _ = load(kind, artifacts[0], config, SETTINGS)
    held = [weakref.ref(one) for one in _heavy(container)]
    assert held
    container.close()
    assert [ref() for ref in held if ref() is not None] == []
    count = 300 if engine == "auto" else 40  # the documents are read anew for the libraries, which takes its time
    assert churn.grown(churn.cycles(kind, artifacts, count, SETTINGS, config, held=4)) == []


def _heavy(container: Container) -> list[object]:
    """The libraries' objects that a container holds: what takes the memory."""
    found: list[object] = []
    seen = {id(container)}
    queue: list[object] = [container]
    while queue:
        one = queue.pop()
        if type(one).__name__ in ("InferenceSession", "Booster", "MLPClassifier"):
            found.append(one)
        for other in gc.get_referents(one):
            # Modules and classes lead everywhere.
            leads_away = isinstance(other, type | ModuleType) or (isinstance(other, dict) and "__name__" in other)
            if id(other) not in seen and not leads_away:
                seen.add(id(other))
                queue.append(other)
    return found
