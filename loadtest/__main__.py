"""Measure a whole hub: real processes, real servers, on loopback.

    python -m loadtest                            what there is
    python -m loadtest steady --seconds 10        one scenario
    python -m loadtest storm --help               its options
    python -m loadtest short --into loadtest/results/2026-11-23-short
    python -m loadtest full                       everything, at the sizes the figures in the docs are of

``--into FOLDER`` writes the figures as JSON and text and, where matplotlib is installed, the plots; standard output
has the text in any case.  ``--repeat N`` runs a scenario so often and keeps the median of each value.  ``short`` and
``full`` go on when one scenario fails, say so, and end with code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import pkgutil
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType

from loadtest import figures, scenarios
from loadtest.figures import Figures

# The floors first: what the machine can do without a hub.
ORDER = ("floors", "steady", "ladder", "replicas", "embedded", "cold_sync", "idle", "slow_reader", "storm", "growth")
SITTINGS = ("short", "full")


def modules() -> dict[str, str]:
    """Name of each scenario and the module it is; the floors are one of them."""
    found = {each.name: f"loadtest.scenarios.{each.name}" for each in pkgutil.iter_modules(scenarios.__path__)}
    found["floors"] = "loadtest.floors"
    place = {name: n for n, name in enumerate(ORDER)}
    return dict(sorted(found.items(), key=lambda each: (place.get(each[0], len(place)), each[0])))


def main(words: list[str] | None = None) -> int:
    """The command; gives back its exit code."""
    names = modules()
    words = sys.argv[1:] if words is None else words
    first = next((word for word in words if not word.startswith("-")), "")
    options = _parser(names, first).parse_args(words)
    if options.name in SITTINGS:
        sitting, failed = _sitting(names, options.name, set(options.without))
    else:
        sitting, failed = asyncio.run(_repeat(importlib.import_module(names[options.name]), options)), []
    figures.show(sitting)
    if options.into is not None:
        figures.write(options.into, sitting)
        _draw(options.into, sitting)
    for name in failed:
        print(f"{name} failed", file=sys.stderr)
    return 1 if failed else 0


def _parser(names: dict[str, str], chosen: str) -> argparse.ArgumentParser:
    """Only the chosen scenario is imported: another's missing library or compiler is not its concern."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--into", type=Path, metavar="FOLDER", help="write JSON, text and plots there")
    parser = argparse.ArgumentParser(
        prog="python -m loadtest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name in names:
        module = importlib.import_module(names[name]) if name == chosen else None
        said = (module.__doc__ or "").partition("\n")[0] if module else None
        one = kinds.add_parser(name, parents=[common], description=said)
        one.add_argument("--repeat", type=int, default=1, metavar="N", help="runs; the median of each value is kept")
        if module is not None:
            module.add_arguments(one)
    for name in SITTINGS:
        every = kinds.add_parser(name, parents=[common], description=f"every scenario, at its {name} size")
        every.add_argument("--without", action="append", default=[], choices=names, metavar="NAME")
    return parser


def _sitting(names: dict[str, str], size: str, without: set[str]) -> tuple[list[Figures], list[str]]:
    """All scenarios one after the other, and the names of those that failed."""
    found: list[Figures] = []
    failed: list[str] = []
    for name in names:
        if name in without:
            continue
        began = time.perf_counter()
        try:
            module = importlib.import_module(names[name])
            said = getattr(module, size.upper(), "")
            for words in (said,) if isinstance(said, str) else said:
                found += asyncio.run(_repeat(module, _parser(names, name).parse_args([name, *words.split()])))
        except Exception:
            traceback.print_exc()
            failed.append(name)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return found, failed


async def _repeat(module: ModuleType, options: argparse.Namespace) -> list[Figures]:
    """The scenario so many times; its n-th figures of each run belong together."""
    runs: list[list[Figures]] = [await module.run(options) for _ in range(max(1, options.repeat))]
    return [figures.medians(of_all) for of_all in zip(*runs, strict=True)]


def _draw(folder: Path, sitting: list[Figures]) -> None:
    try:
        from loadtest import plots
    except ImportError:
        print("no plots: matplotlib is not installed (dependency group loadtest)", file=sys.stderr)
        return
    plots.draw(folder, sitting)


if __name__ == "__main__":
    sys.exit(main())
