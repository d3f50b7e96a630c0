"""What the run found: the pass sets, where they differ, and what was left out; as Markdown and JSON."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

DIRECT: Final = "onnxruntime"


@dataclass
class Report:
    """`wrong`: by case and then by who was asked, what is wrong with the answer ("" = right). `excluded`: reason by case."""

    versions: Mapping[str, str]
    wrong: dict[str, dict[str, str]] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)

    @property
    def asked(self) -> list[str]:
        """Who was asked, onnxruntime first."""
        return list(dict.fromkeys(who for answers in self.wrong.values() for who in answers))

    def passed(self, who: str) -> set[str]:
        """The cases that this one answered right."""
        return {name for name, answers in self.wrong.items() if not answers.get(who, "not asked")}

    @property
    def differences(self) -> dict[str, dict[str, str]]:
        """Cases that a server answers right and onnxruntime does not, or the other way, with what either says."""
        return {
            name: answers for name, answers in self.wrong.items() if len({not said for said in answers.values()}) > 1
        }

    def markdown(self) -> str:
        """The report as a Markdown section."""
        total = len(self.wrong) + len(self.excluded)
        lines = ["## ONNX node cases", "", *(f"- {name}: {version}" for name, version in self.versions.items())]
        lines += [f"- {total} cases, {len(self.excluded)} excluded, {len(self.wrong)} asked", ""]
        lines += ["| asked | right | wrong |", "|--|--|--|"]
        for who in self.asked:
            right = len(self.passed(who))
            lines.append(f"| {who} | {right} | {len(self.wrong) - right} |")
        lines += ["", f"Pass sets differ in {len(self.differences)} cases."]
        for name, answers in sorted(self.differences.items()):
            said = (f"{who}: {wrong or 'right'}" for who, wrong in answers.items())
            lines.append(f"- {name}: {'; '.join(said)}")
        if self.excluded:
            lines += ["", "| excluded because | cases |", "|--|--|"]
            lines += [f"| {reason.replace('|', '/')} | {len(names)} |" for reason, names in self.reasons()]
        return "\n".join(lines) + "\n"

    def reasons(self) -> list[tuple[str, list[str]]]:
        """The excluded cases by reason, the most frequent first."""
        found: dict[str, list[str]] = defaultdict(list)
        for name, reason in self.excluded.items():
            found[reason].append(name)
        return sorted(found.items(), key=lambda each: (-len(each[1]), each[0]))

    def json(self) -> str:
        """The report for programs."""
        passed = {who: len(self.passed(who)) for who in self.asked}
        return (
            json.dumps({**dataclasses.asdict(self), "passed": passed, "differences": self.differences}, indent=2) + "\n"
        )
