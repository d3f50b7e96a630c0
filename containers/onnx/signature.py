"""What a session takes and gives, as tensor specs, with what the operator said of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from serving.contract import ModelConfig, TensorConfig, TensorSpec
from serving.errors import ArtifactError, ConfigurationError

DATATYPES: Final = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
"""ONNX Runtime's type to the protocol's datatype; a tensor of any other type is refused."""


class Signature(msgspec.Struct, frozen=True):
    """Inputs and outputs as the graph declares them, and as they are served.

    `symbols` holds, for each input, the name of each dimension that varies ("" where it has none, None where it is
    fixed): dimensions of one name are equal.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    symbols: tuple[tuple[str | None, ...], ...]


def read(session: Any, artifact: Path, config: ModelConfig) -> Signature:
    """The signature of a session. Raises `ArtifactError` for types that the protocol does not have."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if not inputs:
        raise ArtifactError(f"{artifact}: the model has no input; there is nothing to ask it")
    return Signature(
        inputs=declared("input", [_spec("input", node, artifact) for node in inputs], config.inputs, artifact),
        outputs=declared("output", [_spec("output", node, artifact) for node in outputs], config.outputs, artifact),
        symbols=tuple(tuple(None if isinstance(size, int) else size or "" for size in node.shape) for node in inputs),
    )


def _spec(role: str, node: Any, artifact: Path) -> TensorSpec:
    datatype = DATATYPES.get(node.type)
    if datatype is None:
        hint = ""
        if node.type.startswith(("seq(", "map(")):
            hint = "; a classifier from scikit-learn is converted without it by options={'zipmap': False}"
        raise ArtifactError(
            f"{artifact}: {role} '{node.name}' is {node.type}; only tensors of "
            f"{', '.join(DATATYPES.values())} can be served{hint}"
        )
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    return TensorSpec(name=node.name, datatype=datatype, shape=shape)


def declared(
    role: str, specs: Sequence[TensorSpec], said: Sequence[TensorConfig], artifact: Path
) -> tuple[TensorSpec, ...]:
    """`specs` with what the operator said of them; what does not fit the graph is an error."""
    by_name = {spec.name: spec for spec in specs}
    seen: set[str] = set()
    for one in said:
        spec = by_name.get(one.name)
        where = f"{artifact}: the configuration's {role} '{one.name}'"
        if spec is None:
            raise ConfigurationError(f"{where} is not in the model, which has {_names(by_name)}")
        if one.name in seen:
            raise ConfigurationError(f"{where} is there twice")
        seen.add(one.name)
        if one.datatype and one.datatype != spec.datatype:
            raise ConfigurationError(f"{where} is {one.datatype}; the model's is {spec.datatype}")
        by_name[one.name] = msgspec.structs.replace(
            spec, shape=_narrowed(spec.shape, one.shape, where), features=one.features, labels=one.labels
        )
        columns = by_name[one.name].shape[-1] if spec.shape else -1
        for words, count in (("features", len(one.features)), ("labels", len(one.labels))):
            if count and columns not in (-1, count):
                raise ConfigurationError(f"{where} has {count} {words}; the model has {columns} columns")
    return tuple(by_name[spec.name] for spec in specs)


def _narrowed(shape: tuple[int, ...], said: tuple[int, ...] | None, where: str) -> tuple[int, ...]:
    """The graph's shape with varying dimensions fixed as said; a shape that the graph leaves open is taken as said."""
    if said is None or not shape:
        return shape if said is None else said
    # As in Triton, -1 in the configuration is no match for a dimension that the model fixes.
    if len(said) != len(shape) or any(mine not in (-1, its) for mine, its in zip(shape, said, strict=True)):
        raise ConfigurationError(f"{where} has shape {list(said)}; the model's is {list(shape)}")
    return said


def _names(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in names)
