"""The shared memory extensions, which are not built: each of their calls says what to do instead.

Source: Triton's system and CUDA shared memory extensions.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

from serving.errors import Unsupported
from serving.frontends.grpc.call import Call

METHODS: Final = tuple(
    f"{kind}SharedMemory{act}" for kind in ("System", "Cuda") for act in ("Status", "Register", "Unregister")
)


async def refuse(request: Any, call: Call) -> NoReturn:
    """Raises `Unsupported`."""
    raise Unsupported(
        "shared memory is not supported by this server; send tensors as raw_input_contents of the request, and take them "
        "from raw_output_contents of the answer"
    )
