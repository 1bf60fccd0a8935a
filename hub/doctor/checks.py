"""All checks in the order in which one thing needs another; a check that fails itself is told and stops no other."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable, Callable

from hub import __version__
from hub.doctor import inside, outside
from hub.doctor.patient import Patient
from hub.doctor.report import Finding, Shown, warn
from hub.secrets import Secrets
from hub.store.look import Look

Progress = Callable[[str], None]


async def examine(
    patient: Patient,
    *,
    inside_only: bool = False,
    idle_s: float = 0.0,
    test_to: str = "",
    progress: Progress = lambda about: None,
) -> list[Finding]:
    """Every finding.  Changes nothing; takes seconds, and ``idle_s`` more for each address when that is given.

    ``inside_only`` dials no public address; ``test_to`` is mailed a test letter;
    ``progress`` hears what is looked at next.
    """
    settings = patient.settings
    found = inside.of_settings(patient)
    progress("disk, database and keys")
    found += await _guarded("disk", asyncio.to_thread(inside.of_disk, settings))
    look: Look | None = None
    keys: Secrets | None = None
    try:
        of_database, look = await inside.of_database(settings)
        of_keys, keys = inside.of_keys(patient, look)
        found += [*of_database, *of_keys, *inside.of_backup(patient, look)]
    except Exception as exc:
        found.append(_broken("database", exc))
    progress("Redis and mail server")
    found += await _guarded("redis", inside.of_redis(settings, keys))
    found += await _guarded("mail", inside.of_mail(patient, test_to))
    progress("the hub on this machine")
    found += await _guarded("hub", outside.of_here(patient))
    found += outside.of_forwarding(patient)
    if not inside_only:
        for url in settings.public_urls:
            progress(f"the way in at {url}")
            found += await _guarded("way in", outside.of_way(patient, url, keys, idle_s=idle_s))
    return found


async def _guarded(name: str, work: Awaitable[list[Finding]]) -> list[Finding]:
    try:
        return await work
    except Exception as exc:  # of any kind: whoever asks a doctor has trouble enough
        return [_broken(name, exc)]


def _broken(name: str, exc: Exception) -> Finding:
    what = "this check itself failed ({kind}); please report it."
    return warn(name, what, kind=Shown(type(exc).__name__))


def versions() -> dict[str, str]:
    """What runs here, for the text for strangers."""
    return {"sync-hub": __version__, "Python": platform.python_version(), platform.system() or "system": _kernel()}


def _kernel() -> str:
    # Only numbers: a kernel's full name may carry a host's.
    return ".".join(part for part in platform.release().split("-")[0].split(".")[:2] if part.isdecimal()) or "?"
