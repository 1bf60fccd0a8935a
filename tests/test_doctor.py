"""``hub doctor`` before set-ups that are really broken: real hubs, proxies, databases, certificates, mail servers.

Each broken set-up is told in one right sentence; a sound one has nothing to complain of.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import json
import os
import re
import secrets
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from hub import secrets as hub_secrets
from hub.config import Settings, load
from hub.doctor import inside
from hub.doctor.checks import examine, versions
from hub.doctor.patient import Patient
from hub.doctor.report import Finding, Shown, as_json, bad, for_operator, for_strangers, is_well, ok
from hub.operating import LAST_BACKUP
from tests import services
from tests.hub_rig import Place, Wire, hub_in
from tests.mailbox import Mailbox, authority
from tests.services import HOST, FaultProxy, free_port

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
DAY_S = 86_400.0

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="load balancers are tested on Linux")


# --- a set-up --------------------------------------------------------------------------------


@dataclass
class Setup:
    """What an operator has put together, and what the doctor says of it."""

    settings: Settings
    tls: ssl.SSLContext
    place: Place | None = None

    async def examine(self, *, clock: Callable[[], float] = time.time, **options: Any) -> list[Finding]:
        return await examine(Patient(self.settings, (), self.tls, clock), **options)

    async def complaints(self, **options: Any) -> list[str]:
        """ "name: sentence" of everything that is not well."""
        found = await self.examine(**options)
        return [f"{each.name}: {each.sentence}" for each in found if each.weight != "ok"]

    def change(self, **settings: Any) -> Setup:
        return Setup(dataclasses.replace(self.settings, **settings), self.tls, self.place)


def trusting(*authorities: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for each in (*authorities, authority()):
        each.configure_trust(context)
    return context


@asynccontextmanager
async def sound(
    folder: Path,
    *,
    kind: str = "haproxy",
    edit: Callable[[str], str] = lambda text: text,
    name: str = "localhost",
    expires_at: datetime.datetime | None = None,
    known_as: str = "localhost",
    mailbox: Mailbox | None = None,
    reached: bool = True,
    **settings: Any,
) -> AsyncIterator[Setup]:
    """A hub behind a proxy with TLS and a mail server; ``edit`` breaks the proxy's file, ``name`` and ``expires_at``
    are of its certificate, and the hub goes by ``known_as``."""
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240
    port, hub_port = free_port(), free_port()
    ca = trustme.CA()
    certificate = folder / "certificate.pem"
    issued = ca.issue_cert(name, not_after=expires_at)
    issued.private_key_and_cert_chain_pem.write_to_path(certificate)
    shipped = DEPLOY / {"haproxy": "haproxy.cfg", "nginx": "nginx.conf.template", "caddy": "Caddyfile"}[kind]
    config = folder / shipped.name
    config.write_text(edit(shipped.read_text("utf-8")))
    chosen: dict[str, Any] = {
        "public_urls": (f"wss://{known_as}:{port}/v1/ws",),
        "behind_proxy": True,
        "trusted_proxies": (HOST,),
        "port": hub_port,
    } | settings
    async with (
        Mailbox() if mailbox is None else mailbox as box,
        hub_in(folder / "data", mailbox=Given(box), **chosen) as place,
    ):
        tls = trusting(ca)
        env = {"HUB_REPLICA_1": f"{HOST}:{hub_port}", "HUB_LB_BIND": f"{HOST}:{port}"}
        env["HUB_LB_CERTIFICATE"] = str(certificate)
        match kind:
            case "haproxy":
                if not services.haproxy_bin():
                    pytest.skip("haproxy is not on this machine")
                balancer = services.haproxy(config, env)
            case "caddy":
                if not services.caddy_bin():
                    pytest.skip("caddy is not on this machine")
                balancer = services.caddy(config, env | {"HUB_LB_NAME": f"localhost:{port}"})
            case _:
                if not services.nginx_bin():
                    pytest.skip("nginx is not on this machine")
                down = {f"HUB_REPLICA_{number}": f"{HOST}:{hub_port} down" for number in (2, 3)}
                balancer = services.nginx(config, env | down)
        with balancer as running:
            if kind == "caddy":
                tls.load_verify_locations(running.root)
            mail = {"smtp_host": HOST, "smtp_port": box.port, "smtp_security": box.security, "smtp_from": "a@b.test"}
            if box.username:
                mail |= {"smtp_username": box.username, "smtp_password": box.password}
            known = {**chosen, "data_dir": folder / "data", "public_urls": (f"wss://localhost:{port}/v1/ws",), **mail}
            if reached:
                await passes(port)
            yield Setup(dataclasses.replace(Settings(), **known), tls, place)


class Given:
    """A mailbox that runs already and goes on."""

    def __init__(self, box: Mailbox) -> None:
        self._box = box

    async def __aenter__(self) -> Mailbox:
        return self._box

    async def __aexit__(self, *_: object) -> None:
        pass


async def passes(port: int) -> None:
    """Wait until the proxy has found the hub; HAProxy asks it first whether it is ready."""
    open_tls = ssl._create_unverified_context()
    async with asyncio.timeout(10.0):
        while True:
            reader, writer = await asyncio.open_connection(HOST, port, ssl=open_tls, server_hostname="localhost")
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            head = await reader.readline()
            writer.transport.abort()
            if b" 200 " in head:
                return
            await asyncio.sleep(0.05)


def replacing(old: str, new: str) -> Callable[[str], str]:
    def edit(text: str) -> str:
        assert text.count(old) == 1, old
        return text.replace(old, new)

    return edit


async def one(setup: Setup, name: str, sentence: str, **options: Any) -> None:
    """The doctor has one complaint, and it is this."""
    complaints = await setup.complaints(**options)
    assert len(complaints) == 1, complaints
    assert complaints[0].startswith(f"{name}: ") and sentence in complaints[0], complaints


# --- sound -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["haproxy", "caddy", "nginx"])
async def test_a_sound_set_up_behind_a_proxy_has_no_complaint(kind, tmp_path):
    async with sound(tmp_path, kind=kind) as setup:
        found = await setup.examine()
        assert [each for each in found if each.weight != "ok"] == []
        names = {each.name for each in found}
        assert {"settings", "disk", "database", "keys", "mail", "hub", "dns", "tls", "discovery", "upgrade"} <= names


async def test_a_sound_set_up_of_replicas_has_no_complaint(tmp_path, one_database_url, one_redis_url):
    async with sound(tmp_path, database_url=one_database_url, redis_url=one_redis_url) as setup:
        found = await setup.examine()
        assert [each.sentence for each in found if each.weight != "ok"] == []
        assert {"redis", "standby", "latency"} <= {each.name for each in found}


async def test_a_laptop_before_the_first_start_has_only_no_hub_yet(tmp_path):
    settings = dataclasses.replace(Settings(), data_dir=tmp_path / "data", port=free_port())
    found = await examine(Patient(settings))
    assert is_well(found)
    assert [each.name for each in found if each.weight != "ok"] == ["hub"]
    assert not (tmp_path / "data").exists()


# --- the way in ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, old, new",
    [
        ("nginx", "proxy_set_header Upgrade $http_upgrade;", ""),
        ("haproxy", "    option forwardfor", "    option forwardfor\n    http-request del-header Upgrade"),
        ("caddy", "lb_policy least_conn", "lb_policy least_conn\n\t\theader_up -Upgrade"),
    ],
)
async def test_a_proxy_that_passes_no_upgrade_is_told_with_the_lines_to_add(kind, old, new, tmp_path):
    async with sound(tmp_path, kind=kind, edit=replacing(old, new)) as setup:
        await one(setup, "upgrade", "passes pages on, and no WebSocket")
        found = [each for each in await setup.examine() if each.weight == "bad"]
        assert any("proxy_set_header Upgrade $http_upgrade;" in line for line in found[0].remedy)


@pytest.mark.parametrize(
    "kind, old, new",
    [
        ("nginx", "proxy_set_header Host $http_host;", "proxy_set_header Host hubs;"),
        ("haproxy", "    option forwardfor", "    option forwardfor\n    http-request set-header Host hub1"),
        ("caddy", "lb_policy least_conn", "lb_policy least_conn\n\t\theader_up Host hub1"),
    ],
)
async def test_a_proxy_that_changes_host_is_told_with_the_lines_to_add(kind, old, new, tmp_path):
    async with sound(tmp_path, kind=kind, edit=replacing(old, new)) as setup:
        await one(setup, "host", "does not hand on Host as it came")
        found = [each for each in await setup.examine() if each.weight == "bad"]
        assert any("proxy_set_header Host $http_host;" in line for line in found[0].remedy)


async def test_a_proxy_that_drops_the_subprotocol_is_told(tmp_path):
    edit = replacing(
        "    option forwardfor", "    option forwardfor\n    http-request del-header Sec-WebSocket-Protocol"
    )
    async with sound(tmp_path, edit=edit) as setup:
        await one(setup, "upgrade", "no WebSocket (status 400)")


async def test_a_proxy_that_cuts_a_silent_line_is_told_when_asked(tmp_path):
    async with sound(tmp_path, edit=replacing("timeout tunnel 1h", "timeout tunnel 700ms")) as setup:
        assert await setup.complaints() == []
        await one(setup, "idle", "is cut after", idle_s=3.0)


async def test_a_line_that_stays_open_through_silence_is_said_so(tmp_path):
    # Longer than the ten seconds that a device has to prove itself: the hub does not hang up on the doctor.
    async with sound(tmp_path) as setup:
        found = await setup.examine(idle_s=11.0)
        assert [each.sentence for each in found if each.name == "idle"] == [
            "a WebSocket to localhost stays open through 11.0 s of silence."
        ]


async def test_a_proxy_that_reaches_no_hub_is_told(tmp_path):
    edit = replacing('server hub1 "${HUB_REPLICA_1}"', f"server hub1 {HOST}:{free_port()}")
    async with sound(tmp_path, edit=edit, reached=False) as setup:
        await one(setup, "discovery", "does not reach the hub (status 503)")


async def test_an_expired_certificate_is_told(tmp_path):
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    async with sound(tmp_path, expires_at=past) as setup:
        await one(setup, "tls", "the certificate of localhost has expired")


async def test_a_certificate_that_ends_soon_is_told_in_days(tmp_path):
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=5, hours=1)
    async with sound(tmp_path, expires_at=soon) as setup:
        await one(setup, "tls", "ends in 5 days")


async def test_a_certificate_of_another_name_is_told(tmp_path):
    async with sound(tmp_path, name="other.example.org") as setup:
        await one(setup, "tls", "the certificate shown at localhost is for another name")


async def test_a_certificate_of_an_authority_nobody_trusts_is_told(tmp_path):
    async with sound(tmp_path) as setup:
        await one(Setup(setup.settings, trusting()), "tls", "from an authority nobody trusts")


async def test_nothing_listening_is_told(tmp_path):
    async with sound(tmp_path) as setup:
        nowhere = f"wss://localhost:{free_port()}/v1/ws"
        await one(setup.change(public_urls=(nowhere,)), "tls", "nothing listens")


async def test_a_name_that_leads_nowhere_is_told(tmp_path):
    async with sound(tmp_path) as setup:
        await one(setup.change(public_urls=("wss://hub.invalid/v1/ws",)), "dns", "no address belongs to the name")


async def test_public_urls_that_lead_to_another_hub_are_told(tmp_path):
    async with sound(tmp_path / "mine") as mine, sound(tmp_path / "theirs") as theirs:
        # It even goes by the name that we claim.
        mixed = Setup(dataclasses.replace(mine.settings, public_urls=theirs.settings.public_urls), theirs.tls)
        await one(mixed, "discovery", "another hub answers at localhost")


async def test_a_hub_that_does_not_know_its_name_is_told(tmp_path):
    async with sound(tmp_path, known_as="hub.example.org") as setup:
        await one(setup, "discovery", "does not know that it goes by that name")


async def test_what_is_no_hub_is_told(tmp_path):
    edit = replacing("    option forwardfor", '    http-request return status 200 content-type text/html string "hi"')
    async with sound(tmp_path, edit=edit) as setup:
        await one(setup, "discovery", "is no hub (status 200")


async def test_frames_that_are_held_back_are_told(tmp_path):
    async with holding_frames_back() as line:
        urls = (f"ws://localhost:{line.port}/v1/ws",)
        async with hub_in(tmp_path / "data", public_urls=urls) as place:
            line.target = place.hub.port
            settings = dataclasses.replace(
                Settings(), data_dir=tmp_path / "data", port=place.hub.port, public_urls=urls,
                smtp_host=HOST, smtp_port=place.mailbox.port, smtp_security="none", smtp_from="a@b.test",
            )  # fmt: skip
            await one(Setup(settings, trusting()), "buffering", "no frame comes back")


@dataclass
class Holder:
    """A proxy that passes heads and pages on, and keeps what comes after an upgrade for itself."""

    port: int = 0
    target: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(HOST, self.target)
        try:
            far_writer.write(await reader.readuntil(b"\r\n\r\n"))
            head = await far_reader.readuntil(b"\r\n\r\n")
            writer.write(head if b" 101 " in head else head + await far_reader.read())
            await writer.drain()
            if b" 101 " in head:
                await reader.read()
        finally:
            far_writer.transport.abort()
            writer.close()


@asynccontextmanager
async def holding_frames_back() -> AsyncIterator[Holder]:
    holder = Holder()
    server = await asyncio.start_server(holder.serve, HOST, 0)
    holder.port = server.sockets[0].getsockname()[1]
    try:
        yield holder
    finally:
        server.close()
        await server.wait_closed()


# --- inside ----------------------------------------------------------------------------------


async def test_a_secrets_file_open_to_others_is_told(tmp_path):
    async with sound(tmp_path) as setup:
        (tmp_path / "data/secrets.toml").chmod(0o644)
        await one(setup, "keys", "is open to others; run: chmod 600")


async def test_secrets_that_are_not_the_databases_are_told(tmp_path):
    async with sound(tmp_path) as setup:
        other = tmp_path / "other.toml"
        hub_secrets.make(other, secrets.token_bytes)
        changed = setup.change(secrets_file=other)
        complaints = await changed.complaints(inside_only=True)
        assert complaints == [
            "keys: the secrets file is not the one this database was made with, so the hub does not start."
        ]


async def test_lost_secrets_are_told_when_there_are_accounts(tmp_path):
    async with sound(tmp_path) as setup:
        await sign_up(setup)
        (tmp_path / "data/secrets.toml").unlink()
        complaints = await setup.complaints(inside_only=True)
        assert len(complaints) == 2 and complaints[0].startswith("keys: there is no secrets file"), complaints
        assert complaints[1].startswith("backup: no backup was ever made")


class Device(Wire):
    """A device that comes in through the proxy."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup.settings.public_urls[0])
        self._tls = setup.tls

    async def dial(self, **options: Any) -> Wire:
        return await super().dial(ssl=self._tls, **options)


async def sign_up(setup: Setup) -> None:
    """One person signs in on one device, so that there is an account."""
    device = Device(setup)
    await device.sign_up(setup.place.mailbox, "ada@example.org")
    await device.hang_up()


async def test_a_folder_that_takes_no_writes_is_told(tmp_path):
    settings = dataclasses.replace(Settings(), data_dir=Path("/proc/sync-hub"), port=free_port())
    found = [each for each in await examine(Patient(settings)) if each.weight == "bad"]
    assert [each.sentence.partition(" (")[0] for each in found] == ["the folder /proc cannot be written to"]


@pytest.mark.parametrize(
    "free, size, weight",
    [
        (inside.FREE_BYTES_MIN - 1, 0, "bad"),
        (inside.FREE_BYTES_MIN, 0, "warn"),
        (inside.FREE_BYTES_FEW - 1, 0, "warn"),
        (inside.FREE_BYTES_FEW, 0, "ok"),
        (inside.FREE_BYTES_FEW, inside.FREE_BYTES_FEW // 2 + 1, "warn"),
    ],
)
def test_a_disk_with_little_room_is_told(free, size, weight):
    assert inside.room(free, size).weight == weight


async def test_a_database_that_is_down_is_told(tmp_path):
    url = f"postgresql://hub:hunter2@{HOST}:{free_port()}/hub"
    settings = dataclasses.replace(Settings(), data_dir=tmp_path, database_url=url, port=free_port())
    found = [each for each in await examine(Patient(settings)) if each.weight == "bad"]
    assert [each.name for each in found] == ["database"]
    assert found[0].sentence.startswith("Postgres does not answer") and "hunter2" not in found[0].sentence


async def test_a_database_without_tables_is_told(tmp_path, one_pg_server):
    async with services.database(one_pg_server) as url:
        settings = dataclasses.replace(Settings(), data_dir=tmp_path, database_url=url, port=free_port())
        found = [each for each in await examine(Patient(settings)) if each.weight == "bad"]
        assert [each.sentence.partition(" and this")[0] for each in found] == ["the tables are at schema version 0"]
        assert found[0].remedy == ("hub migrate",)


async def test_a_database_of_a_newer_hub_is_told(tmp_path):
    async with hub_in(tmp_path / "data"):
        pass
    with sqlite3.connect(tmp_path / "data/hub.sqlite3") as db:
        db.execute("update hub set value = ? where key = 'schema_version'", (b"99",))
    settings = dataclasses.replace(Settings(), data_dir=tmp_path / "data", port=free_port())
    found = [each for each in await examine(Patient(settings)) if each.weight == "bad"]
    assert ["made by a newer hub" in each.sentence for each in found] == [True]


async def test_what_is_no_database_is_told(tmp_path):
    (tmp_path / "hub.sqlite3").write_bytes(b"no database at all" * 100)
    settings = dataclasses.replace(Settings(), data_dir=tmp_path, port=free_port())
    found = [each for each in await examine(Patient(settings)) if each.name == "database"]
    assert ["is no database" in each.sentence for each in found] == [True]


async def test_a_redis_that_is_down_is_told(tmp_path, one_database_url):
    url = f"redis://{HOST}:{free_port()}/0"
    async with sound(tmp_path, database_url=one_database_url, redis_url=url) as setup:
        await one(setup, "redis", "Redis does not carry a notice")


async def test_a_redis_that_is_silent_is_told(tmp_path, one_redis_url):
    port = int(one_redis_url.rpartition(":")[2].split("/")[0])
    async with FaultProxy(HOST, port) as line:
        line.stall()
        settings = dataclasses.replace(Settings(), redis_url=f"redis://{HOST}:{line.port}/0")
        found = await inside.of_redis(settings, None)
        assert [(each.name, each.weight) for each in found] == [("redis", "bad")]


async def test_a_closed_mail_port_is_told(tmp_path):
    async with sound(tmp_path) as setup:
        await one(setup.change(smtp_port=free_port()), "mail", "nothing answers at")


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_a_wrong_mail_password_is_told(security, tmp_path):
    async with sound(tmp_path, mailbox=Mailbox(security=security, username="hub", password="right")) as setup:
        assert await setup.complaints() == []
        await one(setup.change(smtp_password="wrong"), "mail", "refuses the name or the password")


async def test_a_mail_server_with_another_encryption_is_told(tmp_path):
    async with sound(tmp_path) as setup:
        await one(setup.change(smtp_security="starttls"), "mail", "does not know the encryption")


async def test_a_test_mail_arrives_and_has_no_code(tmp_path):
    box = Mailbox()
    async with sound(tmp_path, mailbox=box) as setup:
        found = await setup.examine(test_to="ada@example.org", inside_only=True)
        assert is_well(found)
        mail = await box.next()
        assert mail.recipient == "ada@example.org" and "No code" in mail.text


async def test_a_proxy_that_nobody_believes_is_told(tmp_path):
    async with sound(tmp_path, behind_proxy=False) as setup:
        await one(setup, "forwarded", "all devices count as one address")


async def test_a_hub_that_was_not_restarted_with_the_settings_is_told(tmp_path):
    async with sound(tmp_path, behind_proxy=False) as setup:
        await one(setup.change(behind_proxy=True), "forwarded", "the running hub does not believe a proxy")


async def test_a_clock_that_is_wrong_is_told(tmp_path):
    async with sound(tmp_path) as setup:
        await one(setup, "clock", "the hub's clock is ", clock=lambda: time.time() - 120)
        assert await setup.complaints(clock=lambda: time.time() - 3) == []


async def test_settings_that_are_wrong_are_told(tmp_path):
    settings, faults = load({"HUB_PORT": "many", "HUB_DATA_DIR": str(tmp_path)})
    found = [each for each in await examine(Patient(settings, tuple(faults)), inside_only=True) if each.weight == "bad"]
    assert [each.sentence for each in found] == ["HUB_PORT is wrong: must be a whole number from 0 to 65535."]


@pytest.mark.parametrize("days, complaints", [(6.9, []), (8.0, ["backup: the last backup is 8.0 days old."])])
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_backup_that_is_too_old_is_told(kind, days, complaints, tmp_path, one_pg_server):
    async with (
        services.database(one_pg_server) as url,
        sound(tmp_path, database_url=url if kind == "postgres" else "") as setup,
    ):
        await sign_up(setup)
        assert ["ever made" in each.sentence for each in await setup.examine() if each.name == "backup"] == [True]
        await setup.place.hub.store.remember(LAST_BACKUP, str(time.time() - days * DAY_S).encode())
        assert await setup.complaints() == complaints
        found = [each.sentence for each in await setup.examine() if each.name == "backup"]
        assert found == [f"the last backup is {days} days old."]


# --- what a stranger reads -------------------------------------------------------------------


async def test_the_text_for_an_issue_holds_nothing_that_was_planted(tmp_path, one_pg_server):
    folder = tmp_path / "zanzibar-folder"
    folder.mkdir()
    (folder / "zebra.toml").write_text("zygote-contents")
    settings, faults = load(
        {
            "HUB_DATA_DIR": str(folder / "zulu-data"),
            "HUB_SECRETS_FILE": str(folder / "zebra.toml"),
            "HUB_PUBLIC_URLS": "https://zambezi.invalid,https://zenith.invalid",
            "HUB_DATABASE_URL": f"postgresql://zorro:zinnia@{HOST}:{one_pg_server.port}/zeppelin",
            "HUB_REDIS_URL": f"redis://zoe:zirconia@zodiac.invalid:{free_port()}/0",
            "HUB_SMTP_HOST": "zither.invalid",
            "HUB_SMTP_FROM": "zelda@zither.invalid",
            "HUB_SMTP_USERNAME": "zoltan",
            "HUB_SMTP_PASSWORD": "zucchini",
            "HUB_BEHIND_PROXY": "zealous",
            "HUB_TRUSTED_PROXIES": "192.0.2.77,zone",
            "HUB_ALLOWED_ORIGINS": "https://zipper.invalid",
            "HUB_PORT": str(free_port()),
        }
    )
    findings = await examine(Patient(settings, tuple(faults)), test_to="zarah@zither.invalid")
    text = for_strangers(findings, versions())
    assert not is_well(findings) and len([each for each in findings if each.weight == "bad"]) >= 5, text
    for planted in ("z", "192.0.2", HOST, str(tmp_path), os.uname().nodename):
        assert planted not in text.lower().replace("<", " <"), (planted, text)
    assert "<hub-1>" in text and "<hub-2>" in text


async def test_the_text_for_an_issue_of_a_sound_set_up_names_neither_host_nor_folder(tmp_path):
    async with sound(tmp_path) as setup:
        findings = await setup.examine()
        text = for_strangers(findings, versions())
        for planted in ("localhost", HOST, str(tmp_path), "b.test"):
            assert planted not in text
        assert "SQLite" in text and "sync-hub" in text


def test_a_fact_is_hidden_unless_somebody_marked_it():
    found = [bad("x", "{a}, {b}, {c}", a="anna", b=Shown("15.3"), c=4), ok("x", "{a} {d}", a="anna", d="anna")]
    assert for_strangers(found, {}).splitlines()[1:] == ["BAD   x  <a-1>, 15.3, 4", "ok    x  <a-1> <d-1>"]
    assert "anna, 15.3, 4" in for_operator(found)


def test_equal_facts_get_equal_words_and_others_other_ones():
    found = [ok("x", "{hub}", hub=name) for name in ("a", "b", "a")]
    assert [line.split()[-1] for line in for_strangers(found, {}).splitlines()[1:]] == ["<hub-1>", "<hub-2>", "<hub-1>"]


def test_a_program_reads_the_same_as_a_person():
    found = [ok("x", "{a}.", a="anna"), bad("y", "no.", "do this")]
    read = json.loads(as_json(found, {"sync-hub": "1"}))
    assert read["well"] is False
    assert read["findings"][1] == {"name": "y", "weight": "bad", "sentence": "no.", "remedy": ["do this"]}
    assert read["for_strangers"] == for_strangers(found, {"sync-hub": "1"})


def test_the_page_of_the_doctor_lists_every_check():
    page = (ROOT / "docs/doctor.md").read_text("utf-8")
    listed = set(re.findall(r"^\| `([a-z ]+)` \|", page, re.M)) - {"hub doctor"}
    code = "".join((ROOT / f"hub/doctor/{name}.py").read_text("utf-8") for name in ("inside", "outside"))
    used = set(re.findall(r'\b(?:ok|warn|bad|skewed)\(\s*"([a-z ]+)"', code))
    assert listed == used and len(used) > 15


# --- the command -----------------------------------------------------------------------------


async def test_the_command_tells_beside_a_running_hub_and_ends_with_0_or_1(tmp_path):
    async with hub_in(tmp_path / "data") as place:
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HUB_")},
            "HUB_DATA_DIR": str(tmp_path / "data"),
            "HUB_PORT": str(place.hub.port),
        }
        done = await run_doctor(env)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "a hub is ready on port" in done.stdout and "For an issue" in done.stdout
        (tmp_path / "data/secrets.toml").chmod(0o644)
        done = await run_doctor(env, "--json")
        assert done.returncode == 1
        assert json.loads(done.stdout)["well"] is False


async def run_doctor(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    program = "import sys; from hub.doctor.cli import main; sys.exit(main(sys.argv[1:]))"
    return await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program, *words], cwd=ROOT, env=env, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
