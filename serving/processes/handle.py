"""A running worker as the supervisor sees it."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any, NamedTuple

from serving.processes.channel import Began, Channel, Collected
from serving.telemetry.accumulators import Sample


class Outcome(NamedTuple):
    """What came of a load: "" or why it failed; `ended`: the worker did, and `suspect`: while it loaded this."""

    why: str = ""
    ended: bool = False
    suspect: bool = False


class WorkerHandle:
    """A worker: its process, what it was asked, what it loads, and which snapshot it serves."""

    def __init__(self, number: int, process: asyncio.subprocess.Process, channel: Channel, lifeline: int) -> None:
        self.number = number
        self.process = process
        self.channel = channel
        self.lifeline = lifeline
        self.version = -1
        self.lacking = 0
        """How many times in a row it could not load all that it should serve."""
        self.started = monotonic()
        self.leaving = False
        """It was told to end, or has ended."""
        self.calls: dict[int, asyncio.Future[Collected]] = {}
        self.loads: dict[int, asyncio.Future[Outcome]] = {}
        """What it was asked to prepare, by call."""
        self.begun: dict[int, Began] = {}
        """What it loads at this moment, by load."""
        self.samples: list[Sample] = []
        self.counts: dict[tuple[str, str], dict[str, Any]] = {}
        """What it last said of the requests to each model and version, but for targets."""

    def buried(self) -> None:
        """It has ended: whoever waits for it is told."""
        self.leaving = True
        for collecting in self.calls.values():
            collecting.cancel()
        loading = {began.call for began in self.begun.values()}
        for call, load in self.loads.items():
            if not load.done():
                load.set_result(Outcome(ended=True, suspect=call in loading))
        self.loads.clear()
        self.begun.clear()
