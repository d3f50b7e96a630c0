"""What the soak saw held against what it wants: nothing grows, nobody gets a wrong answer, losses only for kills."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from loadtests.bench.proc import Usage

SLACK = {"rss_bytes": 16_000_000, "descriptors": 8, "threads": 2}
GROWTH = {"rss_bytes": 1.10, "descriptors": 1.0, "threads": 1.0}


def grown(values: list[Usage]) -> list[str]:
    """What of one process is larger at the end of its samples than a fifth into them, beyond the slack."""
    if len(values) < 10:
        return []
    found = []
    for name, slack in SLACK.items():
        several = [getattr(value, name) for value in values]
        settled = max(several[len(several) // 5 : len(several) // 2])
        end = min(several[-len(several) // 5 :])
        if end > settled * GROWTH[name] + slack:
            found.append(f"process {values[0].pid}: {name} grew from {settled} to {end}")
    return found


def faults(seen: Counter[str], allowed: int) -> list[str]:
    """What no client should have seen; `allowed` requests may be lost to kills, or refused for them."""
    found = [f"{seen['wrong']} x wrong"] if seen["wrong"] else []
    for what, count in seen.items():
        if (what.startswith("status") or what == "connection error") and count > allowed:
            found.append(f"{count} x {what}, at most {allowed} expected")
    if not seen["right"]:
        found.append("no right answer at all")
    return found


def life(values: list[Usage]) -> str:
    """One process's memory (MB), descriptors and threads at five moments of its life, as a line of a Markdown table."""
    moments = [values[round(part * (len(values) - 1) / 4)] for part in range(5)]
    columns = (
        " ".join(f"{value.rss_bytes / 1e6:.0f}" for value in moments),
        " ".join(str(value.descriptors) for value in moments),
        " ".join(str(value.threads) for value in moments),
    )
    return f"| {values[0].pid} | {' | '.join(columns)} |"


def table(lives: Mapping[int, list[Usage]]) -> list[str]:
    """The lives that were long enough to be judged."""
    head = ["| process | memory, MB | descriptors | threads |", "|--|--|--|--|"]
    return head + [life(values) for values in lives.values() if len(values) >= 10]
