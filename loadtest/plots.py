"""The plots of a sitting, as small SVG files beside its figures; what has no figures has no plot.

    python -m loadtest.plots loadtest/results/2026-11-23-full        draw once more what stands there
    python -m loadtest.plots FOLDER PEERS                            and with it the figures of another folder

``throughput.svg`` durable appends a second with delivery, of hub and peers, and the floors as lines; ``ladder.svg``
append to delivery by percentile, a line a rate; ``storm.svg`` the share of the devices that are back; ``growth.svg``
cost of a change by size of the log.  Needs matplotlib (dependency group ``loadtest``).
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.figures import Figures, read

INK, FAINT, HUB, PEER = "#22303c", "#c9d2d9", "#1f77b4", "#9aa7b1"
COLOURS = ("#1f77b4", "#d95f02", "#2a9d63", "#8a5fbf", "#b8860b", "#c2185b")
PERCENTS = (0, 50, 90, 99, 99.9, 99.99)
FLOORS = {"one_row_64_per_s": "pgbench, one-row transactions", "one_statement_64_per_s": "pgbench, one statement"}
GROWTH = {
    "append_400": "append, 400 a batch",
    "append_1": "append, one a batch",
    "page": "catch-up page",
    "tail_page": "catch-up of five",
    "compact": "compaction",
}
matplotlib.rcParams.update(
    {
        "svg.fonttype": "none",  # text stays text: small, and legible in any browser
        "svg.hashsalt": "loadtest",
        "font.size": 10,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": FAINT,
        "grid.linewidth": 0.5,
        "legend.frameon": False,
    }
)


def draw(folder: Path, sitting: Sequence[Figures]) -> list[Path]:
    """Write the plots this sitting has figures for into the folder; which ones."""
    drawn = []
    by_scenario: dict[str, list[Figures]] = defaultdict(list)
    for figures in sitting:
        by_scenario[figures.scenario.partition(" ")[0]].append(figures)
    for name, plot in PLOTS.items():
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        if plot(figure.add_subplot(), by_scenario):
            path = folder / f"{name}.svg"
            figure.savefig(path, metadata={"Date": None})
            drawn.append(path)
    return drawn


def _throughput(axes: Axes, found: dict[str, list[Figures]]) -> bool:
    """Bars, the highest on top."""
    hub = [each for name in ("steady", "embedded", "replicas") for each in found.get(name, ())]
    bars = [(_hub_name(each), each.values["appends_per_s"], HUB) for each in hub if "appends_per_s" in each.values]
    for each in found.get("peer", ()):
        if "appends_per_s" in each.values:
            bars.append((each.scenario.removeprefix("peer "), each.values["appends_per_s"], PEER))
    if not bars:
        return False
    bars.sort(key=lambda bar: bar[1])
    axes.barh([name for name, _, _ in bars], [rate for _, rate, _ in bars], color=[colour for *_, colour in bars])
    for place, (_, rate, _) in enumerate(bars):
        axes.annotate(f" {rate:,.0f}", (rate, place), va="center")
    for floor in found.get("floor", ()):
        for number, (name, said) in enumerate(FLOORS.items()):
            if name in floor.values:
                style = ("--", ":")[number]
                axes.axvline(floor.values[name], color=INK, linestyle=style, label=f"{said}: {floor.values[name]:,.0f}")
    axes.set_xlabel("durable appends a second, each delivered to two devices")
    axes.grid(visible=False, axis="y")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right")
    return True


def _hub_name(figures: Figures) -> str:
    replicas = int(figures.settings.get("replicas") or 1)
    store = "SQLite" if figures.settings.get("store") == "sqlite" else "Postgres"
    return f"hub, {store}" + (f", {replicas} replicas" if replicas > 1 else "")


def _ladder(axes: Axes, found: dict[str, list[Figures]]) -> bool:
    """Milliseconds by percentile; every nine has the same width."""
    steps = [
        each for each in found.get("ladder", ()) if each.curves.get("delivery") and "intended_per_s" in each.values
    ]
    for number, each in enumerate(steps):
        points = [(x, share) for x, share in each.curves["delivery"] if share < 1]
        rate = each.values["intended_per_s"]
        axes.plot(
            [1 / (1 - share) for _, share in points],
            [max(x, 0.01) for x, _ in points],
            color=COLOURS[number % len(COLOURS)],
            label=f"{rate:,.0f} a second ({each.settings.get('step', '')})",
        )
    if not steps:
        return False
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([1 / (1 - each / 100) for each in PERCENTS], [f"{each:g} %" for each in PERCENTS])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("share of the appends")
    axes.set_ylabel("append to delivery, ms")
    axes.legend(loc="lower right")
    return True


def _storm(axes: Axes, found: dict[str, list[Figures]]) -> bool:
    """The share that is back, by time."""
    storms = [each for each in found.get("storm", ()) if each.curves.get("back")]
    for number, each in enumerate(storms):
        points = each.curves["back"]
        through = each.settings.get("through")
        said = f"{each.settings.get('devices'):,} devices" + (f" through {through}" if through != "nothing" else "")
        axes.step(
            [0.0, *(x for x, _ in points)],
            [0.0, *(100 * share for _, share in points)],
            where="post",
            color=COLOURS[number % len(COLOURS)],
            label=said,
        )
    if not storms:
        return False
    axes.set_xlabel("seconds after all have dialled")
    axes.set_ylabel("back and caught up, %")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 101)
    axes.legend(loc="lower right")
    return True


def _growth(axes: Axes, found: dict[str, list[Figures]]) -> bool:
    """Cost against that of the base log, by size; a line a store and kind."""
    lines: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for each in found.get("growth", ()):
        for kind in GROWTH:
            if f"{kind}_x" in each.values:
                size = float(each.settings["changes"] or 0)
                lines[str(each.settings["store"]), kind].append((size, each.values[f"{kind}_x"]))
    kinds = list(GROWTH)
    for (store, kind), points in lines.items():
        axes.plot(
            *zip(*sorted(points), strict=True),
            marker="o",
            markersize=4,
            linestyle="-" if store == "postgres" else "--",
            color=COLOURS[kinds.index(kind)],
            label=GROWTH[kind] + ("" if store == "postgres" else ", SQLite"),
        )
    if not lines:
        return False
    base = found["growth"][0].settings["base"]
    axes.axhline(1.0, color=INK, linewidth=0.8)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("changes in the log")
    axes.set_ylabel(f"time for one change, times that at {base:,}")
    axes.legend(loc="lower left", ncols=2)
    return True


PLOTS: dict[str, Callable[[Axes, dict[str, list[Figures]]], bool]] = {
    "throughput": _throughput,
    "ladder": _ladder,
    "storm": _storm,
    "growth": _growth,
}


def main() -> None:
    """The command."""
    folders = [Path(name) for name in sys.argv[1:]]
    if not folders:
        sys.exit("which folder?  python -m loadtest.plots FOLDER [MORE ...]")
    for path in draw(folders[0], [figures for folder in folders for figures in read(folder)[1]]):
        print(path)


if __name__ == "__main__":
    main()
