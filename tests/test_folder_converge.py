"""A small run of tests/acceptance/folder_converge.py: real processes, a cut line, a killed hub."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.folder_converge import Plan, run


async def test_two_folders_end_the_same_and_nothing_is_lost(tmp_path: Path) -> None:
    report = await run(Plan(seed=3, files=40, edits=60, kills=2, within_s=30.0), tmp_path)
    assert report.edits == 60 and report.kills == 2 and report.cut_off == 30
    assert report.words > 20
    assert report.lost == [], report
