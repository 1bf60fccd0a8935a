"""Signing a device in: the mailed code, and the key that opens the files; or both at one scan, by pairing.

The key is either made here, for the first device of an account, or given by the
person; a key that is not this account's is refused before anything is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import suppress
from pathlib import Path

from hub.client import HubClient
from hub.client.keycode import WrongKeyCode, key_code, parse_key_code, printable, qr_text, terminal_qr
from hub.client.keys import SpaceKeys
from hub.client.pairing import WITHIN_S, parse_pairing_code
from hub.folder import APP_ID
from hub.folder.command import NOT_SIGNED_IN, OK, Say, Stop, online, opened_client
from hub.folder.files import printable as shown_path
from hub.folder.home import Home, InUse, write_private

CODE_FILE_EVERY_S = 0.2


async def login(home: Home, options: argparse.Namespace) -> int:
    """Sign in and get the key; done twice, the second time changes nothing."""
    key = _given_key(options.key)
    with home.locked():
        client = await HubClient.open(home.client_path, app_id=APP_ID, hub_url=options.hub)
        try:
            if options.pair is not None:
                await _be_added(client, options)
            elif not client.signed_in or client.status.phase == "blocked":
                await _sign_in(client, options)
            home.remember(device_name=options.device_name or "device", hub=options.hub)
            await _get_key(client, options, key)
            if options.name is not None:
                client.name_device(options.name)
        finally:
            await client.stop()
    print("Signed in. Now: hub folder DIR")
    return OK


def wrong_words(options: argparse.Namespace) -> str:
    """What is missing among the words of ``login``, or empty; fills in the hub that a scanned code tells."""
    if (options.email is None) == (options.pair is None):
        return "sign in with --email ADDRESS, or with --pair and a device that is signed in"
    if options.pair and not options.hub:
        try:
            host = parse_pairing_code(options.pair).host
        except WrongKeyCode as exc:
            return str(exc)
        local = host.rpartition(":")[0] or host
        options.hub = host and ("http://" if local in ("localhost", "127.0.0.1", "[::1]") else "https://") + host
    return "" if options.hub else "which hub? add --hub URL"


async def _be_added(client: HubClient, options: argparse.Namespace) -> None:
    """Sign in and get the key from another device, at one scan."""
    if client.signed_in and client.has_key and client.status.phase != "blocked":
        return
    async with client.pair(options.pair, name=options.device_name) as pairing:
        if not options.pair:
            show_pairing(pairing.code, "hub folder pair CODE")
        digits = await pairing.digits()
        if options.pair:
            print(f"Type these six digits on the other device: {spaced(digits)}", flush=True)
        else:
            await pairing.confirm(await read_digits(options.code_from))
        await pairing.done()
    print("This device was added.", flush=True)


async def pair(home: Home, options: argparse.Namespace) -> int:
    """Add another device: show it a code, or take the one it shows."""
    try:
        async with opened_client(home) as client:
            await online(client)
            name = await _add(client, options)
    except InUse:
        raise Stop(
            "hub folder is running on this device: stop it while you add the other one, "
            "or give that one the key code (hub folder key)."
        ) from None
    print(f"Added {name}.")
    return OK


async def _add(client: HubClient, options: argparse.Namespace) -> str:
    async with client.pair(options.code) as pairing:
        if not options.code:
            show_pairing(pairing.code, "hub folder login --pair CODE")
        if options.code:
            print(f"Type these six digits on the other device: {spaced(await pairing.digits())}", flush=True)
            await pairing.confirm()
            name = _quoted(await pairing.name())
        else:
            name = _quoted(await pairing.name())
            print(f"Add {name} to your files? Then type the six digits it shows.", flush=True)
            await pairing.confirm(await read_digits(options.code_from))
        await pairing.done()
    return name


def show_pairing(code: str, command: str) -> None:
    """The pairing code as QR and text, and what it is for."""
    print(
        f"""
{terminal_qr(code)}
Scan this with the other device, or type there: {command.replace("CODE", code)}

It works once, within three minutes. Show it to nobody else.
""",
        flush=True,
    )


async def read_digits(source: str | None) -> str:
    """The six digits that the person reads on the other device."""
    return await _read_code(source, WITHIN_S, "Digits: ")


def _quoted(name: str) -> str:
    return f'"{shown_path(name)}"' if name else "the other device"


def spaced(digits: str) -> str:
    """As they are read aloud."""
    return f"{digits[:3]} {digits[3:]}"


def _given_key(text: str | None) -> str:
    """The key code of ``--key``, tidied; ``@FILE`` keeps it out of the list of processes."""
    if text is None:
        return ""
    if text.startswith("@"):
        text = Path(text[1:]).read_text()
    return key_code(*parse_key_code(text))


async def _sign_in(client: HubClient, options: argparse.Namespace) -> None:
    sent = await client.request_code(options.email, invite=options.invite)
    print(f"A code is on its way to {options.email}. The mail must show these words: {sent.phrase}", flush=True)
    await client.enrol(await _read_code(options.code_from, sent.expires_in_s))


async def _read_code(source: str | None, within_s: float, prompt: str = "Code: ") -> str:
    try:
        async with asyncio.timeout(within_s):
            if source is None or source == "-":
                if source is None and not sys.stdin.isatty():
                    raise Stop("There is no terminal to ask for the code; use --code-from FILE or --code-from -")
                return await _read_line(prompt if source is None else "")
            return await _read_file(Path(source))
    except TimeoutError:
        raise Stop("The code has expired before it was given.") from None


async def _read_line(prompt: str) -> str:
    print(prompt, end="", flush=True)
    line: str = (await asyncio.to_thread(sys.stdin.readline)).strip()
    if not line:
        raise Stop("No code was given.")
    return line


async def _read_file(path: Path) -> str:
    """The first line of a file that need not be there yet; nobody tells us when, so we look."""
    while True:
        with suppress(FileNotFoundError):
            text: str = await asyncio.to_thread(path.read_text)
            if text.strip():
                return text.split("\n")[0].strip()
        await asyncio.sleep(CODE_FILE_EVERY_S)


async def _get_key(client: HubClient, options: argparse.Namespace, key: str) -> None:
    """Take the given key if it is this account's, or make the first one."""
    known = {space.space_id for space in await client.spaces() if space.app_id == APP_ID}
    if client.has_key:
        if key and client.key_code() != key:
            raise Stop("This device has another key already. Nothing was changed.")
        if known:
            _check_key(client.key_code(), known)
    else:
        if known and not key:
            key = await _ask_for_key()
        if key:
            _check_key(key, known)
            client.import_key(key)
        else:
            client.create_key()
            # Known to the hub before anybody else signs in, so that there is never a second key.
            await online(client)
            show_key(client.key_code(), options.hub, print)
    if options.key_out:
        write_private(options.key_out, client.key_code() + "\n")


def _check_key(key: str, known: set[bytes]) -> None:
    if SpaceKeys.derive(*parse_key_code(key)).space_id not in known:
        raise Stop(
            "This key does not open the files of this account. Nothing was created or changed. "
            "Give the key code that `hub folder key` shows on a device that is signed in to the same account."
        )


async def _ask_for_key() -> str:
    if not sys.stdin.isatty():
        raise Stop(
            "This account has a folder already, and this device needs its key: run the same command with --key CODE. "
            "The code is what `hub folder key` shows on your other device.",
            NOT_SIGNED_IN,
        )
    print("This account has a folder already. Its key code is what `hub folder key` shows on your other device.")
    return _given_key(await _read_line("Key code: "))


def show_key(code: str, hub: str, say: Say) -> None:
    """The key code as QR and text, and what it is."""
    say(f"""
{terminal_qr(qr_text(code, hub))}
Your key code:

    {printable(code)}

KEEP IT. It is the only thing that opens your files: with it you add a device, and
if all your devices are lost nothing else brings them back. Nobody can send it to
you again, since the hub has never seen it. Print it, or put it in a password manager.
""")
