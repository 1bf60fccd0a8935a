"""A flame graph of sampled stacks: a plain SVG, where each call is as wide as its share of the samples.

    python -m loadtest steady --seconds 20 &
    py-spy record -f raw -d 4 -r 400 -o stacks.txt -p PID
    python -m loadtest.flame stacks.txt hub-flame.svg

``stacks.txt`` has a stack a line, outermost call first, separated by ``;``, then a blank and how many samples had it.
Lines of one function are one call.  What is narrower than ``NARROWEST`` is left out.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

WIDTH, ROW = 1_200, 17
NARROWEST = 0.002  # of all samples
LETTER = 6.2  # pixels
COLOURS = ("#f4a582", "#f7b799", "#fbd1b7", "#e8956f")
LINE = re.compile(r":\d+\)$")


class Call(NamedTuple):
    """One function on the way to others: where it stands, from the left and from below, as shares of all samples."""

    name: str
    depth: int
    left: float
    width: float


def calls(stacks: Iterable[str], under: str = "") -> list[Call]:
    """The calls of these stacks, the outermost at depth 0; ``under``: only what lies inside of that function.

    Raises ``ValueError`` when no stack has it.
    """
    weights: dict[tuple[str, ...], int] = defaultdict(int)
    for line in stacks:
        stack, _, samples = line.rpartition(" ")
        names = [LINE.sub(")", name) for name in stack.split(";")]
        if under in names:
            names = names[names.index(under) + 1 :]
        elif under:
            continue
        for depth in range(1, len(names) + 1):
            weights[tuple(names[:depth])] += int(samples)
    total = sum(samples for path, samples in weights.items() if len(path) == 1)
    if not total:
        raise ValueError(f"no stack has {under}")
    return _placed(weights, (), 0.0, total)


def _placed(weights: dict[tuple[str, ...], int], path: tuple[str, ...], left: float, total: int) -> list[Call]:
    inner = [each for each in weights if len(each) == len(path) + 1 and each[: len(path)] == path]
    placed: list[Call] = []
    for each in sorted(inner, key=lambda each: -weights[each]):
        width = weights[each] / total
        if width >= NARROWEST:
            placed += [Call(each[-1], len(path), left, width), *_placed(weights, each, left, total)]
        left += width
    return placed


def drawn(placed: Sequence[Call]) -> str:
    """The SVG, the outermost calls on top."""
    height = (max(call.depth for call in placed) + 1) * ROW
    boxes = []
    for number, call in enumerate(placed):
        x, y, width = call.left * WIDTH, call.depth * ROW, call.width * WIDTH
        name = escape(call.name)
        fits = int((width - 6) / LETTER)
        text = f'<text x="{x + 3:.1f}" y="{y + 12}">{escape(call.name[:fits])}</text>' if fits > 3 else ""
        boxes.append(
            f'<g><title>{name} {call.width:.1%}</title><rect x="{x:.1f}" y="{y}" width="{max(width - 0.5, 0.3):.1f}"'
            f' height="{ROW - 1}" fill="{COLOURS[number % len(COLOURS)]}"/>{text}</g>'
        )
    size = f'viewBox="0 0 {WIDTH} {height}" font-family="monospace" font-size="10"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>', *boxes, "</svg>", ""])


def main() -> None:
    """The command."""
    if len(sys.argv) not in (3, 4):
        sys.exit("python -m loadtest.flame STACKS OUT.svg [FUNCTION]")
    stacks, out, *under = sys.argv[1:]
    Path(out).write_text(drawn(calls(Path(stacks).read_text().splitlines(), *under)))


if __name__ == "__main__":
    main()
