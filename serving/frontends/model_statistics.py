"""The statistics extension: what was counted of models, over all workers, as plain data for every transport.

Source: Triton's statistics extension; `serving.runtime.inference_counts` tells what each number is here.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import orjson

from serving.errors import UnknownName
from serving.runtime.inference_counts import merge


class Counting(Protocol):
    """Who knows what all workers counted."""

    async def statistics(self, name: str | None) -> bytes:
        """JSON: the rows of each worker, of all models or one."""


async def model_statistics(admin: Counting, name: str, version: str) -> dict[str, Any]:
    """`{"model_stats": [...]}`, the JSON form of `ModelStatisticsResponse`.

    Of all models where `name` is "", and of all versions where `version` is; a target is `ENDPOINT:TARGET`, and a multi-model
    endpoint all its targets that are in memory. Raises `UnknownName` where nothing of that name is in memory.
    """
    told = await admin.statistics(name or None)
    # Of hundreds of models, it takes longer than requests should wait.
    rows = await asyncio.to_thread(lambda: merge(orjson.loads(told)))
    if name and not rows:
        why = "; targets are counted while they are in memory" if ":" in name else ""
        raise UnknownName(f"Request for unknown model: '{name}' is not found{why}")
    wanted = [row for row in rows if version in ("", row["version"])]
    if version and not wanted:
        served = ", ".join(dict.fromkeys(row["version"] for row in rows))
        shown = name or "any"
        raise UnknownName(
            f"Request for unknown model: '{shown}' version {version} is not found; it serves version {served}"
        )
    return {"model_stats": wanted}
