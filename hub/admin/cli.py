"""The command ``hub admin``: one table of commands, each a verb of ``hub.operating`` and how its result is shown.

With ``--json`` what is printed is the verb's result as it is, for programs; without,
a table for people.  An address is never an argument, since arguments stand in the
shell's history and in the list of processes: it is typed at a prompt, or comes as
one line on standard input.

0  done        1  refused or failed; a sentence says why        2  the words make no command
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from hub.commands import MISUSED, OK, fail, loaded, run

if TYPE_CHECKING:
    from hub.admin.way import Do
    from hub.config import Settings

DEFAULT, NONE, NEVER = "default", "none", "never"

Result = dict[str, Any]
Words = argparse.Namespace


def main(argv: Sequence[str]) -> int:
    """Run ``hub admin`` with these words; the exit status."""
    words = _parser().parse_args(list(argv))
    command: Command = words.the_command

    async def work(settings: Settings) -> int:
        from hub.admin.way import operating_for

        async with operating_for(settings) as do:
            return await _carried_out(command, words, do)

    settings = loaded({"data_dir": words.data_dir})
    return run(settings, work) if settings else MISUSED


async def _carried_out(command: Command, words: Words, do: Do) -> int:
    arguments = await command.arguments(words, do)
    if arguments is None:
        return fail("Nothing was changed.")
    result = await do(command.verb, arguments)
    if words.json:
        print(json.dumps(result, indent=2))
    else:
        from hub.admin import tables

        text = command.show(tables, words, result)
        if text:
            print(text)
    return OK


# --- commands --------------------------------------------------------------------------------


class Command(NamedTuple):
    """One command: its verb, where the verb's arguments come from, and how people see its result.

    ``arguments`` gives None when the person says no.
    """

    verb: str
    about: str
    arguments: Callable[[Words, Do], Awaitable[Result | None]]
    show: Callable[[Any, Words, Result], str]
    options: Callable[[argparse.ArgumentParser], object] = lambda parser: None


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print the result for programs")
    shared.add_argument("--data-dir", metavar="DIR", help="the folder the hub keeps its data in")
    parser = argparse.ArgumentParser(
        prog="hub admin", description="Operate a hub: it knows accounts by number, never by address or content."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        one = commands.add_parser(name, parents=[shared], help=command.about, description=command.about)
        command.options(one)
        one.set_defaults(the_command=command)
    operator = commands.add_parser("operator", help="who may operate this hub from the dashboard (add, list, drop)")
    below = operator.add_subparsers(required=True, metavar="COMMAND")
    for name, command in OPERATOR_COMMANDS.items():
        one = below.add_parser(name, parents=[shared], help=command.about, description=command.about)
        command.options(one)
        one.set_defaults(the_command=command)
    return parser


def _takes_account(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("account", metavar="ACCOUNT", help="its id, the first digits of it, or its billing_ref")


def _takes_paging(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--matching", default="", metavar="TEXT", help="ids that begin so, or this billing_ref")
    parser.add_argument("--after", default="", metavar="ID", help="go on after this account")
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="how many, 1 to 200 (default 50)")


def _takes_terms(parser: argparse.ArgumentParser) -> None:
    _takes_account(parser)
    parser.add_argument("--quota", metavar="MIB", type=_or(DEFAULT, _whole), help="its room in MiB, or: default")
    parser.add_argument("--plan", metavar="TEXT", help="a word of yours; the person sees it")
    parser.add_argument("--billing-ref", metavar="TEXT", help="how your billing calls the account, or: none")
    parser.add_argument(
        "--paid-until",
        metavar="DATE",
        type=_or(NEVER, _midnight),
        help="YYYY-MM-DD, from whose beginning (UTC) the default quota counts again; or: never",
    )


def _takes_deletion(parser: argparse.ArgumentParser) -> None:
    _takes_account(parser)
    parser.add_argument(
        "--now", action="store_true", help="at once, instead of after the delay in which it can be kept"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _takes_device(parser: argparse.ArgumentParser) -> None:
    _takes_account(parser)
    parser.add_argument("device", metavar="DEVICE", help="its id, or the first digits of it")


def _takes_days(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--days", type=int, default=7, metavar="N", help="how long it holds, 1 to 365 (default 7)")


def _takes_invite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("invite", metavar="INVITE", help="as `hub admin invites` names it")


# --- arguments of verbs ----------------------------------------------------------------------


async def _nothing(words: Words, do: Do) -> Result:
    return {}


async def _paging(words: Words, do: Do) -> Result:
    return {"matching": words.matching, "after": words.after, "limit": words.limit}


async def _account(words: Words, do: Do) -> Result:
    """The account that is meant.  Raises ``Refusal`` when none or several are."""
    from hub.errors import Refusal

    if re.fullmatch(r"[0-9a-f]{32}", words.account):
        return {"account_id": words.account}
    found = (await do("accounts", {"matching": words.account, "limit": 2}))["accounts"]
    if len(found) != 1:
        raise Refusal("not_found", f"{'several accounts are' if found else 'no account is'} called {words.account}")
    return {"account_id": found[0]["account_id"]}


async def _terms(words: Words, do: Do) -> Result:
    given: Result = {}
    if words.quota is not None:
        given["quota_mib"] = None if words.quota == DEFAULT else words.quota
    if words.plan is not None:
        given["plan"] = words.plan
    if words.billing_ref is not None:
        given["billing_ref"] = None if words.billing_ref == NONE else words.billing_ref
    if words.paid_until is not None:
        given["paid_until"] = None if words.paid_until == NEVER else words.paid_until
    return await _account(words, do) | given


async def _deletion(words: Words, do: Do) -> Result | None:
    which = await _account(words, do)
    when = "at once and for ever" if words.now else "after the delay, in which it can be kept"
    if not words.yes and not _agreed(f"Delete account {which['account_id']} {when}?"):
        return None
    return which | {"now": words.now}


async def _device(words: Words, do: Do) -> Result:
    from hub.errors import Refusal

    which = await _account(words, do)
    if re.fullmatch(r"[0-9a-f]{32}", words.device):
        return which | {"device_id": words.device}
    devices = [device["device_id"] for device in (await do("account", which))["device_list"]]
    found = [device_id for device_id in devices if device_id.startswith(words.device)]
    if len(found) != 1:
        raise Refusal("not_found", f"{'several devices are' if found else 'no device is'} called {words.device}")
    return which | {"device_id": found[0]}


async def _days(words: Words, do: Do) -> Result:
    return {"days": words.days}


async def _invite(words: Words, do: Do) -> Result:
    return {"invite": words.invite}


async def _address(words: Words, do: Do) -> Result:
    if sys.stdin.isatty():
        print("Address: ", end="", file=sys.stderr, flush=True)
    return {"address": sys.stdin.readline().strip()}


def _agreed(question: str) -> bool:
    print(f"{question} Type yes: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() == "yes"


def _or(word: str, parse: Callable[[str], object]) -> Callable[[str], object]:
    return lambda text: word if text == word else parse(text)


def _whole(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of MiB")
    return int(text)


def _midnight(text: str) -> float:
    try:
        day = date.fromisoformat(text) if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text) else None
    except ValueError:
        day = None
    if day is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no date; write 2027-01-31")
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


# --- the table -------------------------------------------------------------------------------

COMMANDS: dict[str, Command] = {
    "accounts": Command("accounts", "list accounts", _paging, lambda t, w, r: t.accounts(r), options=_takes_paging),
    "account": Command(
        "account",
        "show one account with its devices and spaces",
        _account,
        lambda t, w, r: t.account(r),
        _takes_account,
    ),
    "set": Command(
        "set_terms",
        "grant room, a plan, a billing reference; what is left out stays",
        _terms,
        lambda t, w, r: t.one(r),
        _takes_terms,
    ),
    "suspend": Command(
        "suspend",
        "keep an account's devices out; nothing is lost",
        _account,
        lambda t, w, r: f"Suspended {r['account_id']}. Its devices are told; its data stays.",
        _takes_account,
    ),
    "resume": Command(
        "resume",
        "let them in again",
        _account,
        lambda t, w, r: f"Resumed {r['account_id']}. Its devices come back when their persons open them.",
        _takes_account,
    ),
    "delete": Command(
        "delete", "delete an account and all it holds", _deletion, lambda t, w, r: t.deleted(r), _takes_deletion
    ),
    "keep": Command(
        "keep", "cancel a deletion that waits", _account, lambda t, w, r: "The account stays.", _takes_account
    ),
    "revoke": Command(
        "revoke",
        "end one device of an account",
        _device,
        lambda t, w, r: "Revoked. Its connection is closed.",
        _takes_device,
    ),
    "invite": Command(
        "invite", "make an invitation, for hubs with sign_up = invite", _days, lambda t, w, r: r["token"], _takes_days
    ),
    "invites": Command("invites", "list invitations", _nothing, lambda t, w, r: t.invites(r)),
    "withdraw": Command(
        "withdraw_invite", "end an unused invitation", _invite, lambda t, w, r: "Withdrawn.", _takes_invite
    ),
    "allow": Command(
        "allow",
        "let an address make an account, for hubs with sign_up = allowlist (asks for it)",
        _address,
        lambda t, w, r: "Allowed.",
    ),
    "block": Command("block", "mail an address no code (asks for it)", _address, lambda t, w, r: "Blocked."),
    "unlist": Command(
        "unlist", "take an address off the list (asks for it)", _address, lambda t, w, r: "Off the list."
    ),
    "find-account": Command(
        "find_account",
        "tell which account an address has (asks for it)",
        _address,
        lambda t, w, r: r["account_id"] or "No account has this address.",
    ),
    "insight": Command("insight", "tell what the hub notices of its own state", _nothing, lambda t, w, r: t.insight(r)),
    "stats": Command("stats", "the hub in numbers", _nothing, lambda t, w, r: t.stats(r)),
}

OPERATOR_COMMANDS: dict[str, Command] = {
    "add": Command(
        "make_operator",
        "let an account operate; prints the secret for its authenticator app",
        _account,
        lambda t, w, r: t.secret(r),
        _takes_account,
    ),
    "list": Command("operators", "list the accounts that may operate", _nothing, lambda t, w, r: t.operators(r)),
    "drop": Command(
        "drop_operator",
        "let an account operate no more",
        _account,
        lambda t, w, r: "It operates no more.",
        _takes_account,
    ),
}
