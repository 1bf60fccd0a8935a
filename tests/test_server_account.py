"""An account over real sockets: suspended, moving, moved; what proves what; its operator."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pyotp
import pytest
from nacl.signing import SigningKey

from hub.bundle import Reader
from hub.bus import AccountStopped
from hub.errors import Refusal
from hub.store import Device, Happening
from hub.store.memory import MemoryStore
from hub.totp import operator_secret, text_of
from hub.wire import messages as m
from tests.hub_rig import Wire
from tests.replica_rig import Line, Replica, replica, settled
from tests.session_rig import APP, Person
from tests.test_server_drain import devices

MOVED_TO = "wss://new.example.org/v1/ws"
CLOSINGS = {"suspended": 4505, "moving": 4014}


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    store = MemoryStore()
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def line() -> Line:
    return Line()


async def stop(store: MemoryStore, person: Person, closing: str) -> None:
    """In the store alone; nobody is told."""
    if closing == "suspended":
        await store.suspend(person.account_id, time.time())
    else:
        await store.begin_move(person.account_id, MOVED_TO)


async def dial(hub: Replica, person: Person) -> Wire:
    """A device that has said hello and given its proof, whatever comes of it."""
    wire = Wire(hub.url)
    wire.device_id, wire.device_key, wire.space_key = person.device_id, person.device_key, person.space_key
    await wire.greet()
    await wire.say(m.Auth(wire.proof()))
    return wire


async def dashboard(store: MemoryStore, person: Person, *, probation_until: float | None = None) -> Person:
    """Another device of the person, with account scope."""
    key = SigningKey.generate()
    device = Device(
        secrets.token_bytes(16), person.account_id, bytes(key.verify_key), "account", "dashboard", "mail",
        time.time(), 0, probation_until,
    )  # fmt: skip
    await store.add_device(device, per_account_max=60, per_app_max=20)
    board = Person(store, person.account_id, device.device_id, key)
    board.space_key, board.space_id = person.space_key, person.space_id
    return board


async def enrolled(hub: Replica, person: Person) -> Wire:
    """The person's device, connected; no space is entered."""
    wire = await dial(hub, person)
    await wire.hear(m.Ready)
    return wire


# --- stopped ---


@pytest.mark.parametrize("closing", CLOSINGS)
async def test_all_sessions_of_a_stopped_account_are_closed_within_a_second_and_stay_out_until_it_goes_on(
    store: MemoryStore, line: Line, closing: str
) -> None:
    phone_of, laptop_of = await devices(await settled(store), 2)
    neighbour_of = await settled(store)
    async with replica(store, line) as one, replica(store, line) as two:
        phone, laptop, neighbour = (
            await one.sign_in(phone_of), await two.sign_in(laptop_of), await two.sign_in(neighbour_of),
        )  # fmt: skip
        await stop(store, phone_of, closing)
        one.bus.publish(phone_of.account_id, AccountStopped(closing))
        assert await phone.closing(1.0) == await laptop.closing(1.0) == CLOSINGS[closing]
        assert await (await dial(one, phone_of)).closing(1.0) == CLOSINGS[closing]
        await neighbour.ask(m.ListDevices(1), m.DeviceList)
        await neighbour.hang_up()
        if closing == "suspended":
            await store.suspend(phone_of.account_id, None)
        else:
            await store.begin_move(phone_of.account_id, "")
        back = await one.sign_in(phone_of)
        assert (await back.append(back.draft())).answers[0].seq == 1
        await back.hang_up()


@pytest.mark.parametrize("closing", CLOSINGS)
async def test_a_stop_whose_notice_was_lost_is_found_by_the_recheck(
    store: MemoryStore, line: Line, closing: str
) -> None:
    person = await settled(store)
    async with replica(store, line, watched=False) as hub:
        wire = await hub.sign_in(person)
        await stop(store, person, closing)
        await hub.server.recheck_stopped()
        assert await wire.closing(1.0) == CLOSINGS[closing]


@pytest.mark.parametrize("closing", CLOSINGS)
async def test_a_stop_whose_notice_was_lost_is_found_by_the_next_append(
    store: MemoryStore, line: Line, closing: str
) -> None:
    person = await settled(store)
    async with replica(store, line, watched=False) as hub:
        wire = await hub.sign_in(person)
        await stop(store, person, closing)
        await wire.say(m.Append(1, person.space_id, [wire.draft()]))
        assert await wire.closing(1.0) == CLOSINGS[closing]
        assert not any(isinstance(message, m.Appended) for message in wire.unread)


@pytest.mark.parametrize("closing", CLOSINGS)
async def test_a_stop_between_hello_and_auth_is_found_when_the_session_begins(
    store: MemoryStore, line: Line, closing: str
) -> None:
    person = await settled(store)
    async with replica(store, line, watched=False) as hub:
        wire = Wire(hub.url)
        wire.device_id, wire.device_key = person.device_id, person.device_key
        await wire.greet()
        await stop(store, person, closing)
        await wire.say(m.Auth(wire.proof()))
        assert await wire.closing(1.0) == CLOSINGS[closing]


# --- moved ---


async def moved(store: MemoryStore, person: Person) -> None:
    await store.begin_move(person.account_id, MOVED_TO)
    assert await store.end_move(person.account_id, time.time())


async def test_a_device_is_told_where_its_account_moved_and_nobody_else_is(store: MemoryStore, line: Line) -> None:
    person = await settled(store)
    await moved(store, person)
    async with replica(store, line) as hub:
        wire = await dial(hub, person)
        assert await wire.closing(1.0) == 4506
        assert wire.unread == [m.Moved(MOVED_TO)]
        person.device_key = SigningKey.generate()
        stranger = await dial(hub, person)
        assert await stranger.closing(1.0) == 4501
        assert stranger.unread == []


async def test_what_a_moved_device_sends_behind_its_proof_may_be_large(store: MemoryStore, line: Line) -> None:
    person = await settled(store)
    await moved(store, person)
    async with replica(store, line) as hub:
        wire = await dial(hub, person)
        await wire.say(m.Append(1, person.space_id, [wire.draft(body=bytes(100_000))]))
        assert await wire.closing(1.0) == 4506


@pytest.mark.parametrize("found_by", ["append", "recheck", "notice"])
async def test_a_session_that_lived_through_a_move_comes_back_and_is_told_where(
    store: MemoryStore, line: Line, found_by: str
) -> None:
    """It is not told that it was revoked: a device that thinks so never comes back."""
    person = await settled(store)
    async with replica(store, line, watched=False) as hub:
        wire = await hub.sign_in(person)
        await moved(store, person)
        if found_by == "append":
            await wire.say(m.Append(1, person.space_id, [wire.draft()]))
        elif found_by == "recheck":
            await hub.server.recheck_stopped()
        else:
            hub.bus.publish(person.account_id, AccountStopped("moved"))
        assert await wire.closing(1.0) == 4014
        again = await dial(hub, person)
        assert await again.closing(1.0) == 4506 and again.unread == [m.Moved(MOVED_TO)]


# --- what is noticed, and what proves what ---


async def test_wrong_proofs_and_old_keys_are_in_the_audit_list_after_the_next_upkeep(
    store: MemoryStore, line: Line
) -> None:
    person = await settled(store)
    async with replica(store, line) as hub:
        wire = await enrolled(hub, person)
        wrong = m.Enter(1, [m.SpaceProof(person.space_id, 0, bytes(64))])
        for _ in range(3):
            assert await wire.refusal(wrong) == "bad_space_proof"
        await hub.accounts.upkeep(time.time())
        await wire.hang_up()
    (entry,) = await store.audit(person.account_id, before=0, limit=9)
    assert (entry.what, entry.count, entry.device_id, entry.subject_id) == (
        "proof_refused", 3, person.device_id, person.space_id,
    )  # fmt: skip


@pytest.mark.parametrize("used", [True, False])
async def test_a_dashboard_that_proves_the_key_of_a_space_in_use_revokes_at_once(
    store: MemoryStore, line: Line, used: bool
) -> None:
    person = await settled(store)
    board = await dashboard(store, person, probation_until=time.time() + 1_000)
    async with replica(store, line) as hub:
        phone = await hub.sign_in(person)
        if used:
            await phone.append(phone.draft())
        wire = await enrolled(hub, board)
        assert await wire.refusal(m.RevokeDevices(1, [person.device_id])) == "probation"
        # Sent without waiting for the answer to the first.
        await wire.say(m.Enter(2, [m.SpaceProof(person.space_id, 0, wire.space_proof())]))
        await wire.hear(m.Entered)
        if used:
            await wire.ask(m.RevokeDevices(3, [person.device_id]), m.Done)
            assert await phone.closing(1.0) == 4503
        else:
            assert await wire.refusal(m.RevokeDevices(3, [person.device_id])) == "probation"
            await phone.hang_up()
        await wire.hang_up()


# --- taking everything home ---


async def test_a_person_sees_spaces_and_audit_list_and_takes_everything_home(store: MemoryStore, line: Line) -> None:
    person = await settled(store)
    board = await dashboard(store, person)
    async with replica(store, line) as hub:
        phone = await hub.sign_in(person)
        draft = phone.draft()
        await phone.append(draft)
        wire = await enrolled(hub, board)
        (space,) = (await wire.ask(m.ListSpaces(1), m.SpaceList)).spaces
        assert (space.app_id, space.used_bytes, space.changes) == (APP, len(draft), 1)
        reader, cursor, parts = Reader(), b"", []
        while True:
            piece = await wire.ask(m.Export(2, None, cursor), m.Exported)
            parts += reader.feed(piece.bundle)
            if not (cursor := piece.cursor):
                break
        assert reader.close().rows["change"] == 1
        assert piece.done_bytes == piece.total_bytes == len(draft)
        audit = await wire.ask(m.ListAudit(3), m.AuditList)
        assert [(entry.what, entry.device_id) for entry in audit.entries] == [("exported", board.device_id)]
        assert await phone.refusal(m.ListAudit(4)) == "forbidden"
        assert await phone.refusal(m.Export(4)) == "forbidden"
        for each in (phone, wire):
            await each.hang_up()


# --- operating ---


class Office:
    """Does what it is told, and refuses one verb."""

    async def do(self, verb: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if verb == "wrong":
            raise Refusal("bad_request", "wrong: no such verb")
        return {"verb": verb, "arguments": dict(arguments)}


async def test_an_operator_types_a_code_and_then_has_things_done(store: MemoryStore, line: Line) -> None:
    person = await settled(store)
    board = await dashboard(store, person)
    salt = b"s" * 16
    await store.make_operator(person.account_id, salt, time.time())
    async with replica(store, line, operating=Office()) as hub:
        wire = await dial(hub, board)
        assert (await wire.hear(m.Ready)).operator
        operate = m.Operate(1, "stats", {"limit": 3})
        assert await wire.refusal(operate) == "operator_code_needed"
        totp = pyotp.TOTP(text_of(operator_secret(hub.secrets.otp_key, person.account_id, salt)))
        await wire.ask(m.OperatorCode(2, totp.now()), m.Done)
        assert (await wire.ask(operate, m.Operated)).result == {"verb": "stats", "arguments": {"limit": 3}}
        assert await wire.refusal(m.Operate(3, "wrong")) == "bad_request"
        other = await enrolled(hub, await dashboard(store, person))
        assert await other.refusal(operate) == "operator_code_needed"  # it holds for one session
        await wire.hang_up()
        again = await enrolled(hub, board)
        assert await again.refusal(operate) == "operator_code_needed"
        for each in (other, again):
            await each.hang_up()


async def test_a_hub_that_nobody_operates_from_afar_says_so(store: MemoryStore, line: Line) -> None:
    person = await settled(store)
    board = await dashboard(store, person)
    await store.make_operator(person.account_id, b"s" * 16, time.time())
    async with replica(store, line) as hub:
        wire = await dial(hub, board)
        assert not (await wire.hear(m.Ready)).operator
        totp = pyotp.TOTP(text_of(operator_secret(hub.secrets.otp_key, person.account_id, b"s" * 16)))
        await wire.ask(m.OperatorCode(2, totp.now()), m.Done)
        assert await wire.refusal(m.Operate(1, "stats")) == "forbidden"
        await wire.hang_up()


# --- told before closed ---


async def test_a_device_that_revokes_itself_hears_that_it_is_done_before_it_is_closed(line: Line) -> None:
    class Slow(MemoryStore):
        """Takes a moment for each note of the audit list."""

        async def note(self, happenings: Sequence[Happening]) -> None:
            await asyncio.sleep(0.05)
            await super().note(happenings)

    store = Slow()
    await store.open()
    person = await settled(store)
    async with replica(store, line) as hub:
        wire = await enrolled(hub, person)
        await wire.say(m.RevokeDevices(7, [person.device_id]))
        assert await wire.closing(1.0) == 4503
        assert m.Done(7) in wire.unread
    (entry,) = await store.audit(person.account_id, before=0, limit=9)
    assert (entry.what, entry.device_id, entry.subject_id) == ("device_revoked", person.device_id, person.device_id)
