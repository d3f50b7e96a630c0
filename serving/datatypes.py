"""The datatypes of the Open Inference Protocol and their numpy forms.

Source: Open Inference Protocol, "Tensor Data Types"; BF16 from Triton's extensions.
"""

from __future__ import annotations

from typing import Any, Final

import ml_dtypes
import numpy as np

BYTES: Final = "BYTES"

NUMPY: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    BYTES: np.dtype(object),
}
"""Datatype name to numpy dtype; a BYTES tensor is an object array of `bytes`."""

INTEGERS: Final = frozenset(name for name, dtype in NUMPY.items() if dtype.kind in "iu")
FLOATS: Final = frozenset({"FP16", "BF16", "FP32", "FP64"})


def item_bytes(datatype: str) -> int:
    """Bytes of one element; 0 for BYTES, whose elements vary."""
    return 0 if datatype == BYTES else NUMPY[datatype].itemsize
