"""Results of the operator's verbs as people read them in a terminal; from data to text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import segno

MIB = 1_048_576
EPOCH = date(1970, 1, 1).toordinal()

Result = dict[str, Any]


def accounts(result: Result) -> str:
    """A line an account."""
    if not result["accounts"]:
        return "No account."
    rows = [
        (
            account["account_id"],
            f"{_mib(account['used_bytes'])} of {_mib(account['quota_bytes'])}",
            str(account["devices"]),
            str(account["spaces"]),
            _day(account["last_seen_day"]),
            account["plan"] or "-",
            account["billing_ref"] or "-",
            _state(account),
        )
        for account in result["accounts"]
    ]
    text = table(("account", "MiB", "devices", "spaces", "last seen", "plan", "billing_ref", "state"), rows)
    if result["more"]:
        text += f"\nMore: --after {result['accounts'][-1]['account_id']}"
    return text


def one(account: Result) -> str:
    """An account, a line a fact."""
    own = account["own_quota_bytes"]
    return _facts(
        [
            ("account", account["account_id"]),
            ("state", _state(account)),
            ("since", _day(account["created_day"])),
            ("last seen", _day(account["last_seen_day"])),
            ("used", f"{_mib(account['used_bytes'])} MiB of {_mib(account['quota_bytes'])} MiB"),
            ("own quota", "-" if own is None else f"{_mib(own)} MiB"),
            ("plan", account["plan"] or "-"),
            ("billing_ref", account["billing_ref"] or "-"),
            ("paid until", "-" if account["paid_until"] is None else _date(account["paid_until"])),
            ("devices", str(account["devices"])),
            ("spaces", str(account["spaces"])),
        ]
    )


def account(result: Result) -> str:
    """An account with its devices and spaces."""
    devices = [
        (
            device["device_id"],
            device["app_id"],
            device["scope"],
            device["enrolled_via"],
            _date(device["enrolled_at"]),
            _day(device["last_seen_day"]),
            "-" if device["probation_until"] is None else _date(device["probation_until"]),
        )
        for device in result["device_list"]
    ]
    spaces = [
        (
            space["space_id"],
            space["app_id"],
            _mib(space["used_bytes"]),
            str(space["collections"]),
            str(space["changes"]),
            _date(space["last_change_at"]) if space["last_change_at"] else "-",
            "-" if space["deleted_at"] is None else _date(space["deleted_at"]),
        )
        for space in result["space_list"]
    ]
    parts = [one(result)]
    if devices:
        parts.append(table(("device", "app", "scope", "via", "since", "last seen", "probation until"), devices))
    if spaces:
        parts.append(table(("space", "app", "MiB", "collections", "changes", "last change", "goes on"), spaces))
    return "\n\n".join(parts)


def deleted(result: Result) -> str:
    """What became of a deletion."""
    if not result["deleted_at"]:
        return "Deleted: no row of it is left."
    return f"It will be deleted on {_minute(result['deleted_at'])}; until then: hub admin keep ACCOUNT"


def invites(result: Result) -> str:
    """A line an invitation."""
    if not result["invites"]:
        return "No invitation."
    rows = [
        (
            invite["invite"],
            _minute(invite["expires_at"]),
            "-" if invite["used_at"] is None else _minute(invite["used_at"]),
        )
        for invite in result["invites"]
    ]
    return table(("invite", "until", "used"), rows)


def insight(result: Result) -> str:
    """A line a finding."""
    signs = {"warn": "!", "note": "-"}
    lines = [f"{signs[finding['weight']]} {finding['sentence']}" for finding in result["findings"]]
    return "\n".join(lines) or "Nothing to tell: all is well as far as a blind hub can see."


def stats(result: Result) -> str:
    """A line a number."""
    backup = result["last_backup_at"]
    sessions = result["sessions"]
    return _facts(
        [
            ("version", result["version"]),
            ("sign-up", result["sign_up"]),
            ("accounts", f"{result['accounts']} ({result['suspended']} suspended)"),
            ("operators", str(result["operators"])),
            ("devices", str(result["devices"])),
            ("connected", "not known here" if sessions is None else str(sessions)),
            ("spaces", str(result["spaces"])),
            ("collections", str(result["collections"])),
            ("used", f"{_mib(result['used_bytes'])} MiB"),
            ("quota", f"{_mib(result['quota_bytes'])} MiB an account"),
            ("listed", f"{result['allowed']} allowed, {result['blocked']} blocked"),
            ("last backup", "none" if backup is None else _minute(backup)),
        ]
    )


def operators(result: Result) -> str:
    """A line an operator."""
    if not result["operators"]:
        return "No account operates; add one with: hub admin operator add ACCOUNT"
    return table(
        ("account", "since"), [(operator["account_id"], _date(operator["since"])) for operator in result["operators"]]
    )


def secret(result: Result) -> str:
    """The secret as an authenticator app scans it, and as a person types it."""
    picture = io.StringIO()
    segno.make(result["uri"], error="l").terminal(picture, border=2, compact=True)
    return (
        f"{picture.getvalue()}\n{result['uri']}\n\n"
        f"Scan this with an authenticator app, or type the secret: {_in_fours(result['secret'])}\n"
        "It is shown this once. Then open the hub's dashboard, sign in, and enter the six digits."
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be, two spaces apart."""
    wide = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, wide, strict=True)).rstrip() for row in (head, *rows)
    ]
    return "\n".join(lines)


def _facts(rows: Sequence[tuple[str, str]]) -> str:
    wide = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{wide}}  {value}" for name, value in rows)


def _state(account: Result) -> str:
    states = []
    if account["suspended_at"] is not None:
        states.append(f"suspended since {_date(account['suspended_at'])}")
    if account["deleted_at"] is not None:
        states.append(f"goes on {_date(account['deleted_at'])}")
    if account["moving_to"]:
        states.append("arriving" if account["moving_to"] == "*" else f"moving to {account['moving_to']}")
    if not account["address_known"]:
        states.append("no address yet")
    if account["operator"]:
        states.append("operator")
    return ", ".join(states) or "active"


def _mib(count: int) -> str:
    return f"{count / MIB:,.1f}".removesuffix(".0")


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def _minute(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _day(day: int) -> str:
    return date.fromordinal(EPOCH + day).isoformat() if day else "never"


def _in_fours(text: str) -> str:
    return " ".join(text[at : at + 4] for at in range(0, len(text), 4))
