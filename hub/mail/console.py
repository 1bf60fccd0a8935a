"""The mailer that prints: for trying the hub without a mail server.

It writes to the stream it is given, which is the operator's terminal and not the log.
"""

from __future__ import annotations

from typing import TextIO

from hub.mail import CodeMail, Mailer, MailFailed
from hub.mail.letter import body, subject

_RULE = "-" * 72


class ConsoleMailer:
    """Prints each mail whole."""

    def __init__(self, stream: TextIO, hub_name: str = "sync-hub") -> None:
        self._stream = stream
        self._hub_name = hub_name

    async def send(self, mail: CodeMail) -> None:
        """Returns when the stream has taken the mail."""
        text = f"{_RULE}\nTo: {mail.address}\nSubject: {subject(mail)}\n\n{body(mail, self._hub_name)}{_RULE}\n"
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream is closed
            raise MailFailed("terminal-closed", retry=True) from None


_: type[Mailer] = ConsoleMailer
