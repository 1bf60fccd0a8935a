"""Counts what a piece of Python does instead of how long it takes: the same number on a busy machine and an idle one.

A step is one bytecode instruction, or one call of a function written in C.  What such a function does inside
counts as one step, however long it takes, so the count guards our own code and not the libraries below it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def steps(work: Callable[[], object]) -> int:
    """The steps of one call of ``work``.  Nothing else may trace or profile meanwhile."""
    return _monitored(work) if sys.version_info >= (3, 12) else _traced(work)


def _monitored(work: Callable[[], object]) -> int:
    counted = 0

    def count(*_: object) -> None:
        nonlocal counted
        counted += 1

    monitoring = sys.monitoring
    tool, events = monitoring.PROFILER_ID, monitoring.events
    monitoring.use_tool_id(tool, "steps")
    try:
        for event in (events.INSTRUCTION, events.C_RETURN, events.C_RAISE):
            monitoring.register_callback(tool, event, count)
        monitoring.set_events(tool, events.INSTRUCTION | events.CALL | events.C_RETURN | events.C_RAISE)
        try:
            work()
        finally:
            monitoring.set_events(tool, 0)
    finally:
        monitoring.free_tool_id(tool)
    return counted


def _traced(work: Callable[[], object]) -> int:
    counted = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal counted
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        counted += event == "opcode"
        return trace

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal counted
        counted += event == "c_call"

    tracing, profiling = sys.gettrace(), sys.getprofile()
    sys.setprofile(profile)
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(tracing)
        sys.setprofile(profiling)
    return counted
