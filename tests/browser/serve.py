"""The command ``hub`` for tests in the browser: room for many codes, and two faults that no setting offers.

``TEST_HEARTBEAT_S`` shortens the ping between hub and device, for whoever waits for one.
``TEST_LOST_NOTICES`` is the share of notices about new changes and witnesses that are
lost between the replicas and on the way to this one's own sessions, as 0.2; the rest of
the hub does not know.
"""

from __future__ import annotations

import dataclasses
import os
import random
import sys
from typing import Any

from hub import running
from hub.bus import HeadMoved, Notice, Witnessed
from hub.cli import main
from hub.config import Settings
from hub.limiter import CodeLimits
from hub.terms import AccountId, Limits, Span

PLENTY = (Span(100_000, 3_600.0),)


def wide(**_: Any) -> CodeLimits:
    """All devices of a test come from one address; the limits themselves have tests of their own."""
    return CodeLimits(address=PLENTY, near=PLENTY, wide=PLENTY, origin=PLENTY, hub=PLENTY, accounts=PLENTY)


def shorten_the_heartbeat(seconds: int) -> None:
    """Whatever a device asks for."""
    given = Settings.limits

    def limits(settings: Settings) -> Limits:
        return dataclasses.replace(
            given(settings), heartbeat_s_min=seconds, heartbeat_s=seconds, heartbeat_s_max=seconds
        )

    setattr(Settings, "limits", limits)  # noqa: B010 -- the type checker would rightly mind


def lose_notices(share: float) -> None:
    """A bus may lose what it is given and not notice."""
    make_bus = running.make_bus
    dice = random.Random(share)

    def lossy(*given: Any) -> Any:
        bus = make_bus(*given)
        publish = bus.publish

        def maybe(account_id: AccountId, notice: Notice) -> None:
            if not isinstance(notice, HeadMoved | Witnessed) or dice.random() >= share:
                publish(account_id, notice)

        setattr(bus, "publish", maybe)  # noqa: B010
        return bus

    setattr(running, "make_bus", lossy)  # noqa: B010


if __name__ == "__main__":
    setattr(running, "CodeLimits", wide)  # noqa: B010
    if heartbeat := os.environ.get("TEST_HEARTBEAT_S"):
        shorten_the_heartbeat(int(heartbeat))
    if lost := os.environ.get("TEST_LOST_NOTICES"):
        lose_notices(float(lost))
    sys.exit(main())
