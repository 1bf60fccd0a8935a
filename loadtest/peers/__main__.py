"""The command: ``python -m loadtest.peers NAME|all [--seconds 8] [--accounts 300] [--rate R] [--into FOLDER]``.

Gets the peer from the package registries into the cache folder, starts it on loopback, measures it and ends it.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
from pathlib import Path

from loadtest.figures import Figures, show, write
from loadtest.peers.cache import Cache, Missing
from loadtest.peers.measure import Options, measure

PEERS = {
    "nats": "nats",
    "feathers": "feathers",
    "django": "django_channels",
    "hocuspocus": "hocuspocus",
    "pouchdb": "pouchdb",
    "jazz": "jazz",
}
DEFAULT_CACHE = Path("~/.cache/sync-hub-peers")


def run(names: list[str], options: Options) -> list[Figures]:
    """The figures of these peers, one for each of their settings; of what cannot be run, a note why."""
    found = []
    for name in names:
        try:
            variants = importlib.import_module(f"loadtest.peers.{PEERS[name]}").variants(options)
        except Missing as why:
            found.append(Figures(f"peer {name}", notes=[f"could not be had: {why}"]))
            continue
        for variant in variants:
            try:
                found.append(measure(variant, options))
            except (Missing, OSError, RuntimeError, subprocess.SubprocessError) as why:
                found.append(Figures(f"peer {variant.name}", notes=[f"could not be run: {why}"]))
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.peers", description=__doc__.partition("\n")[0])
    parser.add_argument("name", choices=[*PEERS, "all"])
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run")
    parser.add_argument("--accounts", type=int, default=300, help="at most; a tenth and a third are tried as well")
    parser.add_argument("--rate", type=float, default=0.0, help="the open loop runs at half of this; 0: its own best")
    parser.add_argument("--into", type=Path, help="a folder for figures.json and figures.txt")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="where the peers are installed")
    words = parser.parse_args()
    options = Options(Cache(words.cache.expanduser()), words.seconds, words.accounts, words.rate)
    sitting = run([*PEERS] if words.name == "all" else [words.name], options)
    show(sitting)
    if words.into:
        write(words.into, sitting)


if __name__ == "__main__":
    main()
