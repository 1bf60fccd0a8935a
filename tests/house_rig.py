"""One hub as the operator of a small one runs it: a process on a folder, and its commands beside it.

``house()`` runs ``hub serve`` on SQLite (or on a database that the settings name), with a
mail server; it can be killed, its folder deleted, and started again under the same
address.  ``Crowd`` of ``cluster_rig`` signs devices up at it.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hub import control
from hub.secrets import make as make_secrets
from tests.cluster_rig import Crowd, Device, Door, Replica, start
from tests.mailbox import Mailbox
from tests.services import HOST


class Said(NamedTuple):
    """How a command ended."""

    status: int
    text: str
    seconds: float


@dataclass
class House:
    """What runs, and how it is reached."""

    replica: Replica
    mailbox: Mailbox
    enrol_url: str
    secrets_file: Path

    @property
    def url(self) -> str:
        """Where devices dial."""
        return self.replica.url

    @property
    def data_dir(self) -> Path:
        """The folder with everything but the secrets."""
        return Path(self.replica.env["HUB_DATA_DIR"])

    async def command(self, *words: str | Path) -> Said:
        """Run ``hub`` with these words as a process, with the settings of this hub."""
        begun = time.monotonic()
        child = await asyncio.create_subprocess_exec(
            *self.replica.words[:-1],
            *map(str, words),
            env=self.replica.env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        text, _ = await child.communicate()
        assert child.returncode is not None
        return Said(child.returncode, text.decode(), time.monotonic() - begun)

    async def hub_remembers(self) -> float:
        """When the hub was backed up last, as it tells its operator."""
        stats = await control.ask(self.data_dir, "stats", {})
        return float(stats["last_backup_at"])

    def settings_file(self, path: Path) -> Path:
        """The settings of this hub as a TOML file, for whoever names it so."""
        names = ("HUB_DATA_DIR", "HUB_DATABASE_URL", "HUB_SECRETS_FILE")
        lines = [f'{name[4:].lower()} = "{self.replica.env[name]}"' for name in names if self.replica.env.get(name)]
        path.write_text("\n".join(lines) + "\n")
        return path

    async def lose_everything(self) -> None:
        """The power goes, and with it the folder; the secrets are kept elsewhere."""
        self.replica.kill()
        await asyncio.to_thread(shutil.rmtree, self.data_dir)

    async def start(self) -> None:
        """Serve again."""
        await start(self.replica)


@asynccontextmanager
async def house(base: Path, *, secrets_file: Path | None = None, **settings: str) -> AsyncIterator[House]:
    """Run a hub in the empty folder ``base``; ``settings`` are more of the hub's, as HUB_DATABASE_URL="..."."""
    if secrets_file is None:
        secrets_file = base / "secrets.toml"
        make_secrets(secrets_file, secrets.token_bytes)
    async with Mailbox() as mailbox:
        door = Door()
        async with door.open():
            common = {
                "HUB_SECRETS_FILE": str(secrets_file),
                "HUB_SMTP_HOST": HOST,
                "HUB_SMTP_PORT": str(mailbox.port),
                "HUB_SMTP_SECURITY": "none",
                "HUB_SMTP_FROM": "hub@example.org",
                "HUB_SIGN_UP": "open",
                "HUB_CODES_PER_HOUR": "100000",
                "HUB_BEHIND_PROXY": "true",
                "HUB_LOG_LEVEL": "warning",
            }
            replica = Replica(base, 1, common | settings)
            replica.env["HUB_PUBLIC_URLS"] = f"http://{HOST}:{door.port},{replica.url}"
            door.targets = itertools.repeat(replica.port)
            try:
                await start(replica)
                yield House(replica, mailbox, f"http://{HOST}:{door.port}", secrets_file)
            finally:
                replica.kill()


async def newcomers(crowd: Crowd) -> list[Device]:
    """One more device for each account, signed up now, which has only what the hub has: all of it, on return."""
    firsts = {device.recorder.space: device for device in crowd.devices}

    async def one(person: str, first: Device) -> Device:
        device = await crowd.sign_up(person, f"{person}-new")
        device.client.import_key(first.client.key_code())
        await device.start(crowd.cluster.url)
        await device.client.synced(30.0)
        return device

    return list(await asyncio.gather(*(one(person, first) for person, first in firsts.items())))


def missing(devices: list[Device], newcomer: Device) -> list[str]:
    """What these devices wrote and a newcomer of their account does not have: the newest of each own record."""
    has = newcomer.contents()
    return [
        key
        for device in devices
        if device.recorder.space == newcomer.recorder.space
        for key, value in device.written.items()
        if has.get(key) != value
    ]
