"""How long to wait before the next try, without I/O.

Full jitter: a uniform draw below a ceiling that doubles from half a second to
thirty seconds.  Devices that lost the same hub therefore come back spread out.
It never gives up, and it starts over only after a connection that stayed for ten
seconds: one that is taken and dropped at once counts as a failure.
"""

from __future__ import annotations

FIRST_S = 0.5
CEILING_S = 30.0
STABLE_AFTER_S = 10.0
ASKED_MAX_S = 3_600.0  # a hub, or whoever answers in its place, may ask for longer, and is not obeyed
_DOUBLINGS_MAX = 6  # 0.5 s doubled six times is above the ceiling


class Backoff:
    """The waiting times of one device towards one hub.  Times are monotonic seconds."""

    def __init__(self) -> None:
        self._failures = 0
        self._since: float | None = None

    def connected(self, now: float) -> None:
        """A session began."""
        self._since = now

    def lost(self, now: float, draw: float, retry_after_s: float = 0.0) -> float:
        """The session ended, or there was none: seconds to wait.

        ``draw`` is uniform in [0, 1).  With ``retry_after_s`` the hub asked for that
        long at least, an hour at most; the jitter comes on top, so that all do not
        come back at once.
        """
        if self._since is not None and now - self._since >= STABLE_AFTER_S:
            self._failures = 0
        self._since = None
        ceiling = min(CEILING_S, FIRST_S * 2**self._failures)
        self._failures = min(self._failures + 1, _DOUBLINGS_MAX)
        return float(min(max(0.0, retry_after_s), ASKED_MAX_S) + draw * ceiling)
