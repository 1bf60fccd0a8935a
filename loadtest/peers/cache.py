"""Gets the peers from the package registries into a folder outside the tree; what is there already is used again."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

WITHIN_S = 900.0


class Missing(RuntimeError):
    """A peer cannot be had here; the text says why, for a person."""


class Cache:
    """The folder of what was installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def python(self, name: str, wanted: Sequence[str]) -> Path:
        """The programs' folder of a virtual environment of its own with these packages, exact versions each."""
        place = self._place(name, "\n".join(wanted))
        if not (place / "whole").exists():
            _run([sys.executable, "-m", "venv", "--clear", place], self.folder)
            _run([place / "bin/python", "-m", "pip", "install", "--quiet", *wanted], self.folder)
            (place / "whole").touch()
        return place / "bin"

    def node(self, name: str, source: Path) -> Path:
        """A folder with this one's files and the packages that its package.json names."""
        if not shutil.which("npm"):
            raise Missing("npm is not on this machine")
        place = self._place(name, (source / "package.json").read_text())
        place.mkdir(parents=True, exist_ok=True)
        for file in source.iterdir():
            if file.suffix in (".mjs", ".cjs", ".json"):
                shutil.copy(file, place)
        if not (place / "whole").exists():
            quiet = ["--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"]
            _run(["npm", "install", *quiet], place)
            (place / "whole").touch()
        return place

    def debian(self, package: str) -> Path:
        """The folder that Debian's package of this name was unpacked into; nothing is installed."""
        place = self.folder / f"debian-{package}"
        if not (place / "whole").exists():
            if not shutil.which("apt-get"):
                raise Missing("apt-get is not on this machine")
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            _run(["apt-get", "download", package], place)
            for file in place.glob("*.deb"):
                _run(["dpkg-deb", "-x", file, place], place)
            (place / "whole").touch()
        return place

    def _place(self, name: str, wanted: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{name}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"


def _run(words: Sequence[str | Path], folder: Path) -> None:
    try:
        done = subprocess.run(
            [str(word) for word in words], cwd=folder, capture_output=True, text=True, timeout=WITHIN_S
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"{' '.join(map(str, words[:4]))}: not done within {WITHIN_S:.0f} s") from None
    if done.returncode:
        raise Missing(f"{' '.join(map(str, words[:4]))}: {(done.stderr or done.stdout).strip()[-1500:]}")
