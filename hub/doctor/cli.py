"""The command ``hub doctor``: prints what was found, and a text for strangers; ends with 1 when something is bad."""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import secrets
import sys
from collections.abc import Sequence

IDLE_S = 65.0


def main(argv: Sequence[str]) -> int:
    """Run ``hub doctor``; 0 when nothing is bad, 1 otherwise."""
    from hub import log
    from hub.config import load
    from hub.doctor.checks import examine, versions
    from hub.doctor.patient import Patient
    from hub.doctor.report import as_json, for_operator, for_strangers, is_well

    options = _parser().parse_args(argv)
    # Nothing of the rooms it asks may speak between its lines.
    log.set_up(form="text", level="error", key=secrets.token_bytes(32), stream=io.StringIO())
    settings, faults = load(os.environ)
    test_to = input("Mail a test to: ").strip() if options.send_mail else ""
    findings = asyncio.run(
        examine(
            Patient(settings, tuple(faults)),
            inside_only=options.inside,
            idle_s=IDLE_S if options.idle else 0.0,
            test_to=test_to,
            progress=lambda about: print(f"looking at {about} ...", file=sys.stderr, flush=True),
        )
    )
    if options.json:
        print(as_json(findings, versions()))
    else:
        print(for_operator(findings))
        print("For an issue (no names, addresses, paths or secrets are in it):\n")
        print(for_strangers(findings, versions()), end="")
    return 0 if is_well(findings) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hub doctor", description="Tell what is wrong with this hub and the way to it, and what to do."
    )
    parser.add_argument("--inside", action="store_true", help="ask nothing through the public addresses")
    parser.add_argument(
        "--idle", action="store_true", help=f"also leave a WebSocket silent for {IDLE_S:.0f} s at each address"
    )
    parser.add_argument("--send-mail", action="store_true", help="mail a test to an address that is asked for")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser
