"""What an operator watches a hub with: every number is real, and what reads them names only real ones."""

from __future__ import annotations

import asyncio
import configparser
import dataclasses
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from hub.bus import NoticesLost
from hub.bus.redis import RedisBus
from hub.config import Settings, load
from hub.metrics import Histogram, Metrics
from hub.operating import LAST_BACKUP
from hub.running import upkeep
from tests.hub_rig import Wire, hub_in

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text("utf-8"))
RULES = [rule for group in YAML(typ="safe").load(DEPLOY / "alerts.yaml")["groups"] for rule in group["rules"]]
FUNCTIONS = {
    "absent", "by", "changes", "histogram_quantile", "increase", "label_values", "on", "rate", "sum", "time", "and",
}  # fmt: skip


# --- what the files name ---------------------------------------------------------------------


def samples() -> dict[str, set[frozenset[tuple[str, str]]]]:
    """Name of a sample -> the sets of labels it comes with."""
    found: dict[str, set[frozenset[tuple[str, str]]]] = {}
    for line in Metrics().render().splitlines():
        if not line.startswith("#"):
            name, labels = re.match(r"([a-z_]+)(?:\{(.*)\})? ", line).groups()
            found.setdefault(name, set()).add(frozenset(re.findall(r'(\w+)="([^"]*)"', labels or "")))
    return found


def panels() -> list[dict]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    return [rule["expr"] for rule in RULES] + [target["expr"] for panel in panels() for target in panel["targets"]]


@pytest.mark.parametrize("expression", expressions())
def test_every_number_that_is_watched_is_one_that_a_hub_gives(expression):
    known = samples()
    named = re.findall(r"\b(hub_[a-z_]+)\b(?:\{([^}]*)\})?", expression)
    assert named
    for name, selector in named:
        assert name in known, name
        for label, operator, value in re.findall(r'(\w+)(=~?)"([^"]*)"', selector):
            if label != "instance":
                assert operator == "=" and any((label, value) in labels for labels in known[name]), (name, label, value)


@pytest.mark.parametrize("expression", expressions())
def test_every_expression_has_the_shape_of_one(expression):
    bare = re.sub(r'"[^"]*"', "", expression)
    for opening, closing in ("()", "[]", "{}"):
        assert bare.count(opening) == bare.count(closing), expression
    words = set(re.findall(r"[a-z_]+", re.sub(r"\{[^}]*\}|\[[^]]*\]|by \([^)]*\)|on \([^)]*\)", " ", bare)))
    assert {word for word in words if not word.startswith("hub_")} <= FUNCTIONS, expression
    # A counter alone says when the process was started, and little else.
    for name in re.findall(r"(hub_[a-z_]+_(?:total|bucket|sum|count))\b", bare):
        assert re.search(rf"(rate|increase)\({name}|sum by \(instance\) \({name}\) > 0", bare), expression


def test_the_dashboard_shows_every_number():
    shown = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    missing = [
        metric.name
        for metric in Metrics().all()
        if not re.search(rf"\b{metric.name}{'_bucket' if isinstance(metric, Histogram) else ''}\b", shown)
    ]
    assert missing == []


def test_no_panel_lies_on_another_and_each_has_its_own_number():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(numbers) == len(set(numbers))


def test_every_panel_has_a_title_a_unit_and_the_chosen_source():
    assert DASHBOARD["uid"] == "sync-hub" and {"source", "instance"} == {
        variable["name"] for variable in DASHBOARD["templating"]["list"]
    }
    for panel in panels():
        assert panel["title"] and panel["description"].endswith("."), panel
        assert panel["datasource"]["uid"] == "${source}"
        assert panel["fieldConfig"]["defaults"]["unit"]


def test_every_rule_says_how_bad_it_is_and_what_to_do():
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names)) > 10
    for rule in RULES:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule
        assert re.fullmatch(r"[A-Z][A-Za-z]+", rule["alert"])
        assert re.fullmatch(r"\d+[smhd]", rule.get("for", "0s")), rule
        assert rule["labels"]["weight"] in ("page", "ticket", "note"), rule
        assert set(rule["annotations"]) == {"summary", "action"} and rule["annotations"]["summary"].endswith(".")


# --- the numbers -----------------------------------------------------------------------------


async def test_a_change_on_its_way_is_counted_and_timed(tmp_path):
    async with hub_in(tmp_path) as place:
        numbers = place.hub.metrics
        device = Wire(place.url)
        await device.sign_up(place.mailbox, "ada@example.org")
        await device.make_space()
        await device.append(device.draft(), device.draft())
        await device.follow()
        await device.changes(2)
        assert numbers.recoveries.get("from_start") == 1
        assert numbers.behind.get() == (1, 2.0)
        # What was there before is catching up, and no measure of how quick the hub is.
        assert numbers.delivery_seconds.get()[0] == 0
        await device.append(device.draft())
        await device.changes(1)
        count, seconds = numbers.delivery_seconds.get()
        assert count == 1 and 0.0 <= seconds < 5.0


async def test_a_cursor_that_still_counts_is_told_from_one_of_an_earlier_life(tmp_path):
    async with hub_in(tmp_path) as place:
        numbers = place.hub.metrics
        device = Wire(place.url)
        await device.sign_up(place.mailbox, "ada@example.org")
        await device.make_space()
        await device.append(device.draft(), device.draft(), device.draft())
        await device.follow(2)
        assert numbers.recoveries.get("kept") == 1
        assert numbers.behind.get() == (1, 1.0)
        device.incarnation = b"e" * 16
        await device.follow(2)
        assert numbers.recoveries.get("new_incarnation") == 1
        assert numbers.behind.get() == (2, 4.0)


async def test_disk_and_backup_are_told(tmp_path):
    made_at = time.time() - 60
    async with hub_in(tmp_path, metrics="on") as place:
        numbers = place.hub.metrics
        assert numbers.last_backup.get() == 0
        await place.hub.store.remember(LAST_BACKUP, str(made_at).encode())
        await upkeep(place.hub, dataclasses.replace(Settings(), data_dir=tmp_path))
        assert numbers.last_backup.get() == made_at
        assert numbers.disk_free.get() == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)


async def test_how_long_redis_takes_is_told(one_redis_url):
    took: list[float] = []
    bus = RedisBus(one_redis_url, b"k" * 32, took=took.extend)
    await bus.open()
    try:
        bus.publish(b"a" * 16, NoticesLost())
        async with asyncio.timeout(5.0):
            while not took:
                await asyncio.sleep(0.005)
    finally:
        await bus.close()
    assert len(took) == 1 and 0.0 < took[0] < 5.0


# --- the service -----------------------------------------------------------------------------


def unit(name: str) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read(DEPLOY / name, "utf-8")
    return parsed


def test_the_service_stops_later_than_a_hub_needs_to_send_its_devices_away():
    service = unit("sync-hub.service")["Service"]
    assert int(service["TimeoutStopSec"]) >= Settings().drain_s + 10


def test_the_service_may_do_little():
    for name in ("sync-hub.service", "sync-hub-backup.service"):
        service = unit(name)["Service"]
        assert service["User"] == "sync-hub" and service["CapabilityBoundingSet"] == ""
        for setting in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices", "ProtectKernelTunables"):
            assert service[setting] == "true", setting
        assert service["ProtectSystem"] == "strict" and service["UMask"] == "0077"


def test_the_service_names_settings_that_exist():
    for name in ("sync-hub.service", "sync-hub-backup.service"):
        words = unit(name)["Service"]["Environment"].split()
        given = dict(word.split("=", 1) for word in words)
        assert given.pop("HUB_CONFIG") == "/etc/sync-hub.toml"
        assert load(given).faults == []


def test_the_backup_runs_every_night():
    assert unit("sync-hub-backup.timer")["Timer"]["Persistent"] == "true"
    assert unit("sync-hub-backup.service")["Service"]["ExecStart"].split()[1] == "backup"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not on this machine")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path):
    for path in DEPLOY.glob("sync-hub*"):
        # The program it names is not there; everything else is taken as it stands.
        (tmp_path / path.name).write_text(path.read_text("utf-8").replace("/opt/sync-hub/bin/hub", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", *sorted(map(str, tmp_path.iterdir()))],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0 and str(tmp_path) not in done.stderr, done.stderr
