"""The command line and the wiring of cases."""

import pytest

from loadtests.bench.__main__ import arguments, chosen, runs
from loadtests.bench.cases import CASES


def test_every_case_can_be_run() -> None:
    assert list(runs()) == list(CASES)


def test_choosing_cases() -> None:
    assert chosen([], peers=False) == [name for name in CASES if name != "peers"]
    assert chosen(["encoder/c"], peers=True) == ["encoder/c16", "encoder/c64"]
    with pytest.raises(SystemExit, match="no case 'encodr'; there are: fraud-mlp/c1, "):
        chosen(["encodr"], peers=True)


def test_flags() -> None:
    options = arguments(["--only", "mixed", "workers", "--quick", "--no-peers", "--repeat", "4"])
    assert (options.only, options.quick, options.peers, options.repeat) == (["mixed", "workers"], True, False, 4)
