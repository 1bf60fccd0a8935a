"""The SMTP mailer against a real server: it hands over, or says in our words why not."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import ssl
import traceback

import pytest

from hub.mail import CodeMail, MailFailed
from hub.mail.console import ConsoleMailer
from hub.mail.letter import body, plain_app, subject
from hub.mail.smtp import SmtpMailer
from tests.mailbox import HOST, Mailbox, trusting_context

ANNA = CodeMail("anna@example.org", "12345678", "maple otter", "org.example.notes", 10)
SECRET_WORDS = ("anna@example.org", "12345678", "1234 5678", "maple otter", "pw-of-the-hub")


def mailer_for(mailbox, **changes):
    values = {
        "security": mailbox.security,
        "sender": "Our hub <codes@hub.example>",
        "username": mailbox.username,
        "password": mailbox.password,
        "tls_context": trusting_context(),
        "deadline_s": 5.0,
    } | changes
    return SmtpMailer(HOST, mailbox.port, **values)


async def failure_of(mailer, mail=ANNA):
    with pytest.raises(MailFailed) as caught:
        await mailer.send(mail)
    shown = "".join(traceback.format_exception(caught.value))
    assert not [word for word in SECRET_WORDS if word in shown]
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value), caught.value.retry


@pytest.mark.parametrize("security", ["starttls", "tls", "none"])
async def test_a_mail_arrives_with_a_login_whatever_the_security(security):
    async with Mailbox(security, "hub", "pw-of-the-hub") as mailbox:
        await mailer_for(mailbox).send(ANNA)
        mail = await mailbox.next()
    assert (mail.sender, mail.recipient) == ("codes@hub.example", "anna@example.org")
    assert mail.code == "12345678"
    assert "maple otter" in mail.text and "10 minutes" in mail.text
    assert "1234" not in mail.message["Subject"]
    assert mail.message["Auto-Submitted"] == "auto-generated"
    assert mail.message["Message-ID"].endswith("@hub.example>")
    assert len(mailbox.mails) == 1


async def test_a_greylisted_address_may_succeed_later():
    async with Mailbox(answers={"anna@example.org": ["451 4.7.1 anna@example.org is greylisted"]}) as mailbox:
        mailer = mailer_for(mailbox)
        assert await failure_of(mailer) == ("address-refused", True)
        await mailer.send(ANNA)
        assert (await mailbox.next()).code == "12345678"
        assert mailbox.connections == 2


async def test_an_unknown_address_is_not_worth_a_second_try():
    async with Mailbox(answers={"anna@example.org": ["550 5.1.1 anna@example.org unknown"]}) as mailbox:
        assert await failure_of(mailer_for(mailbox)) == ("address-refused", False)
        assert mailbox.mails == [] and mailbox.connections == 1


async def test_a_wrong_password_is_told_apart():
    async with Mailbox("starttls", "hub", "right") as mailbox:
        assert await failure_of(mailer_for(mailbox, password="pw-of-the-hub")) == ("login-refused", False)


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_a_certificate_of_a_stranger_is_not_trusted(security):
    async with Mailbox(security) as mailbox:
        mailer = mailer_for(mailbox, tls_context=ssl.create_default_context())
        assert await failure_of(mailer) == ("certificate-not-trusted", False)
        assert mailbox.mails == []


async def test_starttls_is_demanded_not_merely_tried():
    async with Mailbox("none") as mailbox:
        assert await failure_of(mailer_for(mailbox, security="starttls")) == ("not-supported", False)
        assert mailbox.mails == []


async def test_a_server_that_is_not_there_may_come_back():
    async with Mailbox() as mailbox:
        pass
    assert await failure_of(mailer_for(mailbox)) == ("not-reached", True)


async def test_a_server_that_never_answers_is_given_up_at_the_deadline():
    open_connections = []
    server = await asyncio.start_server(lambda _, writer: open_connections.append(writer), HOST, 0)
    mailbox = Mailbox(port=server.sockets[0].getsockname()[1])
    started = asyncio.get_running_loop().time()
    assert await failure_of(mailer_for(mailbox, deadline_s=0.2)) == ("no-answer-in-time", True)
    assert asyncio.get_running_loop().time() - started < 2.0
    assert len(open_connections) == 1
    server.close()
    open_connections[0].transport.abort()
    await server.wait_closed()


async def test_a_server_that_answers_each_command_late_is_given_up_at_the_same_deadline():
    async def drag(reader, writer):
        writer.write(b"220 slow\r\n")
        with contextlib.suppress(OSError):
            while await reader.readline():
                await asyncio.sleep(0.15)  # each alone is within the deadline
                writer.write(b"250 in due course\r\n")
        writer.close()

    server = await asyncio.start_server(drag, HOST, 0)
    mailbox = Mailbox(port=server.sockets[0].getsockname()[1])
    assert await failure_of(mailer_for(mailbox, deadline_s=0.25)) == ("no-answer-in-time", True)
    server.close()
    await server.wait_closed()


async def test_a_password_never_goes_to_another_machine_in_clear():
    with pytest.raises(ValueError, match="TLS"):
        SmtpMailer("mail.example.org", 25, security="none", sender="a@b.example", username="u", password="p")


def test_the_mailer_shows_no_password():
    mailer = SmtpMailer("mail.example.org", 587, security="starttls", sender="a@b.example", password="pw-of-the-hub")
    assert "pw-of-the-hub" not in repr(mailer)


async def test_the_console_mailer_prints_the_mail_whole():
    stream = io.StringIO()
    await ConsoleMailer(stream).send(ANNA)
    assert all(part in stream.getvalue() for part in ("anna@example.org", "1234 5678", "maple otter"))


async def test_a_closed_terminal_is_a_failed_mail():
    stream = io.StringIO()
    stream.close()
    assert await failure_of(ConsoleMailer(stream)) == ("terminal-closed", True)


@pytest.mark.parametrize(
    ("app_id", "shown"),
    [
        ("notes", 'the app "notes"'),
        ("org.example.notes", 'the app "org example notes"'),
        ("http://evil.example/win", "an app"),
        ("Call 555 0100 now", "an app"),
        ("notes\r\nBcc: x@y", "an app"),
        ("n" * 40, f'the app "{"n" * 40}"'),
        ("n" * 41, "an app"),
    ],
)
def test_a_stranger_cannot_write_sentences_or_links_into_a_mail(app_id, shown):
    assert plain_app(app_id) == shown
    text = body(CodeMail("a@b.example", "12345678", "maple otter", app_id, 10), "hub")
    assert shown in text
    assert "evil" not in text and "Bcc" not in text


def test_a_mail_to_a_new_address_says_what_it_is_for():
    change = CodeMail("a@b.example", "12345678", "maple otter", "notes", 10, "change")
    assert subject(change) not in (subject(ANNA), subject(dataclasses.replace(change, purpose="confirm")))
    assert "to make this the address of an account" in body(change, "hub")
    assert "without the code nothing changes" in body(change, "hub")


def test_a_mail_that_confirms_says_so():
    confirm = CodeMail("a@b.example", "12345678", "maple otter", "notes", 10, "confirm")
    assert subject(confirm) != subject(ANNA)
    assert "delete your account" in body(confirm, "hub")


def test_a_mail_does_not_show_itself():
    assert not [word for word in SECRET_WORDS if word in repr(ANNA)]
