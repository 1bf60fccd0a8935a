"""What a measurement found, with everything needed to read it: values, percentiles, machine, commit and settings.

A scenario gives back a list of ``Figures``; ``write`` puts a sitting of them into a folder as ``figures.json`` and
``figures.txt``.  Units are the end of a value's name: ``_s``, ``_ms``, ``_us``, ``_kib``, ``_mib``, ``_mib_s``,
``_per_s``, ``_percent``; what ends in ``_x`` is a ratio, what has no unit is a number of things.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

STEPS = (50.0, 90.0, 95.0, 99.0, 99.9)  # what is told of a distribution, in percent
CURVE = 200  # points of a distribution that are kept for a plot

Setting = str | int | float | bool | None


@dataclass(slots=True)
class Figures:
    """What one scenario found under one set of settings."""

    scenario: str
    settings: dict[str, Setting] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Lines for the plots, each a list of points (x, y)."""


def percentiles(values: Sequence[float], prefix: str, unit: str, steps: Sequence[float] = STEPS) -> dict[str, float]:
    """``{prefix}_p50_{unit}`` and so on, and ``{prefix}_last_{unit}``, of values in that unit; empty of no values.

    A percentile is a value that was measured: the smallest one that at least so many percent do not exceed.
    """
    if not values:
        return {}
    ordered = sorted(values)
    found = {f"{prefix}_p{step:g}_{unit}": percentile(ordered, step) for step in steps}
    return {**found, f"{prefix}_last_{unit}": ordered[-1]}


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest of these ascending values, of which there is one at least, that so many percent do not exceed."""
    # Rounded first: 99.9 percent of 1,000 is 999, and not a hair above it.
    return ordered[max(0, math.ceil(round(len(ordered) * percent / 100, 6)) - 1)]


def distribution(values: Sequence[float], points: int = CURVE) -> list[tuple[float, float]]:
    """A curve for a plot: at most so many points (value, share of the values not above it)."""
    ordered = sorted(values)
    count = len(ordered)
    at = sorted({math.ceil(count * step / points) - 1 for step in range(1, points + 1)} - {-1})
    return [(ordered[n], (n + 1) / count) for n in at]


def medians(runs: Sequence[Figures], note: str = "") -> Figures:
    """One ``Figures`` of several runs of the same: the median of each value that all have; the first one's curves."""
    first = runs[0]
    names = [name for name in first.values if all(name in each.values for each in runs)]
    values = {name: statistics.median(each.values[name] for each in runs) for name in names}
    notes = list(dict.fromkeys(each for run in runs for each in run.notes))
    said = [note or f"medians of {len(runs)} runs"] if len(runs) > 1 else []
    return Figures(first.scenario, dict(first.settings), values, [*said, *notes], dict(first.curves))


def head() -> dict[str, str]:
    """Date, commit and machine of this sitting."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "commit": _commit(),
        "cores": str(os.cpu_count()),
        "processor": _first_of("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "memory": _first_of("/proc/meminfo", "MemTotal") or "unknown",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def table(sitting: Sequence[Figures], about: Mapping[str, str] | None = None) -> str:
    """The text table of a sitting: the head, then each scenario with its settings, values and notes."""
    lines = [f"{name}: {value}" for name, value in (head() if about is None else about).items()]
    for figures in sitting:
        said = ", ".join(f"{name}={value}" for name, value in figures.settings.items() if value is not None)
        lines += ["", f"{figures.scenario}  [{said}]" if said else figures.scenario]
        width = max(map(len, figures.values), default=0)
        lines += [f"  {name:<{width}}  {_number(value):>12}" for name, value in figures.values.items()]
        lines += [f"  * {note}" for note in figures.notes]
    return "\n".join(lines) + "\n"


def write(folder: Path, sitting: Sequence[Figures], about: Mapping[str, str] | None = None) -> None:
    """``figures.json`` and ``figures.txt`` into the folder, which is made; older ones are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    about = head() if about is None else dict(about)
    # A line for each of them: small, and a later sitting can be compared line by line.
    lines = ",\n".join(json.dumps(asdict(each), allow_nan=False) for each in map(_rounded, sitting))
    (folder / "figures.json").write_text(f'{{"head": {json.dumps(about)},\n"figures": [\n{lines}\n]}}\n')
    (folder / "figures.txt").write_text(table(sitting, about))


def read(folder: Path) -> tuple[dict[str, str], list[Figures]]:
    """Head and figures that ``write`` put there.  Raises ``OSError`` or ``ValueError`` when there are none."""
    kept = json.loads((folder / "figures.json").read_text())
    sitting = [Figures(**each) for each in kept["figures"]]
    for each in sitting:
        each.curves = {name: [(x, y) for x, y in points] for name, points in each.curves.items()}
    return kept["head"], sitting


def show(sitting: Sequence[Figures]) -> None:
    """The text table to standard output."""
    sys.stdout.write(table(sitting))
    sys.stdout.flush()


def _rounded(figures: Figures) -> Figures:
    """The same with curves of four digits, which is more than a plot shows."""
    curves = {name: [(_digits(x), _digits(y)) for x, y in points] for name, points in figures.curves.items()}
    return replace(figures, curves=curves)


def _digits(value: float) -> float:
    return float(f"{value:.4g}") if not 0.99 < value < 1 else round(value, 6)  # 0.9999 is another percentile


def _number(value: float) -> str:
    if math.isfinite(value) and value == int(value):
        return f"{int(value):,}"
    size = abs(value)
    return f"{value:,.0f}" if size >= 1000 else f"{value:.1f}" if size >= 100 else f"{value:.3g}"


def _commit() -> str:
    """The checkout's commit, with a plus when files differ from it; "unknown" outside a checkout."""
    here = Path(__file__).resolve().parent.parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _first_of(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
