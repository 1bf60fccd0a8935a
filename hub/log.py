"""The shape of a log line, and what may stand in one.

A line has a name (a constant sentence, never built from data) and fields.  Only
the fields of ``FIELDS`` are written, each in its own reduced form; a field that is
not there is dropped and counted, so a line can never carry more than this page
allows.  Accounts and devices are shown as hashes under a key that changes every day:
a day's lines of one device can be followed, two days' cannot be joined.  Network
addresses lose their end.  Exceptions are shown by class and place, never by
their text, which may quote what they choked on.

E-mail addresses, codes, keys and bodies have no field.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
NAME_CHARS_MAX = 80
FRAMES_MAX = 12  # of a traceback, the innermost

_WORD = re.compile(r"[a-z][a-z_-]{0,39}")  # no digits and no capitals: neither a code nor a key fits
_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9a-z+]{1,8}){1,4}")
_INCIDENT = re.compile(r"[0-9a-f]{6}")
_Show = Callable[[object], object]


def set_up(*, form: str, level: str, key: bytes, stream: TextIO, now: Callable[[], float] = time.time) -> None:
    """Write lines to ``stream`` from now on, this program's and its libraries'.

    ``form`` is "text" or "json", ``level`` one of ``LEVELS``.  ``key`` is secret and may
    be shared by replicas, so that their hashes of one device agree.
    """
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _Reduce(key, now),
            structlog.processors.JSONRenderer(sort_keys=False) if form == "json" else _as_text,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_FromLibraries(LEVELS[level])]
    root.setLevel(max(LEVELS[level], logging.WARNING))


def get() -> FilteringBoundLogger:
    """The logger.  ``log.get().info("hub started", port=8080)``."""
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger


# --- what each field shows ---


def _like(pattern: re.Pattern[str]) -> _Show:
    return lambda value: value if isinstance(value, str) and pattern.fullmatch(value) else None


_word = _like(_WORD)
_class_name = _like(re.compile(r"[A-Za-z][A-Za-z_]{0,39}"))


def _number(value: object) -> object:
    return value if isinstance(value, bool | int) else round(value, 3) if isinstance(value, float) else None


def _place(value: object) -> object:
    """A path or URL of the hub itself."""
    return str(value)[:200]


def _network(value: object) -> object:
    """An address without its end: /24 of IPv4, /48 of IPv6."""
    try:
        address = ipaddress.ip_address(str(value))
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 48), strict=False))


def _hashed(value: object) -> object:
    """Replaced by ``_Reduce``, which has the key."""
    raise AssertionError("a hashed field needs the key")


FIELDS: dict[str, _Show] = {
    # who, as today's hash
    "account": _hashed,
    "device": _hashed,
    "space": _hashed,
    "collection": _hashed,
    "session": _hashed,
    "ip": _network,
    # what, as one of our own words
    "refusal": _word,
    "closing": _word,
    "message_type": _class_name,
    "reason": _word,
    "mode": _word,
    "setting": _word,
    "signal": _word,
    "store": _word,
    "bus": _word,
    "mail": _word,
    "task": _word,
    "version": _like(_VERSION),
    "incident": _like(_INCIDENT),  # the id that a person can quote
    # how much
    "port": _number,
    "count": _number,
    "bytes": _number,
    "seconds": _number,
    "sessions": _number,
    "retry": _number,
    "retry_after_s": _number,
    # the hub's own places
    "url": _place,
    "path": _place,
}


class _Reduce:
    """Leaves of a line what may be written."""

    def __init__(self, key: bytes, now: Callable[[], float]) -> None:
        self._key = key
        self._now = now

    def __call__(self, logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
        now = self._now()
        name, level, exc = line.pop("event"), line.pop("level"), line.pop("exc_info", None)
        shown: EventDict = {
            "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": level,
            "event": str(name)[:NAME_CHARS_MAX],
        }
        dropped = 0
        for field, value in line.items():
            reduced = self._reduce(field, value, now)
            dropped += reduced is None and value is not None
            if reduced is not None:
                shown[field] = reduced
        if exc:
            shown.update(_exception(exc))
        if dropped:
            shown["dropped"] = dropped
        return shown

    def _reduce(self, field: str, value: object, now: float) -> object:
        show = FIELDS.get(field)
        if show is None or value is None:
            return None
        return show(value) if show is not _hashed else self._hash(value, int(now // 86_400))

    def _hash(self, value: object, day: int) -> object:
        if not isinstance(value, bytes):
            return None
        today = hmac.digest(self._key, b"hub/v1/log\0" + day.to_bytes(4, "big"), hashlib.sha256)
        return hmac.digest(today, value, hashlib.sha256)[:6].hex()


def _exception(exc: object) -> dict[str, object]:
    error = sys.exc_info()[1] if exc is True else exc[1] if isinstance(exc, tuple) else exc
    if not isinstance(error, BaseException):
        return {}
    return {"error": type(error).__name__, "where": _frames(error.__traceback__)}


def _frames(tb: TracebackType | None) -> str:
    """The place and the way to it, innermost first; without source lines or values."""
    frames = reversed(traceback.extract_tb(tb)[-FRAMES_MAX:])
    return " < ".join(f"{_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames)


def _short(filename: str) -> str:
    return "/".join(filename.replace("\\", "/").split("/")[-2:])


def _as_text(logger: WrappedLogger, method: str, line: EventDict) -> str:
    head = f"{line.pop('time')} {line.pop('level'):<7} {_one_line(line.pop('event'))}"
    return head + "".join(f"  {field}={_one_line(value)}" for field, value in line.items())


def _one_line(value: object) -> str:
    """Text in which nobody can fake a second line."""
    text = str(value)
    return text if text.isprintable() else json.dumps(text)


class _FromLibraries(logging.Handler):
    """What libraries log: who, how bad, and the exception's class and place.

    The text is kept only where it is known to be a constant sentence; elsewhere it
    may quote a frame, an address or a header.
    """

    def emit(self, record: logging.LogRecord) -> None:
        template = record.msg.partition("\n")[0] if isinstance(record.msg, str) else ""
        known = record.name.partition(".")[0] in ("websockets", "asyncio") and _is_plain(template)
        name = f"{record.name}: {template}" if known else f"{record.name} has something to say"
        write = get().error if record.levelno >= logging.ERROR else get().warning
        write(name, exc_info=record.exc_info)


def _is_plain(template: str) -> bool:
    """Whether it is words only: no digits, addresses or quotes that data could hide in."""
    return re.fullmatch(r"[A-Za-z ,.'-]{1,60}", template) is not None
