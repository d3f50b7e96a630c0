"""The whole suite for longer, as a table in Markdown: `python -m tests.frontends.http2.report --seconds 3`."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.frontends.http2.attacks import ATTACKS
from tests.frontends.http2.harm import inflict
from tests.frontends.http2.rules import RULES, break_rule, fault
from tests.frontends.http2.targets import MEBIBYTE, TRANSPORTS, Target, running


def rules(target: Target) -> None:
    """Prints the rules that are not kept."""
    broken = []
    for rule in RULES:
        symptom = fault(rule, break_rule(rule, target.port))
        if symptom is not None:
            broken.append(f"| {rule.section} | {rule.name} | {symptom} |")
    print(f"\n{target.transport}: {len(RULES) - len(broken)} of {len(RULES)} rules of RFC 9113 are kept\n")
    print("| section | rule | what came |\n|--|--|--|", *broken, sep="\n", flush=True)


def attacks(target: Target, seconds: float, only: str) -> None:
    """Prints what each attack did."""
    base = target.resident_bytes
    print(f"\n{target.transport}: attacks of {seconds:g} s, after {base / MEBIBYTE:.0f} MiB at rest\n")
    print("| attack | memory, MiB | kept, MiB | other callers' answers/s | slowest, ms | at rest after, s | faults |")
    print("|--|--|--|--|--|--|--|")
    for attack in ATTACKS:
        if only not in attack.name:
            continue
        harm = inflict(attack, target, seconds)
        rest = "never" if harm.rest_after_s is None else f"{harm.rest_after_s:.1f}"
        cells = (
            attack.name,
            f"{harm.grown_mib:.0f}",
            f"{harm.kept_mib:.0f}",
            f"{harm.calls / harm.lasted_s:.0f}",
            f"{harm.slowest_s * 1000:.0f}",
            rest,
            "; ".join(harm.faults(attack)),
        )
        print("|", " | ".join(cells), "|", flush=True)
        if not harm.alive:
            return
    print(f"\nAll in all it kept {(target.resident_bytes - base) / MEBIBYTE:.0f} MiB", flush=True)
    unexpected = target.server.unexpected()
    if unexpected:
        print(f"\n{len(unexpected)} errors were logged, the first:\n{unexpected[0]}", flush=True)


def main() -> None:
    """Runs all that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transport", choices=TRANSPORTS, action="append")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--attack", default="", help="a part of the name of those to run")
    arguments = parser.parse_args()
    for transport in arguments.transport or TRANSPORTS:
        with tempfile.TemporaryDirectory() as directory, running(transport, Path(directory)) as target:
            if not arguments.attack:
                rules(target)
            attacks(target, arguments.seconds, arguments.attack)


if __name__ == "__main__":
    main()
