"""Nothing readable is on the server: a whole story, then a search of everything the hub wrote.

The hub is a process of its own at its most talkative.  Two devices sign in with
mailed codes and exchange real files; afterwards the database with its WAL, the
secrets file, the log and the output are searched for what only devices may know.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
import re
import signal
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from hub.client import HubClient
from hub.client.keycode import parse_key_code
from tests.mailbox import HOST, Mailbox

ADDRESS = "Anna.Blind-Test@example.org"
SNIPPET_BYTES = 16
SNIPPETS = 200


def files() -> dict[str, bytes]:
    """Real files that no secret hides in, small enough for one record each."""
    library = Path(sysconfig.get_path("stdlib"))
    found = sorted(path for path in library.glob("*.py") if 4_000 < path.stat().st_size < 60_000)
    return {f"{path.stem}-blind-{number}.py": path.read_bytes() for number, path in enumerate(found[:40])}


def snippets(contents: dict[str, bytes], seed: int) -> Iterator[bytes]:
    """Random pieces of the files that are words rather than padding."""
    rng = random.Random(seed)
    names = sorted(contents)
    while True:
        content = contents[rng.choice(names)]
        at = rng.randrange(len(content) - SNIPPET_BYTES)
        snippet = content[at : at + SNIPPET_BYTES]
        if len(set(snippet)) >= 8:
            yield snippet


def spellings(secret: bytes) -> set[bytes]:
    """How a key might have leaked."""
    return {secret, secret.hex().encode(), secret.hex().upper().encode(), base64.b64encode(secret)[:-4]}


async def serve(tmp_path: Path, mailbox: Mailbox) -> tuple[asyncio.subprocess.Process, str]:
    """A hub in a process of its own; its address."""
    changed = {
        "HUB_SMTP_HOST": HOST, "HUB_SMTP_PORT": str(mailbox.port), "HUB_SMTP_SECURITY": "none",
        "HUB_SMTP_FROM": "hub@example.org", "HUB_LOG_LEVEL": "debug", "HUB_SIGN_UP": "open",
    }  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HUB_")} | changed
    arguments = ["-m", "hub", "serve", "--port", "0", "--data-dir", str(tmp_path / "data")]
    with (tmp_path / "stdout").open("wb") as stdout, (tmp_path / "stderr").open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, env=environment, stdout=stdout, stderr=stderr
        )
    async with asyncio.timeout(20):
        while not (found := re.search(r"up on (http://\S+)", (tmp_path / "stdout").read_text())):
            assert process.returncode is None, (tmp_path / "stderr").read_text()
            await asyncio.sleep(0.05)
    return process, found[1]


async def sign_in(client: HubClient, mailbox: Mailbox) -> str:
    await client.request_code(ADDRESS)
    code = (await mailbox.next()).code
    await client.enrol(code)
    return code


async def test_a_search_of_everything_the_hub_wrote_finds_nothing_of_the_person(tmp_path: Path) -> None:
    contents = files()
    assert len(contents) == 40
    codes = []
    async with Mailbox() as mailbox:
        process, url = await serve(tmp_path, mailbox)
        try:
            attic = await HubClient.open(tmp_path / "attic", app_id="org.example.blind", hub_url=url)
            codes.append(await sign_in(attic, mailbox))
            key = attic.create_key()
            await attic.start()
            attic.collection("secret-collection").put_many(contents)
            await attic.synced(20)
            cellar = await HubClient.open(tmp_path / "cellar", app_id="org.example.blind", hub_url=url)
            codes.append(await sign_in(cellar, mailbox))
            cellar.import_key(key)
            await cellar.start()
            await cellar.synced(20)
            async with asyncio.timeout(10):
                while len(cellar.collection("secret-collection").keys()) < len(contents):
                    await asyncio.sleep(0.05)
            assert dict(cellar.collection("secret-collection").items()) == contents
            await attic.stop()
            await cellar.stop()
            written = {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir() if path.is_file()}
            assert "hub.sqlite3-wal" in written, "the hub is still running, so its WAL is searched too"
        finally:
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 20) == 0
    written |= {f"after: {path.name}": path.read_bytes() for path in (tmp_path / "data").iterdir()}
    written |= {name: (tmp_path / name).read_bytes() for name in ("stdout", "stderr")}
    assert sum(map(len, written.values())) > sum(map(len, contents.values()))  # it did keep all of it

    app_key, _ = parse_key_code(key)
    snippet = snippets(contents, seed=1)
    secrets = {
        "a snippet": {next(snippet) for _ in range(SNIPPETS)},
        "a file name": {name.encode() for name in contents} | {b"secret-collection"},
        "the address": {ADDRESS.encode(), ADDRESS.lower().encode(), b"blind-test", b"Blind-Test"},
        "a code": {code.encode() for code in codes} | {f"{code[:4]} {code[4:]}".encode() for code in codes},
        "the key": spellings(app_key) | {key.encode()},
        "a device key": set().union(*(spellings(seed_of(tmp_path / name)) for name in ("attic", "cellar"))),
    }
    for what, needles in secrets.items():
        for where, haystack in written.items():
            found = [needle for needle in needles if needle in haystack]
            assert not found, f"{what} is in {where}: {found[:3]!r}"
    # The search can find: the app id is known to the hub, and the contents are in the devices' own files.
    assert any(b"org.example.blind" in haystack for haystack in written.values())
    assert next(iter(secrets["a snippet"])) in b"".join(contents.values())


def seed_of(path: Path) -> bytes:
    """A device's private key, from its own file."""
    import sqlite3

    with sqlite3.connect(path) as db:
        (table,) = [row[0] for row in db.execute("select name from sqlite_master where name like 'setting%'")]
        ((value,),) = db.execute(f"select value from {table} where name = 'device_seed'").fetchall()
    db.close()
    return bytes(value)
