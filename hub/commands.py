"""What the commands of ``hub`` share: settings from the environment, one run of asynchronous work, exit statuses."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

if TYPE_CHECKING:
    from hub.config import Settings

OK, FAILED, MISUSED = 0, 1, 2


def loaded(overrides: Mapping[str, object] | None = None) -> Settings | None:
    """The settings, or None after telling every fault; then end with ``MISUSED``.

    ``overrides`` are the command line's, by field name; None means not given.
    """
    from hub.config import load

    settings, faults = load(os.environ, None, overrides)
    for fault in faults:
        print(fault, file=sys.stderr)
    return None if faults else settings


def run(
    settings: Settings,
    work: Callable[[Settings], Coroutine[object, object, int]],
    *,
    new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> int:
    """The exit status of ``work(settings)``; what is wrong with keys, database or files is told in a sentence.

    ``new_loop`` makes the loop it runs on; None is the standard library's.
    """
    import secrets

    from hub import log
    from hub.errors import Refusal, StoreUnavailable
    from hub.keepers import BadSetting
    from hub.secrets import BadSecrets
    from hub.store import SchemaTooNew, SchemaTooOld

    # What a command prints is its answer: nothing else may stand there, and only what is wrong beside it.
    quiet = "error" if settings.log_level == "error" else "warning"
    log.set_up(form=settings.log_format, level=quiet, key=secrets.token_bytes(32), stream=cast(TextIO, _Stderr()))
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(work(settings))
    except (BadSecrets, BadSetting, SchemaTooNew, SchemaTooOld, StoreUnavailable, Refusal) as exc:
        return fail(str(exc))
    except OSError as exc:
        where = exc.filename or f"{settings.host}:{settings.port}"
        return fail(f"{where}: {exc.strerror or exc}")
    except KeyboardInterrupt:
        return FAILED


class _Stderr(io.TextIOBase):
    """What standard error is when a line is written: the log outlives this command where a program runs several."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def fail(sentence: str, status: int = FAILED) -> int:
    """Tell what is wrong; the exit status to end with."""
    print(sentence, file=sys.stderr)
    return status


def own_name() -> str:
    """What a person types in this folder to reach this very program."""
    import shutil

    program = Path(sys.argv[0])
    if program.name != "hub":
        return f"{sys.executable} -m hub"
    return "hub" if shutil.which("hub") == str(program.absolute()) else os.path.relpath(program)
