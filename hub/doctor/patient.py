"""What the doctor is given: settings, what is wrong with them, and whom this machine trusts."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from hub.config import Settings

ANSWER_WITHIN_S = 5.0  # for anything that is asked over a network


@dataclass(frozen=True)
class Patient:
    """One hub as its operator has set it up."""

    settings: Settings
    faults: tuple[str, ...] = ()
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)  # how devices and mail servers are trusted
    clock: Callable[[], float] = time.time
