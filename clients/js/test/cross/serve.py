"""The command ``hub`` with room for many codes: all devices of a test come from one address.

The limits themselves have tests of their own.
"""

from __future__ import annotations

import sys
from typing import Any

from hub import running
from hub.cli import main
from hub.limiter import CodeLimits
from hub.terms import Span

PLENTY = (Span(100_000, 3_600.0),)
WIDE = CodeLimits(
    address=PLENTY, near=PLENTY, wide=PLENTY, origin=PLENTY, hub=PLENTY, accounts=PLENTY, pairings=PLENTY,
    newcomers=PLENTY,
)  # fmt: skip


def wide(**limits: Any) -> CodeLimits:
    """Whatever the settings say."""
    return WIDE


if __name__ == "__main__":
    setattr(running, "CodeLimits", wide)  # noqa: B010 -- the type checker would rightly mind
    sys.exit(main())
