"""Makes an ONNX Runtime session the way the operator asked for it, or says what cannot be had."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np

from serving.contract import OnnxConfig
from serving.errors import ArtifactError, ConfigurationError, MissingExtra

CPU: Final = "CPUExecutionProvider"

EXECUTION_MODES: Final = {"sequential": "ORT_SEQUENTIAL", "parallel": "ORT_PARALLEL"}

OPTIMIZATION_LEVELS: Final = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}

SESSION_OPTIONS: Final = frozenset(
    {
        "mlas.disable_kleidiai",
        "mlas.enable_gemm_fastmath_arm64_bfloat16",
        "mlas.qnbit.force_fp32",
        "mlas.use_lut_gemm",
        "optimization.constant_folding_max_output_size_in_bytes",
        "optimization.disable_specified_optimizers",
        "optimization.enable_cast_chain_elimination",
        "optimization.enable_gelu_approximation",
        "session.allow_released_opsets_only",
        "session.disable_aot_function_inlining",
        "session.disable_cpu_ep_fallback",
        "session.disable_double_qdq_remover",
        "session.disable_prepacking",
        "session.disable_qdq_constant_folding",
        "session.disable_quant_qdq",
        "session.dynamic_block_base",
        "session.enable_dq_matmulnbits_fusion",
        "session.enable_quant_qdq_cleanup",
        "session.force_spinning_stop",
        "session.graph_optimizations_loop_level",
        "session.inter_op.allow_spinning",
        "session.intra_op.allow_spinning",
        "session.qdq_matmulnbits_accuracy_level",
        "session.qdq_matmulnbits_block_size",
        "session.qdqisint8allowed",
        "session.strict_shape_type_inference",
        "session.use_device_allocator_for_initializers",
        "session.use_env_allocators",
        "session.x64quantprecision",
    }
)
"""The configuration entries that may be set.

ONNX Runtime takes any text and ignores what it does not know, and among those that it knows some name libraries and
files to read or write (profiles, optimised models, partitions): neither may come out of a model's settings.
"""

_OF_THE_THREAD: Final = "session.set_denormal_as_zero"
"""ONNX Runtime sets it for the thread that makes the session, where it stays, and for the threads that this one starts."""

_IDENTITY: Final = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201695a0f0a0178120a"
    "0a08080112040a020801620f0a0179120a0a08080112040a02080142040a00100d"
)
"""An ONNX model of one node: y = Identity(x), FP32[1]."""

_ZERO: Final = np.zeros(1, np.float32)

_arena_lock = Lock()

_FATAL = 4
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_SOURCE = re.compile(r"(?:/[\w.+-]+)*/([\w.+-]+\.(?:cc|h|cpp|cu|cuh)):(\d+)")
_MOST = 600


OLDEST: Final = (1, 24, 4)
"""Versions before read weights at any path, and any memory address, that a hostile model names."""


def runtime() -> Any:
    """The onnxruntime module. Raises `MissingExtra`, also where it is too old to be safe."""
    # On import it makes a database in the home directory and would report to its maker (seen in 1.31).
    if "onnxruntime" not in sys.modules:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        ort = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtra(
            f"ONNX models need onnxruntime, which cannot be imported ({error}): pip install 'serving[onnx]'"
        ) from error
    if too_old(ort.__version__):
        oldest = ".".join(map(str, OLDEST))
        raise MissingExtra(
            f"onnxruntime {ort.__version__} does not keep a model's external data inside its directory; {oldest} or newer "
            f"is needed: pip install 'onnxruntime>={oldest}'"
        )
    return ort


@cache
def too_old(version: str) -> bool:
    """Whether that version of ONNX Runtime cannot be trusted with a model of unknown origin."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3]) < OLDEST


def plain(error: BaseException, directory: Path | None = None) -> str:
    """What ONNX Runtime says, on one line: without its prefix, its source paths and the model's directory."""
    text = _PREFIX.sub("", str(error))
    if directory is not None:
        text = text.replace(f"{directory}/", "").replace(str(directory), "the model's directory")
    text = " ".join(_SOURCE.sub(r"\1:\2", text).split())
    return text if len(text) <= _MOST else f"{text[:_MOST]} ..."


def open_session(artifact: Path, config: OnnxConfig) -> Any:
    """An `InferenceSession` for the file with every one of the execution providers at work.

    External data is read by ONNX Runtime, which refuses paths and links that leave the model's directory.
    Raises `ArtifactError`, `ConfigurationError` and `MissingExtra`.
    """
    ort = runtime()
    options = _options(ort, config)
    if not config.providers:
        raise ConfigurationError(f"onnx.providers is empty; name at least one, for example {CPU}")
    available = ort.get_available_providers()
    for provider in config.providers:
        if provider not in available:
            raise ConfigurationError(
                f"onnx.providers names {provider}, which this onnxruntime {ort.__version__} was not built with; "
                f"it has {', '.join(available)}"
            )
    artifact = artifact.absolute()
    try:
        session = _session(ort, artifact, options, config.providers)
    except Exception as error:
        raise _blamed(ort, artifact, options, config.providers, error) from error
    # The list of available providers tells what was compiled in, not what works here.
    for provider in config.providers:
        if provider not in session.get_providers():
            raise ConfigurationError(
                f"{artifact}: onnx.providers names {provider}, which did not start on this machine; the session came "
                f"up with {', '.join(session.get_providers())} alone"
            )
    # Otherwise a provider that fails in service is exchanged for the CPU without a word.
    session.disable_fallback()
    return session


def share_arena(ort: Any, options: Any) -> None:
    """Sessions with these options take what they compute with from one arena: each alone would keep what its largest run
    took, which for a thousand small models is more than their weights.
    """
    with _arena_lock:
        _arena(ort)
    options.add_session_config_entry("session.use_env_allocators", "1")


@cache
def _arena(ort: Any) -> None:
    place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(place, None)


def shrink_arena() -> None:
    """Frees what no run needs now: a session's last run may have taken hundreds of megabytes. Takes microseconds else."""
    session, options = _shrinker()
    session.run(None, {"x": _ZERO}, options)


@cache
def _shrinker() -> tuple[Any, Any]:
    """A session, and the options of a run that shrinks the arena as it ends."""
    ort = runtime()
    session_options = ort.SessionOptions()
    session_options.intra_op_num_threads = session_options.inter_op_num_threads = 1
    session_options.log_severity_level = _FATAL
    share_arena(ort, session_options)
    options = ort.RunOptions()
    options.log_severity_level = _FATAL
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return ort.InferenceSession(_IDENTITY, session_options, providers=[CPU]), options


def _session(ort: Any, artifact: Path, options: Any, providers: Sequence[str]) -> Any:
    return ort.InferenceSession(str(artifact), options, providers=list(providers), enable_fallback=0)


def _blamed(ort: Any, artifact: Path, options: Any, providers: Sequence[str], error: Exception) -> Exception:
    """The fault behind a session that could not be made: the first provider that fails by itself, or else the model."""
    version, said = ort.__version__, plain(error, artifact.parent)
    if any(provider != CPU for provider in providers):
        try:
            _session(ort, artifact, options, [CPU])
        except Exception:
            return _unloadable(artifact, version, said)
        for provider in providers:
            try:
                _session(ort, artifact, options, [provider])
            except Exception as fault:
                said = plain(fault, artifact.parent)
                return ConfigurationError(
                    f"{artifact}: no session could be made with onnx.providers {provider}: {said}"
                )
        return ConfigurationError(
            f"{artifact}: no session could be made with onnx.providers {', '.join(providers)} together: {said}"
        )
    return _unloadable(artifact, version, said)


def _unloadable(artifact: Path, version: str, said: str) -> ArtifactError:
    return ArtifactError(f"{artifact} cannot be loaded by ONNX Runtime {version}: {said}")


def _options(ort: Any, config: OnnxConfig) -> Any:
    if config.execution_mode not in EXECUTION_MODES:
        raise ConfigurationError(f"onnx.execution_mode is '{config.execution_mode}'; {_one_of(EXECUTION_MODES)}")
    if config.graph_optimization_level not in OPTIMIZATION_LEVELS:
        raise ConfigurationError(
            f"onnx.graph_optimization_level is '{config.graph_optimization_level}'; {_one_of(OPTIMIZATION_LEVELS)}"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = config.intra_op_threads
    options.inter_op_num_threads = 1
    options.execution_mode = getattr(ort.ExecutionMode, EXECUTION_MODES[config.execution_mode])
    options.graph_optimization_level = getattr(
        ort.GraphOptimizationLevel, OPTIMIZATION_LEVELS[config.graph_optimization_level]
    )
    # Whatever it has to say comes as an exception as well; its log goes to stderr past ours.
    options.log_severity_level = _FATAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    share_arena(ort, options)
    for key, value in config.session_options.items():
        if key == _OF_THE_THREAD:
            raise ConfigurationError(
                f"onnx.session_options names '{key}', which may not be set there: it would change the answers of other "
                "models of the server as well; leave it out"
            )
        if key not in SESSION_OPTIONS:
            raise ConfigurationError(
                f"onnx.session_options names '{key}', which may not be set there; {_one_of(SESSION_OPTIONS)}"
            )
        options.add_session_config_entry(key, value)
    return options


def _one_of(names: Any) -> str:
    return f"one of {', '.join(sorted(names))} was expected"
