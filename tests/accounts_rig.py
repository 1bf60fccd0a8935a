"""A hub's accounts over a real store, a real bus and a real mail server, and the people who come to it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets as random_source
from dataclasses import dataclass, field

import pytest
from nacl.bindings import crypto_core_ed25519_add
from nacl.signing import SigningKey

from hub.accounts import Accounts
from hub.bus.local import LocalBus
from hub.codes import SignUp
from hub.errors import Refusal
from hub.limiter import CodeLimits
from hub.mail.smtp import SmtpMailer
from hub.rights import Caller, space_id_of
from hub.secrets import new_secrets
from hub.store import Append, Draft
from hub.store.memory import MemoryStore
from hub.store.sqlite import SqliteStore
from hub.terms import ZERO_ID, Kind, Limits, Policy, Span
from hub.wire.header import FLAG_PADDED, Header, parse_header
from hub.wire.messages import (
    ApproveDevice,
    CreateSpace,
    Enrol,
    RequestCode,
)
from tests.mailbox import HOST, Mailbox

HOUR, DAY = 3_600.0, 86_400.0
START = 1_800_000_000.0
MANY = (Span(1_000, DAY),)
UNLIMITED = CodeLimits(address=MANY, near=MANY, wide=MANY, origin=MANY, hub=MANY, accounts=MANY)
ANNA, BEN, EVE = "anna@example.org", "ben@example.org", "eve@example.org"


class Clock:
    """Unix seconds that pass when the test says so."""

    def __init__(self):
        self.now = START

    def __call__(self):
        return self.now


@dataclass
class Person:
    """A device and what its session knows."""

    device: object
    key: SigningKey

    def caller(self, **changes):
        d = self.device
        return Caller(d.account_id, d.device_id, d.scope, d.app_id, **changes)


@dataclass
class Hub:
    """One replica of the accounts service over a real store, a real bus and a real mail server."""

    store: object
    mailbox: Mailbox
    clock: Clock = field(default_factory=Clock)
    bus: LocalBus = field(default_factory=LocalBus)
    secrets: object = field(default_factory=lambda: new_secrets(random_source.token_bytes))
    replicas: list = field(default_factory=list)
    mailed: list = field(default_factory=list)
    notices: list = field(default_factory=list)

    def replica(self, mode="open", *, allowed=(), **changes):
        values = {
            "policy": Policy(),
            "limits": Limits(),
            "sign_up": SignUp(mode, allowed),
            "clock": self.clock,
            "random": random_source.token_bytes,
            "code_limits": UNLIMITED,
            "mailed": self.mailed.append,
        } | changes
        mailer = values.pop("mailer", None) or self.mailer()
        secrets = values.pop("secrets", self.secrets)
        self.replicas.append(Accounts(values.pop("store", self.store), self.bus, mailer, secrets, **values))
        return self.replicas[-1]

    def mailer(self, port=None):
        return SmtpMailer(HOST, port or self.mailbox.port, security="none", sender="codes@hub.example")

    async def sign_in(self, accounts, address, *, app_id="notes", scope="app", key=None, ip="192.0.2.1"):
        key = key or SigningKey.generate()
        sent = await ask(accounts, address, key=key, app_id=app_id)
        mail = await self.mailbox.next()
        device = await enrol(accounts, sent, mail.code, key, scope=scope, ip=ip)
        if device.enrolled_via == "first":
            await self.bus.subscribe(device.account_id, self.notices.append)
        return Person(device, key)

    async def told(self):
        """The notices so far."""
        await asyncio.sleep(0)
        return list(self.notices)

    async def close(self):
        for accounts in self.replicas:
            await accounts.close()
        await self.store.close()


@contextlib.asynccontextmanager
async def accounts_hub(kind, folder):
    """A hub on the store of this kind ("memory" or "sqlite"), closed with the block."""
    store = sqlite(folder) if kind == "sqlite" else MemoryStore()
    await store.open()
    async with Mailbox() as mailbox:
        hub = Hub(store, mailbox)
        yield hub
        await hub.close()


def sqlite(folder):
    return SqliteStore(folder / "hub.db", limits=Limits(), quota_bytes=Policy().quota_bytes)


KEY = SigningKey.generate()
_numbers = itertools.count()


async def ask(accounts, address, *, key=KEY, ip=None, origin="", caller=None, **changes):
    number = next(_numbers)
    ip = ip or f"10.{number // 250 % 250}.{number % 250}.1"
    msg = RequestCode(**{"request": 7, "address": address, "device_pk": pk(key), "app_id": "notes"} | changes)
    return await accounts.request_code(msg, ip=ip, origin=origin, caller=caller)


async def enrol(accounts, sent, code, key=KEY, *, scope="app", device_id=None, signature_ok=True, ip="192.0.2.1"):
    msg = Enrol(8, sent.attempt_id, code, key if isinstance(key, bytes) else pk(key), bytes(64), scope)
    device_id = device_id or random_source.token_bytes(16)
    return await accounts.enrol(msg, device_id=device_id, signature_ok=signature_ok, ip=ip)


def pk(key):
    return bytes(key.verify_key)


def other_than(code):
    return f"{(int(code) + 1) % 10**8:08d}"


async def refused(awaitable):
    with pytest.raises(Refusal) as caught:
        await awaitable
    return caught.value.code


async def asked_and_mailed(hub, accounts, address, **changes):
    sent = await ask(accounts, address, **changes)
    return sent, (await hub.mailbox.next()).code


async def a_space(accounts, person, *, app_id="notes"):
    key = pk(SigningKey.generate())
    msg = CreateSpace(9, space_id_of(key), app_id, key, bytes(64))
    return (await accounts.rights.create_space(msg, person.caller(), True)).space_id


async def mailed_number(hub, accounts):
    """How many mails went out, once nothing is under way any more."""
    await accounts.close()
    return len(hub.mailbox.mails)


def bad_keys():
    honest = pk(SigningKey.generate())
    order_8 = bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")
    torsion = [order_8]
    for _ in range(7):
        torsion.append(crypto_core_ed25519_add(torsion[-1], order_8))
    assert len(set(torsion)) == 8
    mixed = [crypto_core_ed25519_add(honest, point) for point in torsion if point != torsion[7]]
    beyond = [(2**255 - 19 + n).to_bytes(32, "little") for n in range(19)]
    # The public keys of the published edge cases (ed25519-speccheck).
    published = [
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    ]
    off_curve = (2).to_bytes(32, "little")
    return [*torsion, *mixed, *beyond, *map(bytes.fromhex, published), off_curve]


class Watched:
    """The real store, noting which of its methods are called."""

    def __init__(self, store):
        self.store = store
        self.calls = []

    def __getattr__(self, name):
        self.calls.append(name)
        return getattr(self.store, name)


@dataclass
class Family:
    """Two trusted devices of Anna's, one on probation, one of a stranger; and a space."""

    accounts: Accounts
    app: Person
    board: Person
    mailed: Person
    stranger: Person
    space_id: bytes

    def space_of(self, person, entered):
        return person.caller(entered=frozenset({self.space_id} if entered else ()))


async def family_of(hub_here):
    """A family at a new replica; nobody has been told anything yet."""
    accounts = hub_here.replica()
    app = await hub_here.sign_in(accounts, ANNA)
    board = await hub_here.sign_in(accounts, ANNA, app_id="board", scope="account")
    await accounts.rights.approve_device(ApproveDevice(1, app.device.device_id), app.caller())
    hub_here.clock.now += 73 * HOUR  # board is off probation by time
    mailed = await hub_here.sign_in(accounts, ANNA, scope="account")
    stranger = await hub_here.sign_in(accounts, BEN, scope="account")
    space_id = await a_space(accounts, app)
    hub_here.notices.clear()
    await hub_here.told()
    hub_here.notices.clear()
    return Family(accounts, app, board, mailed, stranger, space_id)


async def fresh_code(hub, family, person, address=ANNA, **changes):
    caller = person.caller()
    values = {"key": person.key, "purpose": "confirm", "caller": caller} | changes
    sent = await ask(family.accounts, address, **values)
    return sent, (await hub.mailbox.next()).code


COLLECTION = b"c" * 16


async def append(store, person, space_id, *, counter=1, record=b"r" * 16, body=bytes(64), collection_id=COLLECTION):
    """A change of this person's device in the space, straight into the store; its sealed bytes."""
    header = Header(
        1, 1, Kind.PUT, FLAG_PADDED, 0, space_id, collection_id, record,
        random_source.token_bytes(16), person.device.device_id, counter, ZERO_ID,
    )  # fmt: skip
    sealed = header.pack() + random_source.token_bytes(24) + body + bytes(16)
    parsed = Draft(parse_header(sealed), sealed)
    (done,) = await store.append([Append(person.device.account_id, space_id, person.device.device_id, [parsed])], START)
    assert [answer.code for answer in done.answers] == [""], done
    return sealed
