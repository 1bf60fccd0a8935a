"""What may stand in a log line, and what can not get there."""

from __future__ import annotations

import io
import json
import logging

import pytest
import structlog

from hub import log

CANARY = "canary-4711@example.org"
DAY = 86_400.0


class Lines:
    """A log that is read as it is written."""

    def __init__(self, form="json", level="debug", key=b"k" * 32, at=100 * DAY):
        self.stream = io.StringIO()
        self.at = at
        log.set_up(form=form, level=level, key=key, stream=self.stream, now=lambda: self.at)

    @property
    def text(self):
        return self.stream.getvalue()

    def last(self):
        return json.loads(self.text.splitlines()[-1])


@pytest.fixture(autouse=True)
def logging_as_it_was():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_a_line_has_time_level_name_and_fields():
    lines = Lines()
    log.get().info("hub started", port=8080, url="http://127.0.0.1:8080")
    assert lines.last() == {
        "time": "1970-04-11T00:00:00.000Z",
        "level": "info",
        "event": "hub started",
        "port": 8080,
        "url": "http://127.0.0.1:8080",
    }


def test_text_is_one_line_a_person_can_read():
    lines = Lines(form="text")
    log.get().warning("request refused", refusal="conflict", count=3)
    assert lines.text == "1970-04-11T00:00:00.000Z warning request refused  refusal=conflict  count=3\n"


def test_a_field_that_is_not_allowed_is_dropped_and_counted():
    lines = Lines()
    log.get().info("code asked for", address=CANARY, code="12345678", count=1)
    assert CANARY not in lines.text and "12345678" not in lines.text
    assert lines.last()["count"] == 1
    assert lines.last()["dropped"] == 2


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("field", sorted(set(log.FIELDS) - {"url", "path"}))
def test_no_field_lets_an_address_a_code_or_a_key_through(form, field):
    lines = Lines(form=form)
    for canary in (CANARY, CANARY.encode(), "12345678", "1234 5678", "HUBKEY1QYQQ", "maple otter", {"a": CANARY}):
        log.get().error("something", **{field: canary})
    for canary in ("canary", "1234", "HUBKEY", "maple"):
        assert canary not in lines.text
    assert "something" in lines.text


def test_an_exception_is_shown_by_class_and_place_not_by_its_text():
    lines = Lines()
    try:
        int(CANARY)
    except ValueError as exc:
        try:
            raise RuntimeError(CANARY) from exc
        except RuntimeError:
            log.get().exception("internal fault", incident="a1b2c3")
    assert CANARY not in lines.text
    assert lines.last()["error"] == "RuntimeError"
    assert lines.last()["where"].startswith("tests/test_log.py:")
    assert lines.last()["incident"] == "a1b2c3"


def test_an_account_is_a_hash_that_holds_for_a_day():
    lines = Lines()
    account = b"\x01" * 16

    def shown():
        log.get().info("x", account=account)
        return lines.last()["account"]

    first = shown()
    lines.at += DAY - 1
    assert shown() == first
    lines.at += 1
    assert shown() != first
    assert len(first) == 12 and account.hex() not in lines.text


def test_replicas_with_the_same_key_agree_and_others_do_not():
    def shown(key):
        lines = Lines(key=key)
        log.get().info("x", device=b"\x02" * 16)
        return lines.last()["device"]

    assert shown(b"a" * 32) == shown(b"a" * 32) != shown(b"b" * 32)


@pytest.mark.parametrize(
    "ip, shown",
    [
        ("203.0.113.77", "203.0.113.0/24"),
        ("2001:db8:1234:5678::9", "2001:db8:1234::/48"),
        ("::ffff:203.0.113.77", "203.0.113.0/24"),
    ],
)
def test_a_network_address_loses_its_end(ip, shown):
    lines = Lines()
    log.get().warning("too many codes", ip=ip)
    assert lines.last()["ip"] == shown


def test_nobody_fakes_a_second_line():
    lines = Lines(form="text")
    log.get().info("x\n2026 fake", path="/a\n2026 fake")
    assert len(lines.text.splitlines()) == 1


def test_lines_below_the_level_are_not_written():
    lines = Lines(level="warning")
    log.get().info("quiet")
    log.get().warning("loud")
    assert [json.loads(line)["event"] for line in lines.text.splitlines()] == ["loud"]


def test_a_library_is_named_and_its_constant_sentence_kept():
    lines = Lines()
    try:
        raise OSError(CANARY)
    except OSError:
        logging.getLogger("websockets.server").error("connection handler failed", exc_info=True)
    assert lines.last()["event"] == "websockets.server: connection handler failed"
    assert lines.last()["error"] == "OSError"
    assert CANARY not in lines.text


@pytest.mark.parametrize(
    "logger, text, args",
    [
        ("mail.log", f"refused {CANARY}", ()),
        ("mail.log", "refused %s", (CANARY,)),
        ("mail.log", "no mailbox canary here", ()),
        ("websockets.server", f"> TEXT {CANARY}", ()),
        ("asyncio", f"Task exception was never retrieved\nfuture: {CANARY}", ()),
    ],
)
def test_what_a_library_quotes_is_not_kept(logger, text, args):
    lines = Lines()
    logging.getLogger(logger).error(text, *args)
    assert "canary" not in lines.text
    assert logger in lines.last()["event"]


def test_libraries_are_heard_from_warning_on():
    lines = Lines(level="debug")
    logging.getLogger("websockets.server").info("connection open")
    assert lines.text == ""
