"""Requests larger than a batch: run in pieces, one after the other, so that nobody waits behind the whole of them.

Each piece queues behind what came while the last one ran; the answer is put together from the pieces in order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from serving.codecs.base import Column, Encode
from serving.contract import Array
from serving.errors import ServingError
from serving.runtime.invocation import Invocation

if TYPE_CHECKING:
    from serving.runtime.model import Model


class Oversize:
    """One request in pieces of about the same size, `most_rows` rows at most. Stands in as the route of its pieces."""

    def __init__(self, model: Model, whole: Invocation, most_rows: int) -> None:
        self.model = model
        self.variant = whole.route.variant
        self.encode: Encode = whole.route.encode
        self._whole = whole
        self._piece_rows = math.ceil(whole.rows / math.ceil(whole.rows / most_rows))
        self._done_rows = 0
        self._outputs: list[Sequence[Array]] = []
        self._queue_s = 0.0
        self._compute_s = 0.0

    def start(self) -> None:
        """Queues the first piece. Raises what `Model.submit` raises; the pieces after it are not refused."""
        self.model.enqueue(self._next())

    def encoded(self, item: Invocation, outputs: Sequence[Array]) -> None:
        """A piece was run: queues the next, or answers."""
        whole = self._whole
        if not self._outputs:
            whole.enqueued = item.enqueued
        self._outputs.append(outputs)
        self._done_rows += item.rows
        if item.timings is not None:
            queue_s, _, compute_s = item.timings
            self._queue_s += queue_s
            self._compute_s += compute_s
        if self._done_rows < whole.rows:
            self.model.statistics.pieces += 1
            try:
                self.model.enqueue(self._next(), admitted=True)
            except ServingError as error:
                self.failed(item, error)
            return
        whole.columns = ()
        whole.reply.invocation = whole
        if item.timings is not None:
            whole.timings = (self._queue_s, whole.rows, self._compute_s)
        parts, self._outputs = self._outputs, []
        now = perf_counter()
        self.model.encode_on_thread(whole, _Joined(parts), now - self._compute_s, now)

    def count(self, item: Invocation, formed: float, ended: float, sent: float) -> None:
        """Pieces are not counted; their request is, once."""

    def failed(self, piece: Invocation, error: ServingError) -> None:
        """A piece failed, and so the request."""
        self._whole.columns = ()
        self._outputs = []
        self._whole.route.failed(self._whole, error)

    def _next(self) -> Invocation:
        whole = self._whole
        low = self._done_rows
        high = min(low + self._piece_rows, whole.rows)
        columns = tuple(_rows(column, low, high, whole.rows) for column in whole.columns)
        piece = Invocation(
            whole.head,
            whole.reply,
            self,
            high - low,
            columns,
            whole.signature,
            None,
            whole.arrived,
            whole.deadline,
            whole.priority,
        )
        whole.reply.invocation = piece
        return piece


class _Joined(Sequence[Array]):
    """The outputs of all pieces; each is joined when it is asked for, which is on the thread that encodes."""

    def __init__(self, parts: list[Sequence[Array]]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return len(self._parts[0])

    def __getitem__(self, position: int) -> Array:  # type: ignore[override]
        return np.concatenate([part[position] for part in self._parts])


def _rows(column: Column, low: int, high: int, rows: int) -> Column:
    if isinstance(column, list):
        width = len(column) // rows
        return column[low * width : high * width]
    view = memoryview(column)
    width = len(view) // rows
    return view[low * width : high * width]
