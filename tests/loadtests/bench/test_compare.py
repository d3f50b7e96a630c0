"""The order of interleaved runs."""

from loadtests.bench.compare import cpu_ratio, interleave, rate_ratio
from loadtests.bench.load import Load


def test_there_and_back_again() -> None:
    order: list[str] = []

    def run(name: str) -> Load:
        order.append(name)
        return Load(len(order), 1.0, 0, 0, 0)

    loads = interleave({name: lambda name=name: run(name) for name in "ABC"}, rounds=2)  # type: ignore[misc]
    assert "".join(order) == "ABCCBAABCCBA"
    assert [load.requests for load in loads["A"]] == [1, 6, 7, 12]


def test_ratios_of_rate_and_of_cpu() -> None:
    fast = [Load(200, 1.0, 0, 0, 0, cpu_s=0.4), Load(220, 1.0, 0, 0, 0, cpu_s=0.44)]
    slow = [Load(100, 1.0, 0, 0, 0, cpu_s=0.4), Load(110, 1.0, 0, 0, 0, cpu_s=0.44)]
    assert round(rate_ratio(fast, slow).value, 6) == 2
    assert round(cpu_ratio(fast, slow).value, 6) == 0.5
