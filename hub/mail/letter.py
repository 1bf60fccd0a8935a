"""The words of the mail that carries a code, without I/O.

Whoever asks for a code chooses the address and the app's name, so a stranger must
not be able to write a sentence or a link into somebody's mailbox: of the app's
name only plain words are shown.
"""

from __future__ import annotations

import re

from hub.mail import CodeMail

APP_CHARS_MAX = 40

_PLAIN = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)


def subject(mail: CodeMail) -> str:
    """One line without the code: subjects stand in the logs of mail servers and on locked screens."""
    return _SUBJECT[mail.purpose]


def body(mail: CodeMail, hub_name: str) -> str:
    """The text of the mail."""
    return _TEXT.format(
        asked=_asked(mail),
        hub=hub_name,
        phrase=mail.phrase,
        code=f"{mail.code[:4]} {mail.code[4:]}",
        minutes=mail.minutes,
        ignore=_IGNORE[mail.purpose],
    )


def plain_app(app_id: str) -> str:
    """What of an app's name may stand in a mail: plain words, without the dots that would make them a link."""
    if not _PLAIN.fullmatch(app_id) or len(app_id) > APP_CHARS_MAX:
        return "an app"
    return 'the app "' + app_id.replace(".", " ").strip() + '"'


def _asked(mail: CodeMail) -> str:
    app = plain_app(mail.app_id)
    if mail.purpose == "confirm":
        return f"A device of yours asks, through {app}, to change or delete your account"
    if mail.purpose == "change":
        return f"Somebody asks, through {app}, to make this the address of an account"
    return f"A new device wants to sign in to your account, for {app}"


_SUBJECT = {
    "enrol": "Sign in on a new device",
    "confirm": "Confirm with a code",
    "change": "Confirm this address",
}

_IGNORE = {
    "enrol": "If you did not ask for this, do nothing: without the code nobody gets in.",
    "confirm": "If you did not ask for this, do nothing, and look at your list of devices.",
    "change": "If you did not ask for this, do nothing: without the code nothing changes.",
}

_TEXT = """{asked} ({hub}).

Go on only if its screen shows the words:  {phrase}

Your code:  {code}

It works for {minutes} minutes, on that device only. Give it to nobody, whoever asks.
{ignore}
"""
