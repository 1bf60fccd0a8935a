"""The command as a person or a script runs it: signing in, exit statuses, undo, and a process that is killed."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from time import perf_counter

import pytest

from hub.client.connection import canonical_url
from hub.client.keycode import key_code
from hub.client.pairing import pairing_code
from hub.folder.cli import _time, main
from hub.folder.command import ALARMED, FAILED, MISUSED, NOT_IN_TIME, NOT_SIGNED_IN, OK
from hub.folder.files import CHUNK_BYTES
from hub.folder.home import Home
from hub.folder.login import wrong_words
from hub.running import RunningHub
from tests.folder_rig import ADDRESS, Device, Terminal, command_line, newest_code, same, serving, signed_in, until


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[tuple[RunningHub, Terminal]]:
    async with serving(tmp_path) as served:
        yield served


async def process(*words: str, stdin: bytes = b"") -> tuple[int, str]:
    """Run ``hub folder`` as a process; its exit status and all it said."""
    child = await asyncio.create_subprocess_exec(
        *command_line(*words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await child.communicate(stdin)
    assert child.returncode is not None
    return child.returncode, said.decode()


def once(device: Device, *more: str) -> tuple[str, ...]:
    return (str(device.root), "--home", str(device.home), "--once", "--timeout", "15", *more)


# --- signing in ------------------------------------------------------------------------------


async def test_the_first_device_makes_the_key_and_shows_it(
    tmp_path: Path, hub: tuple[RunningHub, Terminal], capsys: pytest.CaptureFixture[str]
) -> None:
    device = Device(tmp_path, "attic")
    assert await device.login(hub[0].url, hub[1], "--key-out", str(device.key_file)) == OK
    said = capsys.readouterr().out
    code = device.key_file.read_text().strip()
    assert code in said.replace(" ", "") and "KEEP IT" in said and "▀" in said
    assert device.key_file.stat().st_mode & 0o777 == 0o600
    assert (device.home / "client.sqlite").stat().st_mode & 0o077 == 0
    assert ADDRESS.encode() not in b"".join(p.read_bytes() for p in device.home.rglob("*") if p.is_file())
    capsys.readouterr()
    assert await device.command("key") == OK
    assert code in capsys.readouterr().out.replace(" ", "")


async def test_the_phrase_of_the_mail_is_shown_before_the_code_is_asked_for(
    tmp_path: Path, hub: tuple[RunningHub, Terminal], capsys: pytest.CaptureFixture[str]
) -> None:
    await Device(tmp_path, "attic").login(hub[0].url, hub[1])
    said = capsys.readouterr().out
    phrase = said.split("these words: ")[1].splitlines()[0]
    assert phrase and phrase in hub[1].getvalue()


async def test_a_second_device_without_the_key_is_told_what_it_needs_and_makes_none(
    tmp_path: Path,
    hub: tuple[RunningHub, Terminal],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    (attic,) = await signed_in(tmp_path, *hub, "attic")
    cellar = Device(tmp_path, "cellar")
    assert await cellar.login(hub[0].url, hub[1]) == NOT_SIGNED_IN
    assert "--key CODE" in capsys.readouterr().err
    assert await cellar.command("key") == NOT_SIGNED_IN
    # No second code is needed: the device is known by now, only the key was missing.
    assert await cellar.login(hub[0].url, hub[1], "--key", f"@{_key_of(attic, tmp_path)}") == OK
    assert hub[1].getvalue().count("Your code:") == 2


async def test_a_wrong_key_is_refused_precisely_and_nothing_is_made(
    tmp_path: Path, hub: tuple[RunningHub, Terminal], capsys: pytest.CaptureFixture[str]
) -> None:
    (attic,) = await signed_in(tmp_path, *hub, "attic")
    cellar = Device(tmp_path, "cellar")
    assert await cellar.login(hub[0].url, hub[1], "--key", key_code(bytes(31) + b"\x01", 0)) == FAILED
    assert "does not open the files of this account" in capsys.readouterr().err
    assert await cellar.command("key") == NOT_SIGNED_IN
    right = _key_of(attic, tmp_path).read_text().strip()
    typo = right[:-1] + ("Q" if right[-1] != "Q" else "P")
    assert await cellar.command("login", "--hub", hub[0].url, "--email", ADDRESS, "--key", typo) == FAILED
    assert "compare it with the original" in capsys.readouterr().err
    assert await cellar.login(hub[0].url, hub[1], "--key", right.lower()) == OK
    assert await cellar.login(hub[0].url, hub[1], "--key", key_code(bytes(32), 0)) == FAILED
    assert "has another key already" in capsys.readouterr().err


# --- pairing ---


async def said_code(capsys: pytest.CaptureFixture[str], said: list[str]) -> str:
    """The pairing code among what was printed; ``said`` gathers all of it."""

    def found() -> list[str]:
        said.append(capsys.readouterr().out)
        return re.findall(r"HUBPAIR1[A-Z0-9]+/\S+", "".join(said))

    await until(lambda: bool(found()))
    return found()[-1]


async def said_digits(capsys: pytest.CaptureFixture[str], said: list[str]) -> str:
    """The six digits among what was printed."""

    def found() -> list[str]:
        said.append(capsys.readouterr().out)
        return re.findall(r"six digits on .*: ([0-9]{3} [0-9]{3})", "".join(said))

    await until(lambda: bool(found()))
    return found()[-1]


async def paired(
    attic: Device, cellar: Device, hub_url: str, shown_by: str, capsys: pytest.CaptureFixture[str], answer: str = ""
) -> tuple[int, int, str]:
    """Pair as a person at two terminals; both exit statuses, and all that was said."""
    said: list[str] = []
    digits = cellar.home.with_suffix(".digits")
    digits.unlink(missing_ok=True)
    if shown_by == "attic":
        old = asyncio.create_task(attic.command("pair", "--code-from", str(digits)))
        code = await said_code(capsys, said)
        new = asyncio.create_task(cellar.command("login", "--pair", code, "--device-name", "cellar"))
    else:
        words = ("login", "--hub", hub_url, "--pair", "--code-from", str(digits), "--device-name", "cellar")
        new = asyncio.create_task(cellar.command(*words))
        code = await said_code(capsys, said)
        old = asyncio.create_task(attic.command("pair", code))
    shown = await said_digits(capsys, said)
    digits.write_text((answer or shown) + "\n")
    statuses = await old, await new
    left = capsys.readouterr()
    return *statuses, "".join(said) + left.out + left.err


@pytest.mark.parametrize("shown_by", ["attic", "cellar"])
async def test_a_device_is_added_at_one_scan_without_mail_or_key_code(
    tmp_path: Path, hub: tuple[RunningHub, Terminal], capsys: pytest.CaptureFixture[str], shown_by: str
) -> None:
    (attic,) = await signed_in(tmp_path, *hub, "attic")
    attic.write("a.txt", "from attic")
    await attic.once()
    cellar = Device(tmp_path, "cellar")
    capsys.readouterr()
    old, new, said = await paired(attic, cellar, hub[0].url, shown_by, capsys)
    assert (old, new) == (OK, OK), said
    assert 'Added "cellar".' in said and "This device was added." in said and "▀" in said
    assert hub[1].getvalue().count("Your code:") == 1  # the mail of the first device, no other
    assert (await asyncio.to_thread(main, ["key", "--home", str(cellar.home)])) == OK
    await cellar.once()
    assert cellar.tree() == {"a.txt": b"from attic"}
    assert await cellar.command("login", "--hub", hub[0].url, "--pair") == OK  # twice changes nothing


@pytest.mark.parametrize("shown_by", ["attic", "cellar"])
async def test_wrong_digits_add_nobody(
    tmp_path: Path, hub: tuple[RunningHub, Terminal], capsys: pytest.CaptureFixture[str], shown_by: str
) -> None:
    (attic,) = await signed_in(tmp_path, *hub, "attic")
    cellar = Device(tmp_path, "cellar")
    capsys.readouterr()
    old, new, said = await paired(attic, cellar, hub[0].url, shown_by, capsys, answer="12345")
    assert (old, new) == (FAILED, FAILED), said
    assert "not the six digits" in said and "was cancelled" in said
    assert await cellar.command("key") == NOT_SIGNED_IN


async def test_a_name_with_tricks_does_not_move_the_cursor(
    tmp_path: Path, hub: tuple[RunningHub, Terminal], capsys: pytest.CaptureFixture[str]
) -> None:
    (attic,) = await signed_in(tmp_path, *hub, "attic")
    said: list[str] = []
    capsys.readouterr()
    digits = tmp_path / "digits"
    old = asyncio.create_task(attic.command("pair", "--code-from", str(digits)))
    code = await said_code(capsys, said)
    words = ("login", "--pair", code, "--device-name", "\x1b[2Jcellar")
    new = asyncio.create_task(Device(tmp_path, "cellar").command(*words))
    digits.write_text(await said_digits(capsys, said))
    assert (await old, await new) == (OK, OK)
    everything = "".join(said) + capsys.readouterr().out
    assert "\x1b" not in everything and "\\x1b[2Jcellar" in everything


async def test_pairing_beside_a_running_folder_says_what_to_do(
    tmp_path: Path, hub: tuple[RunningHub, Terminal], capsys: pytest.CaptureFixture[str]
) -> None:
    (attic,) = await signed_in(tmp_path, *hub, "attic")
    with Home(attic.home).locked():
        assert await attic.command("pair") == FAILED
    assert "stop it while you add" in capsys.readouterr().err
    assert await Device(tmp_path, "cellar").command("pair") == NOT_SIGNED_IN


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--email", ADDRESS), "which hub?"),
        (("--hub", "http://127.0.0.1:1"), "with --email ADDRESS, or with --pair"),
        (("--hub", "http://127.0.0.1:1", "--email", ADDRESS, "--pair"), "with --email ADDRESS, or with --pair"),
        (("--pair",), "which hub?"),
        (("--pair", "HUBPAIR1QQ"), "too few characters"),
        (("--pair", "HUBKEY1QQ"), "begins with HUBPAIR1"),
    ],
)
def test_login_by_pairing_says_which_words_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["login", "--home", str(tmp_path / "home"), *words])
    assert ended.value.code == MISUSED and sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("wss://hub.example.org/v1/ws", "https://hub.example.org"),
        ("wss://hub.example.org:8443/v1/ws", "https://hub.example.org:8443"),
        ("ws://127.0.0.1:8080/v1/ws", "http://127.0.0.1:8080"),
        ("ws://localhost/v1/ws", "http://localhost"),
        ("ws://[::1]:8080/v1/ws", "http://[::1]:8080"),
    ],
)
def test_a_scanned_code_tells_where_the_hub_is(host: str, url: str) -> None:
    code = pairing_code(b"p" * 32, b"s" * 32, host, has_key=True)
    options = argparse.Namespace(email=None, pair=code, hub=None)
    assert wrong_words(options) == "" and options.hub == url and canonical_url(url) == host


async def test_a_wrong_code_signs_nobody_in(
    tmp_path: Path, hub: tuple[RunningHub, Terminal], capsys: pytest.CaptureFixture[str]
) -> None:
    device = Device(tmp_path, "attic")
    wrong = tmp_path / "wrong"
    wrong.write_text("0000 0000\n")
    words = ("login", "--hub", hub[0].url, "--email", ADDRESS, "--code-from", str(wrong))
    assert await device.command(*words) == FAILED
    assert "code is wrong" in capsys.readouterr().err
    assert await device.command("key") == NOT_SIGNED_IN


async def test_a_code_can_be_piped_in(tmp_path: Path, hub: tuple[RunningHub, Terminal]) -> None:
    device = Device(tmp_path, "attic")
    words = command_line("login", "--home", str(device.home), "--hub", hub[0].url, "--email", ADDRESS)
    child = await asyncio.create_subprocess_exec(
        *words, "--code-from", "-", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    await until(lambda: "Your code:" in hub[1].getvalue())
    await child.communicate(newest_code(hub[1].getvalue()).encode() + b"\n")
    assert child.returncode == OK


def _key_of(device: Device, tmp_path: Path) -> Path:
    return device.key_file


# --- exit statuses ---------------------------------------------------------------------------


async def test_once_syncs_and_ends(tmp_path: Path, hub: tuple[RunningHub, Terminal]) -> None:
    attic, cellar = await signed_in(tmp_path, *hub, "attic", "cellar")
    attic.write("a/b", "content of nobody's business")
    attic.write("large", os.urandom(CHUNK_BYTES * 3))
    for device in (attic, cellar):
        status, said = await process(*once(device))
        assert status == OK, said
        assert "nobody's business" not in said and "a/b" not in said
    assert await same(attic, cellar) == attic.tree()
    assert len(cellar.tree()) == 2


async def test_once_without_signing_in(tmp_path: Path) -> None:
    device = Device(tmp_path, "attic")
    status, said = await process(*once(device))
    assert status == NOT_SIGNED_IN and "hub folder login" in said


async def test_once_without_a_hub_ends_in_time(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        (attic,) = await signed_in(tmp_path, *served, "attic")
    attic.write("a", "1")
    status, said = await process(*once(attic), "--timeout", "1")
    assert status == NOT_IN_TIME and "Not in step within 1 s" in said
    assert attic.tree() == {"a": b"1"}


async def test_a_hub_that_goes_back_in_time_raises_the_alarm(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        port = served[0].port
        (attic,) = await signed_in(tmp_path, *served, "attic")
        attic.write("a", "1")
        assert (await process(*once(attic)))[0] == OK
    shutil.copytree(tmp_path / "hub", tmp_path / "older")
    async with serving(tmp_path, port):
        attic.write("a", "2")
        assert (await process(*once(attic)))[0] == OK
    shutil.rmtree(tmp_path / "hub")
    (tmp_path / "older").rename(tmp_path / "hub")
    async with serving(tmp_path, port):
        begun = perf_counter()
        status, said = await process(*once(attic))
        assert status == ALARMED and "ALARM: rollback" in said, said
        assert perf_counter() - begun < 10, "an alarm ends it, not the timeout"
        status, said = await process("status", "--home", str(attic.home))
        assert status == ALARMED and "rollback" in said
    assert attic.tree() == {"a": b"2"}


async def test_words_that_make_no_command() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["login"])
    assert ended.value.code == MISUSED


async def test_two_processes_do_not_share_a_home(tmp_path: Path, hub: tuple[RunningHub, Terminal]) -> None:
    (attic,) = await signed_in(tmp_path, *hub, "attic")
    with Home(attic.home).locked():
        status, said = await process(*once(attic))
    assert status == FAILED and "another hub folder is running" in said


# --- a running folder ------------------------------------------------------------------------


async def test_a_live_folder_tells_its_state_and_ends_cleanly_when_told(
    tmp_path: Path, hub: tuple[RunningHub, Terminal]
) -> None:
    attic, cellar = await signed_in(tmp_path, *hub, "attic", "cellar")
    async with live(attic) as child, cellar.syncing():
        attic.write("a", "1")
        await until(lambda: cellar.tree() == {"a": b"1"})
        cellar.write("a", "2")
        await until(lambda: attic.tree() == {"a": b"2"})
        status, said = await process("status", "--home", str(attic.home))
        assert status == OK and str(attic.root) in said and str(child.pid) in said
        child.send_signal(signal.SIGTERM)
        assert await child.wait() == OK
    status, said = await process("status", "--home", str(attic.home))
    assert status == OK and "running    no" in said and "unsent     0" in said


async def test_a_process_killed_in_the_middle_loses_nothing(tmp_path: Path, hub: tuple[RunningHub, Terminal]) -> None:
    attic, cellar = await signed_in(tmp_path, *hub, "attic", "cellar")
    for n in range(150):
        attic.write(f"{n % 7}/{n}", f"content {n}\n" * 20)
    attic.write("large", os.urandom(CHUNK_BYTES * 8))
    wanted = attic.tree()
    async with live(attic) as sender, live(cellar) as receiver:
        await until(lambda: len(cellar.tree()) > 20)
        receiver.kill()
        sender.kill()
        await asyncio.gather(sender.wait(), receiver.wait())
    attic.write("1/1", "edited after the crash")
    wanted["1/1"] = b"edited after the crash"
    async with live(attic), live(cellar):
        await until(lambda: cellar.tree() == wanted)
    assert attic.tree() == wanted
    assert not [p for d in (attic, cellar) for p in d.root.rglob(".hubfolder-tmp-*")]


@contextlib.asynccontextmanager
async def live(device: Device) -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(
        *command_line(str(device.root), "--home", str(device.home)), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        await child.wait()


# --- undo, off, out --------------------------------------------------------------------------


async def test_history_lists_and_restore_brings_back(
    tmp_path: Path, hub: tuple[RunningHub, Terminal], capsys: pytest.CaptureFixture[str]
) -> None:
    attic, cellar = await signed_in(tmp_path, *hub, "attic", "cellar")
    large = os.urandom(CHUNK_BYTES * 2 + 5)
    for path, first in (("notes.txt", b"first"), ("film", large)):
        attic.write(path, first)
    assert (await process(*once(attic)))[0] == OK
    then = datetime.now().astimezone()
    await asyncio.sleep(0.05)
    attic.write("notes.txt", "second, longer")
    (attic.root / "film").unlink()
    assert (await process(*once(attic)))[0] == OK
    capsys.readouterr()
    assert await attic.command("history", "notes.txt") == OK
    assert [line.split("  ")[1] for line in capsys.readouterr().out.splitlines()] == ["14 bytes", "5 bytes"]
    assert await attic.command("history", str(attic.root / "film")) == OK
    assert [line.split("  ")[1] for line in capsys.readouterr().out.splitlines()] == [
        "deleted",
        f"{len(large):,} bytes",
    ]
    for path in ("notes.txt", "film"):
        assert await attic.command("restore", path, "--at", then.isoformat()) == OK
    long_ago = (then - timedelta(days=1)).isoformat()
    assert await attic.command("restore", "notes.txt", "--at", long_ago) == FAILED
    for device in (attic, cellar):
        assert (await process(*once(device)))[0] == OK
    assert attic.tree() == cellar.tree() == {"notes.txt": b"first", "film": large}


async def test_a_running_folder_restores_without_being_stopped(
    tmp_path: Path, hub: tuple[RunningHub, Terminal]
) -> None:
    (attic,) = await signed_in(tmp_path, *hub, "attic")
    attic.write("notes.txt", b"first")
    assert (await process(*once(attic)))[0] == OK
    then = datetime.now().astimezone()
    async with live(attic) as child:
        attic.write("notes.txt", b"second")
        home = ("--home", str(attic.home))
        await until(lambda: (attic.home / "control").exists())
        while (history := await process("history", "notes.txt", *home))[1].count("bytes") < 2:
            assert history[0] == OK, history
        assert await process("restore", "notes.txt", "--at", then.isoformat(), *home) == (
            OK,
            "Restored notes.txt as it was (5 bytes); your folders take it up when they sync.\n",
        )
        await until(lambda: attic.tree() == {"notes.txt": b"first"})
        assert (await process("restore", "nowhere", "--at", then.isoformat(), *home))[0] == FAILED
        assert (await process("on", *home))[0] == FAILED
        assert (await process("off", *home))[0] == OK
        assert await child.wait() == FAILED
    assert not (attic.home / "control").exists()


def test_times_are_read_as_people_write_them() -> None:
    now = datetime.now().astimezone()
    assert abs(_time("90m") - (now - timedelta(minutes=90))) < timedelta(seconds=5)
    assert _time("2026-11-23T09:00").isoformat().startswith("2026-11-23T09:00:00")
    assert _time("2026-11-23T09:00+00:00").timestamp() == 1_795_424_400


async def test_off_keeps_both_sides_and_on_goes_on(tmp_path: Path, hub: tuple[RunningHub, Terminal]) -> None:
    attic, cellar = await signed_in(tmp_path, *hub, "attic", "cellar")
    attic.write("a", "1")
    assert (await process(*once(attic)))[0] == OK
    assert await attic.command("off") == OK
    attic.write("b", "2")
    status, said = await process(*once(attic))
    assert status == FAILED and "hub folder on" in said
    assert (await process(*once(cellar)))[0] == OK
    assert cellar.tree() == {"a": b"1"}
    assert await attic.command("on") == OK
    for device in (attic, cellar):
        assert (await process(*once(device)))[0] == OK
    assert cellar.tree() == {"a": b"1", "b": b"2"}


async def test_off_with_wipe_empties_the_hub_and_no_folder(tmp_path: Path, hub: tuple[RunningHub, Terminal]) -> None:
    attic, cellar = await signed_in(tmp_path, *hub, "attic", "cellar")
    attic.write("a", "1")
    attic.write("large", os.urandom(CHUNK_BYTES * 2))
    for device in (attic, cellar):
        assert (await process(*once(device)))[0] == OK
    before = attic.tree()
    assert await attic.command("off", "--wipe") == OK
    status, said = await process(*once(cellar))
    assert status == FAILED and "hub folder on" in said
    assert attic.tree() == cellar.tree() == before
    for device in (attic, cellar):
        assert await device.command("on") == OK
        assert (await process(*once(device)))[0] == OK
    assert attic.tree() == cellar.tree() == before


async def test_after_logging_out_the_files_stay_and_the_device_is_unknown(
    tmp_path: Path, hub: tuple[RunningHub, Terminal]
) -> None:
    attic, cellar = await signed_in(tmp_path, *hub, "attic", "cellar")
    attic.write("a", "1")
    assert (await process(*once(attic)))[0] == OK
    assert await attic.command("logout") == OK
    assert attic.tree() == {"a": b"1"}
    assert (await process(*once(attic)))[0] == NOT_SIGNED_IN
    assert (await process(*once(cellar)))[0] == OK
    assert cellar.tree() == {"a": b"1"}


async def test_a_revoked_device_is_told_keeps_its_files_and_can_sign_in_again(
    tmp_path: Path, hub: tuple[RunningHub, Terminal]
) -> None:
    attic, cellar = await signed_in(tmp_path, *hub, "attic", "cellar")
    attic.write("a", "1")
    for device in (attic, cellar):
        await device.once()
    async with cellar.opened() as (client, _, _):
        await client.revoke([client.device_id])
    cellar.write("b", "2")
    status, said = await process(*once(cellar))
    assert status == NOT_SIGNED_IN and "to sign it in anew: hub folder login" in said, said
    assert "Offline" not in said, "that a device has not dialled yet is no news"
    assert cellar.tree() == {"a": b"1", "b": b"2"}
    assert await cellar.login(hub[0].url, hub[1]) == OK
    for device in (cellar, attic):
        assert (await process(*once(device)))[0] == OK
    assert attic.tree() == cellar.tree() == {"a": b"1", "b": b"2"}


# --- the account moves -----------------------------------------------------------------------


async def test_a_folder_says_where_the_account_moved_and_follows_when_it_is_told(
    tmp_path: Path, hub: tuple[RunningHub, Terminal], capsys: pytest.CaptureFixture[str]
) -> None:
    (attic,) = await signed_in(tmp_path, *hub, "attic")
    assert (await process(*once(attic)))[0] == OK
    assert await attic.command("follow") == FAILED
    assert "has not moved" in capsys.readouterr().err
    (facts,) = await hub[0].store.accounts(limit=2)
    account_id = facts.account.account_id
    await hub[0].store.begin_move(account_id, canonical_url("http://127.0.0.1:1"))
    await hub[0].store.end_move(account_id, 1.0)
    status, said = await process(*once(attic))
    assert status == FAILED
    assert "lives at another hub now, http://127.0.0.1:1. To go on there: hub folder follow" in said
    assert "sign it in anew" not in said
    assert await attic.command("status") == OK
    assert "hub folder follow" in capsys.readouterr().out
    assert await attic.command("follow") == OK
    assert "Going on at http://127.0.0.1:1." in capsys.readouterr().out
    assert Home(attic.home).settings()["hub"] == "http://127.0.0.1:1"


async def test_a_folder_of_a_suspended_account_says_so(tmp_path: Path, hub: tuple[RunningHub, Terminal]) -> None:
    (attic,) = await signed_in(tmp_path, *hub, "attic")
    (facts,) = await hub[0].store.accounts(limit=2)
    await hub[0].store.suspend(facts.account.account_id, 1.0)
    status, said = await process(*once(attic))
    assert status == NOT_SIGNED_IN
    assert "The operator has suspended the account." in said and "hub folder on" in said
    assert "sign it in anew" not in said


async def test_a_name_given_at_login_is_sealed_and_reaches_the_other_devices(
    tmp_path: Path, hub: tuple[RunningHub, Terminal]
) -> None:
    attic, cellar = Device(tmp_path, "attic"), Device(tmp_path, "cellar")
    assert await attic.login(hub[0].url, hub[1], "--key-out", str(attic.key_file), "--name", "Old laptop") == OK
    assert (await process(*once(attic)))[0] == OK
    assert await cellar.login(hub[0].url, hub[1], "--key", f"@{attic.key_file}") == OK
    assert (await process(*once(cellar)))[0] == OK
    async with cellar.opened() as (client, _, _):
        assert list(client.device_names().values()) == ["Old laptop"]
