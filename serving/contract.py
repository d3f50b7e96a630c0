"""The protocols that containers implement and the runtime calls: all that the two sides share."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import msgspec
import numpy as np
from msgspec import Meta

Array = np.ndarray[Any, Any]


class TensorSpec(msgspec.Struct, frozen=True):
    """One input or output of a model.

    `shape` holds -1 where a dimension varies; for a batched model the first one is the batch dimension, -1.
    `features` names the columns of a [N, k] input, so that records by name can be read; `labels` names an output's.
    `sample_rate`: the input is sound, FP32[samples] from -1 to 1 with that many a second, and may come as a WAV file.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    features: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    sample_rate: int = 0


class Conventions(msgspec.Struct, frozen=True):
    """What the clients of a SageMaker container expect on `/invocations` and `/endpoints`, where it is not our usual.

    `content_type`: what a body without Content-Type is ("" = application/json). `accept`: the media type of an answer
    where Accept leaves the choice ("" = application/json). `predictions`: JSON answers are
    `{"predictions": [{OUTPUT: value, ...}, ...]}`, one object a row with a key for each output, and JSON lines one such
    object a line. `one_line`: a CSV answer holds all rows on one line, parted by commas. `ended_lines`: where it holds a
    row a line, each is ended, the last one too, and a row that is one list is not in quotes. `missing`: empty CSV fields,
    and what a libsvm row leaves out, are NaN; other inputs refuse them. `empty_is_no_content`: an empty body is
    answered with 204. `bare`: JSON answers to questions that are not JSON, and so have no form to mirror, are bare lists.
    `unreadable_is_failure`: the model's refusal of its input is a 400 that begins `Unable to evaluate payload provided`.
    """

    content_type: str = ""
    accept: str = ""
    predictions: bool = False
    one_line: bool = False
    ended_lines: bool = False
    missing: bool = False
    empty_is_no_content: bool = False
    bare: bool = False
    unreadable_is_failure: bool = False


class ModelSpec(msgspec.Struct, frozen=True):
    """What a loaded model takes and gives.

    `batched`: the first dimension of every input and output counts rows, rows are independent, and the runtime may
    merge callers' rows into one `execute`. `why_not_batched` says in a sentence why it may not. `piece_rows`: fewer rows
    than these in a run cost much more a row, so that a request larger than a batch runs in pieces not smaller than them.
    `streams`: the container is a `StreamingContainer`.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    platform: str
    batched: bool
    why_not_batched: str = ""
    piece_rows: int = 0
    conventions: Conventions = Conventions()
    streams: bool = False


class Container(Protocol):
    """A loaded model: knows its spec and runs batches. Thread-safe up to the number of slots it was loaded with."""

    @property
    def spec(self) -> ModelSpec:
        """What goes in and what comes out."""

    def execute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """Runs one batch.

        `inputs` are C-ordered arrays in the order of `spec.inputs` (possibly read-only), with one common first
        dimension when batched; the answer is in the order of `spec.outputs`. Raises `ModelFailure`.
        """

    def close(self) -> None:
        """Frees what the model holds; nothing runs any more."""


class StreamingContainer(Container, Protocol):
    """A container that can also answer in parts; it says so with `spec.streams`."""

    def stream(self, inputs: Sequence[Array]) -> Generator[Sequence[Array], None, None]:
        """One caller's answer, part by part.

        `inputs` are those of one request, as for `execute`; each part holds every output, in the order of
        `spec.outputs`. `execute` gives all of it at once. The generator runs in turns on slot threads (as many at once
        as there are slots, beside as many runs of `execute`), never in two at once, and stands still while its caller
        does not read. It is closed where it stands when its caller has left. Raises `ServingError`s.
        """


class ContainerKind(Protocol):
    """How a kind of model is recognised and loaded: what the entry-point group `serving.containers` names."""

    def artifact(self, path: Path) -> Path | None:
        """The file that this kind would load: `path` itself, or one in the directory `path`; None when there is none.

        Raises `ArtifactError` where it cannot be told which.
        """

    def load(self, artifact: Path, config: ModelConfig, known: ModelSpec | None = None) -> Container:
        """Loads and proves a model. Raises `ArtifactError`, `ConfigurationError` or `MissingExtra`.

        `known` is the spec that an earlier load of the same file with the same settings proved: a kind may take it as
        given where the file's inputs and outputs are those in it, and a spec that is not equal to it is stored anew.
        """


Positive = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[int, Meta(ge=0)]
Few = Annotated[int, Meta(ge=1, le=1024)]
"""Of what has a thread or a queue each."""

Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class BatchingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model's requests are merged.

    `max_batch_size` (rows; None = 64 where the model can be batched, 1 = off; a larger number for a model that cannot
    be batched is an error), `preferred_batch_sizes` (rows), `max_queue_delay_us` (0: start as soon as a slot is free),
    `max_queue_wait_s` (a request whose predicted wait is longer is refused at once), `default_timeout_s`,
    `priority_levels` (1 is the highest; 0 in a request means the default), `pad_batch_to` (rows; a batch is padded up
    to the next of these sizes), `inline_below_us` (batches predicted to run shorter run on the event loop). Without
    `merge_requests` each request is a batch by itself, of up to `max_batch_size` rows.
    """

    max_batch_size: Positive | None = None
    preferred_batch_sizes: tuple[Positive, ...] = ()
    max_queue_delay_us: NonNegative = 0
    max_queue_wait_s: Seconds = 1.0
    default_timeout_s: Seconds = 60.0
    priority_levels: Few = 1
    default_priority: NonNegative = 0
    pad_batch_to: tuple[Positive, ...] = ()
    inline_below_us: NonNegative = 100
    merge_requests: bool = True


class StreamingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model's answers in parts are bounded.

    `timeout_s`: a whole stream, as long as SageMaker allows where nothing is said (its first part has the time of any
    answer); `max_streams`: open at once, others are refused.
    """

    timeout_s: Seconds = 480.0
    max_streams: Positive = 256


class RecurrentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a graph that keeps state runs over a sequence: `chunk` elements of `input` a step, state carried between.

    `context`: elements of the step before that are put in front of each chunk. `state`: the graph's inputs that carry
    it (zeros at first), each with the output that renews it. `constants`: what other inputs are in each step.
    `sample_rate`: the sequence is sound, with that many elements a second.
    """

    input: str
    chunk: Positive
    context: NonNegative = 0
    state: Mapping[str, str] = {}
    constants: Mapping[str, float] = {}
    sample_rate: NonNegative = 0


class OnnxConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How ONNX Runtime runs a model: threads inside one execution, providers tried by making a session, session options.

    `recurrent`: the graph is run step by step over a sequence, and its answer can be streamed.
    """

    intra_op_threads: Few = 1
    execution_mode: str = "sequential"
    graph_optimization_level: str = "all"
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    session_options: Mapping[str, str] = {}
    recurrent: RecurrentConfig | None = None


class TreesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a tree ensemble runs: `engine` "onnx" (quick for few rows), "native" (the library that grew the trees, quick for
    many) or "auto" (either, by the number of rows of each batch).
    """

    engine: str = "auto"


class SklearnConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which method of a scikit-learn estimator answers.

    `engine`: `sklearn` calls the estimator itself; `onnx` converts it at load, which is an error where the conversion
    does not answer the same.
    """

    method: Literal[
        "predict", "predict_proba", "predict_log_proba", "decision_function", "score_samples", "transform"
    ] = "predict"
    engine: Literal["sklearn", "onnx"] = "sklearn"


class Trust(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file may do here, in the word of the server's operator alone: no model's own settings can say it.

    `allow_pickle`: pickles are loaded, which runs their code. `types`: further types that a skops file may hold.
    """

    allow_pickle: bool = False
    types: tuple[str, ...] = ()


class TensorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the operator says of one input or output: names of its columns (`features`) or of its values (`labels`).

    `datatype` and `shape` (with the batch dimension; None: not said) must fit the model; a dimension that varies in the
    model may be fixed here.
    """

    name: str
    datatype: str = ""
    shape: tuple[int, ...] | None = None
    features: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


class VersionPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which of a model's version directories are served: the `latest` so many, those that are `specific`, or `all`.

    Only one of the three may be said; none of them means the latest one.
    """

    latest: Positive | None = None
    specific: tuple[Positive, ...] = ()
    all: bool = False

    def __post_init__(self) -> None:
        if (self.latest is not None) + bool(self.specific) + self.all > 1:
            raise ValueError("version_policy says more than one of latest, specific and all; say one")


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything the operator can say of one model, from `model.yaml`, Triton's `config.pbtxt`, or nothing.

    `slots` is the number of parallel executions (Triton's instance count). `environment` holds the variables that
    SageMaker's containers read (`SAGEMAKER_...`); a container honours those that it knows. `trust` is set by the server
    when it loads the model, whatever the settings say. `response_cache`: answers are kept, and the same input is
    answered from there, within the server's `response_cache_bytes`.
    """

    name: str = ""
    container: str = ""
    version: str = "1"
    version_policy: VersionPolicy = VersionPolicy()
    inputs: tuple[TensorConfig, ...] = ()
    outputs: tuple[TensorConfig, ...] = ()
    batching: BatchingConfig = BatchingConfig()
    streaming: StreamingConfig = StreamingConfig()
    onnx: OnnxConfig = OnnxConfig()
    trees: TreesConfig = TreesConfig()
    sklearn: SklearnConfig = SklearnConfig()
    slots: Few = 1
    warmup: bool = True
    response_cache: bool = False
    environment: Mapping[str, str] = {}
    trust: Trust = Trust()
