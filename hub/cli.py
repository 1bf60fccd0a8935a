"""The command ``hub``: parses words, and hands over to the room that does the work.

Imports of the server's rooms and of the folder application happen inside the
commands, so that a device can install the client without the server's parts.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from hub import __version__
from hub.commands import FAILED, MISUSED, OK, fail, loaded, own_name, run

if TYPE_CHECKING:
    from hub.config import Settings
    from hub.running import RunningHub

HEALTH_WITHIN_S = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] in ROOMS:
            return _in_its_room(arguments)
        options = _parser().parse_args(arguments)
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except ModuleNotFoundError as exc:
        if exc.name and exc.name.partition(".")[0] == "hub":
            raise
        return fail(f"{exc.name} is missing; install the server with: pip install 'sync-hub[server]'")


# Commands with words of their own, which their rooms parse.
ROOMS = {
    "folder": "keep a folder the same on all your devices (hub folder --help)",
    "admin": "accounts, invitations, quotas and what the hub knows of its own state (hub admin --help)",
    "backup": "write everything the hub keeps into one file, also while it runs",
    "restore": "fill an empty hub from such a file; the devices bring what is newer",
    "move": "take accounts to another hub, with the devices following",
    "doctor": "tell what is wrong with this hub and the way to it, and what to do",
}


def _in_its_room(arguments: list[str]) -> int:
    match arguments[0]:
        case "folder":
            from hub.folder.cli import main as folder

            return folder(arguments[1:])
        case "admin":
            from hub.admin.cli import main as admin

            return admin(arguments[1:])
        case "doctor":
            from hub.doctor.cli import main as doctor

            return doctor(arguments[1:])
        case _:
            from hub.backup.cli import main as backup

            return backup(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hub", description="A sync hub that orders, keeps and forwards what it cannot read."
    )
    parser.add_argument("--version", action="version", version=f"hub {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the hub")
    serve.add_argument("--host", help="the address to listen on")
    serve.add_argument("--port", help="the port to listen on; 0 takes any free one")
    serve.add_argument("--data-dir", help="the folder the hub keeps its data in")
    serve.set_defaults(command=_serve)

    check = commands.add_parser("check", help="list everything that is wrong with the settings")
    check.set_defaults(command=_check)

    settings = commands.add_parser("settings", help="print all settings, with their meaning, as a TOML file")
    settings.set_defaults(command=_settings)

    migrate = commands.add_parser("migrate", help="Postgres: make the tables, or bring them to this version")
    migrate.add_argument(
        "--post", action="store_true", help="also drop what only older replicas needed; run it when none is left"
    )
    migrate.set_defaults(command=_migrate)

    make_secrets = commands.add_parser("make-secrets", help="make the file of the hub's own keys, for all replicas")
    make_secrets.set_defaults(command=_make_secrets)

    health = commands.add_parser("health", help="ask the hub on this machine whether it is ready; for health checks")
    health.set_defaults(command=_health)

    restored = commands.add_parser(
        "mark-restored", help="after restoring a backup: tell all devices to compare and refill"
    )
    restored.set_defaults(command=_mark_restored)

    pepper = commands.add_parser(
        "add-pepper", help="add a pepper to the secrets; the next start wraps all address tags"
    )
    pepper.set_defaults(command=_add_pepper)

    for name, about in ROOMS.items():
        commands.add_parser(name, help=about)
    return parser


# --- commands --------------------------------------------------------------------------------


def _serve(options: argparse.Namespace) -> int:
    from hub.loop import new_loop

    settings = _loaded(options)
    return run(settings, _serve_until_told, new_loop=new_loop) if settings else MISUSED


def _check(options: argparse.Namespace) -> int:
    settings = _loaded(options)
    if settings is None:
        return MISUSED
    print("The settings are fine.")
    return OK


def _settings(options: argparse.Namespace) -> int:
    from hub.config import render_settings

    settings = _loaded(options)
    if settings is None:
        return MISUSED
    print(render_settings(settings), end="")
    return OK


def _mark_restored(options: argparse.Namespace) -> int:
    async def mark(settings: Settings) -> int:
        from hub.keepers import open_store

        store = await open_store(settings)
        try:
            await store.renew_incarnation()
        finally:
            await store.close()
        print("Marked. Devices will compare what they hold with the hub and append again what is missing.")
        return OK

    settings = _loaded(options)
    return run(settings, mark) if settings else MISUSED


def _migrate(options: argparse.Namespace) -> int:
    async def migrate(settings: Settings) -> int:
        from hub.store.postgres import migrate

        owner_url = settings.migration_url or settings.database_url
        print(await migrate(owner_url, post=options.post, serving_url=settings.database_url))
        return OK

    settings = _loaded(options)
    if settings is None:
        return MISUSED
    if not settings.database_url:
        return fail("database_url is not set; a hub on SQLite migrates by itself when it starts.")
    return run(settings, migrate)


def _make_secrets(options: argparse.Namespace) -> int:
    import secrets

    from hub.secrets import BadSecrets, make

    settings = _loaded(options)
    if settings is None:
        return MISUSED
    try:
        make(settings.secrets_path(), secrets.token_bytes)
    except BadSecrets as exc:
        return fail(str(exc))
    print(f"Made {settings.secrets_path()}. Every replica needs this same file; keep a copy apart from your backups.")
    return OK


def _health(options: argparse.Namespace) -> int:
    import http.client

    settings = _loaded(options)
    if settings is None:
        return MISUSED
    try:
        status, text = _readiness(settings)
    except (OSError, http.client.HTTPException) as exc:
        return fail(f"port {settings.port}: {exc}")
    print(text)
    return OK if status == http.client.OK else FAILED


def _readiness(settings: Settings) -> tuple[int, str]:
    import http.client
    import ssl

    host = settings.host if settings.host not in ("", "0.0.0.0", "::") else "127.0.0.1"
    connection: http.client.HTTPConnection = http.client.HTTPConnection(host, settings.port, timeout=HEALTH_WITHIN_S)
    if settings.tls_certificate:
        # The certificate names the hub's public address; whether this process answers is all that is asked.
        tls = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(host, settings.port, timeout=HEALTH_WITHIN_S, context=tls)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status, answer.read(1_000).decode(errors="replace").strip()
    finally:
        connection.close()


def _add_pepper(options: argparse.Namespace) -> int:
    import secrets

    from hub.secrets import BadSecrets, add_pepper

    settings = _loaded(options)
    if settings is None:
        return MISUSED
    try:
        add_pepper(settings.secrets_path(), secrets.token_bytes)
    except BadSecrets as exc:
        return fail(str(exc))
    print("Added. Restart the hub: it wraps all address tags before it serves.")
    return OK


# --- serving ---------------------------------------------------------------------------------


async def _serve_until_told(settings: Settings) -> int:
    from hub.loop import collect_seldom, take_turns_soon
    from hub.running import running_hub

    told: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.put_nowait, number)
    async with running_hub(settings) as hub:
        collect_seldom()
        take_turns_soon()
        print(_welcome(hub, settings), flush=True)
        number = await told.get()
        print("Going down: answering what is under way, then telling the devices to come back.", flush=True)
        # Elsewhere there is a hub to go to only when the data is not in this one's folder.
        if number is signal.SIGTERM and settings.database_url:
            await _first_of(hub.server.drain(settings.drain_s), told.get())
    return OK


async def _first_of(*coroutines: Coroutine[Any, Any, object]) -> None:
    """Return when one of them is done; the others are cancelled.  What the first raised is raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _welcome(hub: RunningHub, settings: Settings) -> str:
    codes = f"mailed by {settings.smtp_host}" if settings.smtp_host else "printed here, since no mail server is set"
    who = {
        "closed": "the first person who signs in; after that nobody new (HUB_SIGN_UP)",
        "invite": "whoever has an invitation (hub admin invite)",
        "allowlist": "the addresses on the allowlist",
        "open": "everybody",
    }[settings.sign_up]
    data = "in Postgres" if settings.database_url else settings.data_dir.resolve()
    keys, command = settings.secrets_path(), own_name()
    note = (
        "made just now; keep a copy apart from your backups"
        if hub.secrets_made
        else "keep a copy apart from your backups"
    )
    try_it = f"Try it: {hub.url}/demo/ in two windows, or a folder" if settings.serve_demo else "Try it"
    return f"""
sync-hub {__version__} is up on http://{"localhost" if settings.host == "127.0.0.1" else hub.host}:{hub.port}

  data     {data}
  keys     {keys.resolve()}  ({note})
  codes    {codes}
  sign-up  {who}

{try_it}, in a second terminal:

  {command} folder login --hub {hub.url} --email you@example.org
  {command} folder ~/Notes

On the second device the same, with the key code that the first one shows, or by
one scan. Everything is sealed on the devices; this process cannot read it.

All settings: {command} settings     Health: {hub.url}/healthz     Stop: Ctrl-C
"""


# --- small things ----------------------------------------------------------------------------


def _loaded(options: argparse.Namespace) -> Settings | None:
    return loaded({name: getattr(options, name, None) for name in ("host", "port", "data_dir")})


if __name__ == "__main__":
    sys.exit(main())
