"""What the doctor found, in words for the operator and in words for strangers, without I/O.

A finding's sentence has places for facts.  A stranger sees numbers and what is marked
``Shown``; every other fact is replaced by a word with a number, the same for the same
fact: so a host name, an address, a path or a secret gets into the text for strangers only
if somebody marked it, and forgetting to mark hides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Weight = Literal["ok", "warn", "bad"]
MARKS = {"ok": "ok  ", "warn": "warn", "bad": "BAD "}


class Shown(str):
    """A word or version that a stranger may read: nothing of a person, a host or a key is in it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str  # of the check
    weight: Weight
    template: str  # one sentence, with places for facts
    facts: Mapping[str, object] = field(default_factory=dict)
    remedy: tuple[str, ...] = ()  # what to do, as lines

    @property
    def sentence(self) -> str:
        """For the operator: everything is in it."""
        return self.template.format(**self.facts)


def ok(name: str, template: str, **facts: object) -> Finding:
    """As it should be."""
    return Finding(name, "ok", template, facts)


def warn(name: str, template: str, *remedy: str, **facts: object) -> Finding:
    """It works, and will not for ever or not for everybody."""
    return Finding(name, "warn", template, facts, remedy)


def bad(name: str, template: str, *remedy: str, **facts: object) -> Finding:
    """It does not work."""
    return Finding(name, "bad", template, facts, remedy)


class Veil:
    """Gives each hidden fact its word; one for a whole text, so that equal facts get equal words."""

    def __init__(self) -> None:
        self._words: dict[tuple[str, str], str] = {}

    def over(self, finding: Finding) -> str:
        """The finding's sentence for strangers."""
        return finding.template.format(**{kind: self._seen(kind, fact) for kind, fact in finding.facts.items()})

    def _seen(self, kind: str, fact: object) -> object:
        if isinstance(fact, Shown | int | float):
            return fact
        return self._words.setdefault((kind, str(fact)), f"<{kind}-{1 + sum(k == kind for k, _ in self._words)}>")


def is_well(findings: Sequence[Finding]) -> bool:
    """Whether nothing is bad; warnings do not count."""
    return all(finding.weight != "bad" for finding in findings)


def for_operator(findings: Sequence[Finding]) -> str:
    """Aligned lines, one a finding, with what to do indented below it."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.weight]}  {finding.name:<{width}}  {finding.sentence}")
        lines += [f"{'':{width + 8}}{line}" for line in finding.remedy]
    return "\n".join(lines) + "\n"


def for_strangers(findings: Sequence[Finding], versions: Mapping[str, str]) -> str:
    """One text to paste into an issue: versions and findings; no names of hosts, addresses, paths, nor secrets."""
    veil = Veil()
    head = ", ".join(f"{name} {version}" for name, version in versions.items())
    width = max((len(finding.name) for finding in findings), default=0)
    lines = [f"{MARKS[each.weight]}  {each.name:<{width}}  {veil.over(each)}" for each in findings]
    return "\n".join([f"hub doctor: {head}", *lines]) + "\n"


def as_json(findings: Sequence[Finding], versions: Mapping[str, str]) -> str:
    """The same for programs: ``well``, ``findings``, and ``for_strangers``, the text for an issue."""
    return json.dumps(
        {
            "well": is_well(findings),
            "versions": dict(versions),
            "findings": [
                {"name": each.name, "weight": each.weight, "sentence": each.sentence, "remedy": list(each.remedy)}
                for each in findings
            ],
            "for_strangers": for_strangers(findings, versions),
        },
        indent=1,
        ensure_ascii=False,
    )
