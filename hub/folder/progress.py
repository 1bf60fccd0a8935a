"""How long work still takes, shown without getting in the way, without I/O of its own choosing.

On a terminal one line that is drawn over; elsewhere a plain line every few
seconds.  Short work shows nothing.  The stream and the time come from outside.
"""

from __future__ import annotations

from typing import TextIO

BAR_CHARACTERS = 24
SHOWN_AFTER_S = 0.5  # work that is done sooner needs no bar
DRAWN_EVERY_S = 0.1
TOLD_EVERY_S = 5.0


class Progress:
    """One long piece of work at a time."""

    def __init__(self, stream: TextIO, tty: bool) -> None:
        self._stream = stream
        self._tty = tty
        self._began_at: float | None = None
        self._shown_at = float("-inf")
        self._drawn = 0

    def update(self, done: int, remaining: int, now: float) -> None:
        """``done`` of ``done + remaining``; with nothing remaining the work is over and the bar goes."""
        if remaining <= 0:
            self.clear()
            self._began_at = None
            return
        if self._began_at is None:
            self._began_at = now
        every = DRAWN_EVERY_S if self._tty else TOLD_EVERY_S
        if now - self._began_at < SHOWN_AFTER_S or now - self._shown_at < every:
            return
        self._shown_at = now
        self._show(done, done + remaining)

    def line(self, text: str) -> None:
        """A plain line; a bar that stands there makes room for it."""
        self.clear()
        self._stream.write(text + "\n")
        self._stream.flush()

    def clear(self) -> None:
        """Take the bar away."""
        if self._drawn:
            self._stream.write("\r" + " " * self._drawn + "\r")
            self._stream.flush()
            self._drawn = 0

    def _show(self, done: int, total: int) -> None:
        text = f"{done * 100 // total:3d} %  {done:,} of {total:,}"
        if not self._tty:
            self._stream.write(f"Syncing: {text.strip()}\n")
        else:
            filled = done * BAR_CHARACTERS // total
            text = f"[{'#' * filled}{'.' * (BAR_CHARACTERS - filled)}] {text}"
            self._stream.write("\r" + text.ljust(self._drawn))
            self._drawn = max(self._drawn, len(text))
        self._stream.flush()
