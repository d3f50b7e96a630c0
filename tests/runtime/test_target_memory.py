"""What models take of memory, measured in a process of their own: what other tests freed would be filled first."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable
from pathlib import Path

from serving.runtime.target_memory import TargetMemory
from serving.settings import Settings
from tests.runtime.test_targets import MEBIBYTE, Worker
from tests.support import many

WITHIN_S = 60.0


def alone(work: Callable[[Path], None], folder: Path) -> None:
    """Runs it in a new process; what fails there is on its standard error."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=(folder,))
    process.start()
    try:
        process.join(WITHIN_S)
        assert process.exitcode == 0
    finally:
        process.kill()


def _thirty_in_a_budget_of_some(folder: Path) -> None:
    async def main() -> None:
        worker = Worker(folder / "store", Settings(state_dir=folder))
        for number in range(30):
            worker.disk.put(f"m{number}", number, weights=4 * MEBIBYTE)
        worker.targets.resize(40 * MEBIBYTE)
        for _ in range(2):
            for number in range(30):
                assert await worker.ask(f"m{number}") == many.answer(number)
                assert worker.targets.cache.budget.held <= 50 * MEBIBYTE
        assert any(event.what == "unloaded" for event in worker.targets.cache.events())
        assert worker.loaded < 20

    asyncio.run(main())


def test_what_does_not_fit_goes_by_the_bytes_it_takes(tmp_path: Path) -> None:
    alone(_thirty_in_a_budget_of_some, tmp_path)


def _libraries_are_no_models_own(folder: Path) -> None:
    async def main() -> None:
        memory = TargetMemory(int, lambda: None)
        before = memory.taken()
        brought = bytearray(b"x") * (64 * MEBIBYTE)
        memory.failed("onnx", before)
        assert memory.measure(none_there=False) in range(MEBIBYTE)
        kept = bytearray(b"x") * (16 * MEBIBYTE)
        taken = memory.measure(none_there=False)
        assert taken is not None
        assert abs(taken - len(kept)) < MEBIBYTE
        memory.freed(1)
        assert memory.measure(none_there=False) is None
        assert len(brought) > len(kept)

    asyncio.run(main())


def test_what_a_failed_load_leaves_is_no_models_own(tmp_path: Path) -> None:
    alone(_libraries_are_no_models_own, tmp_path)


def _what_is_kept_counts(folder: Path) -> None:
    async def main() -> None:
        given = asyncio.Event()
        memory = TargetMemory(int, given.set)
        assert memory.measure(none_there=True) == 0
        pieces = [bytearray(b"x") * 64_000 for _ in range(2_000)]
        # What came last stays, so that the heap cannot simply end earlier.
        left = sum(map(len, pieces[:-1]))
        del pieces[:-1]
        memory.freed(left)
        await asyncio.wait_for(given.wait(), WITHIN_S)
        taken = memory.measure(none_there=False)
        assert taken is not None
        assert left / 8 < taken < left / 2
        assert memory.measure(none_there=True) == 0

    asyncio.run(main())


def test_what_the_allocator_keeps_between_two_times_counts(tmp_path: Path) -> None:
    alone(_what_is_kept_counts, tmp_path)
