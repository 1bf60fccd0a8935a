"""Progress: a bar on a terminal, few plain lines elsewhere, nothing for short work."""

from __future__ import annotations

import io

from hub.folder.progress import TOLD_EVERY_S, Progress


def test_short_work_shows_nothing() -> None:
    stream = io.StringIO()
    progress = Progress(stream, tty=True)
    progress.update(0, 10, 0.0)
    progress.update(9, 1, 0.4)
    progress.update(10, 0, 0.45)
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar_that_goes_away() -> None:
    stream = io.StringIO()
    progress = Progress(stream, tty=True)
    progress.update(0, 1_000, 0.0)
    progress.update(500, 500, 1.0)
    assert stream.getvalue().endswith("[############............]  50 %  500 of 1,000")
    progress.line("a line")
    assert stream.getvalue().rpartition("\r")[2] == "a line\n"


def test_a_pipe_gets_a_plain_line_now_and_then() -> None:
    stream = io.StringIO()
    progress = Progress(stream, tty=False)
    for tenth in range(200):
        progress.update(tenth, 200 - tenth, tenth / 10)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 20 / TOLD_EVERY_S
    assert lines[0] == "Syncing: 2 %  5 of 200" and "\r" not in stream.getvalue()


def test_new_work_begins_anew() -> None:
    stream = io.StringIO()
    progress = Progress(stream, tty=False)
    progress.update(1, 1, 0.0)
    progress.update(2, 0, 1.0)
    progress.update(0, 4, 2.0)
    assert stream.getvalue() == ""
    progress.update(1, 3, 2.6)
    assert stream.getvalue() == "Syncing: 25 %  1 of 4\n"
