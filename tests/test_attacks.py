"""Attacks on a real hub over a real socket: floods, fragments, slow requests, guessed codes, a full account."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from hub.terms import Kind
from hub.wire import messages as m
from tests.hub_rig import APP, Place, Wire, hub_in
from tests.test_server import anna, second_device


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with hub_in(tmp_path / "data") as place:
        yield place


async def test_a_flood_is_refused_then_closed_and_others_do_not_notice(place: Place) -> None:
    attacker, bystander = await anna(place), await anna(place, "ben@example.org")
    with contextlib.suppress(ConnectionClosed):
        for number in range(2_000):
            await attacker.say(m.ListDevices(number))
    assert await attacker.closing() == 4029
    assert any(isinstance(message, m.Refused) and message.code == "rate_limited" for message in attacker.unread)
    assert (await bystander.append(bystander.draft())).answers[0].seq == 1


async def test_a_frame_in_ten_thousand_fragments_takes_bounded_memory(place: Place) -> None:
    def crumbs() -> Iterator[bytes]:
        for _ in range(10_000):
            yield b"x"

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wire = await Wire(place.url).dial()
    with contextlib.suppress(ConnectionClosed):
        await wire.socket.send(crumbs())
    assert await wire.closing() == 1009
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


async def test_headers_without_end_are_refused(place: Place) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", place.hub.port)
    with contextlib.suppress(ConnectionError):
        writer.write(b"GET /v1/ws HTTP/1.1\r\n" + b"X-Filler: x\r\n" * 500)
        await writer.drain()
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = await asyncio.wait_for(reader.read(), 5)
    assert b" 101 " not in answer
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_guessing_a_code_ends_after_five_tries_even_with_the_right_one(place: Place) -> None:
    wire = Wire(place.url)
    await wire.greet()
    pk = bytes(wire.device_key.verify_key)
    sent = await wire.ask(m.RequestCode(1, "anna@example.org", pk, APP), m.CodeSent)
    right = (await place.mailbox.next()).code
    for guess in range(5):
        wrong = f"{(int(right) + 1 + guess) % 10**8:08d}"
        enrol = m.Enrol(2, sent.attempt_id, wrong, pk, wire.proof("enrol"))
        assert await wire.refusal(enrol) == "enrol_failed"
    enrol = m.Enrol(3, sent.attempt_id, right, pk, wire.proof("enrol"))
    assert await wire.refusal(enrol) == "enrol_failed"


async def test_one_code_enrols_one_device_however_many_try_at_once(place: Place) -> None:
    wire = Wire(place.url)
    await wire.greet()
    pk = bytes(wire.device_key.verify_key)
    sent = await wire.ask(m.RequestCode(1, "anna@example.org", pk, APP), m.CodeSent)
    code = (await place.mailbox.next()).code
    twins = []
    for _ in range(4):  # 5 tries at most, so all of these are judged
        twin = Wire(place.url)
        twin.device_key, twin.device_id = wire.device_key, wire.device_id
        await twin.greet()
        twins.append(twin)

    async def enrol(twin: Wire) -> bool:
        await twin.say(m.Enrol(2, sent.attempt_id, code, pk, twin.proof("enrol")))
        try:
            await twin.hear(m.Ready)
        except AssertionError:
            return False
        return True

    assert sum(await asyncio.gather(*[enrol(twin) for twin in twins])) == 1
    assert await place.hub.store.count_accounts() == 1


async def test_a_mailbox_thief_gets_no_content_and_destroys_nothing(place: Place) -> None:
    victim = await anna(place)
    await victim.append(victim.draft())
    thief = Wire(place.url)
    await thief.sign_up(place.mailbox, "anna@example.org", scope="account")
    space_id = victim.space_id
    forged = m.SpaceProof(space_id, 0, thief.space_proof())
    assert await thief.refusal(m.Enter(1, [forged])) == "bad_space_proof"
    cursor = m.CursorPart(b"c" * 16, bytes(16), 0)
    assert await thief.refusal(m.Subscribe(2, space_id, [cursor])) == "no_space_proof"
    assert await thief.refusal(m.Append(3, space_id, [thief.draft()])) == "no_space_proof"
    for verb in (m.RevokeDevices(4, [victim.device_id]), m.DeleteSpace(5, space_id), m.DeleteAccount(6)):
        assert await thief.refusal(verb) == "probation"
    assert (await victim.append(victim.draft())).answers[0].seq == 2


async def test_a_full_account_can_still_delete_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    async with hub_in(tmp_path / "data", quota_mib=1) as place:
        wire = await anna(place)
        big = bytes(150_000)
        codes = [(await wire.append(wire.draft(body=big, record_id=bytes([n]) * 16))).answers[0].code for n in range(6)]
        assert codes == [""] * 6
        refused = await wire.append(wire.draft(body=big, record_id=b"z" * 16))
        assert refused.answers[0].code == "quota_exceeded"
        wire.counter -= 1  # a refused draft uses up no counter
        deleted = await wire.append(wire.draft(kind=Kind.DELETE, record_id=bytes(16)))
        assert deleted.answers[0].code == ""
        wiped = await wire.append(wire.draft(kind=Kind.WIPE, record_id=bytes(16)))
        assert wiped.answers[0].code == "" and wiped.used_bytes < 1_000
        assert (await wire.append(wire.draft(body=big))).answers[0].code == ""


async def test_sessions_of_one_account_are_bounded(tmp_path: Path) -> None:
    async with hub_in(tmp_path / "data", sessions_per_account_max=2) as place:
        first = await anna(place)
        second = await second_device(place, first)
        third = Wire(place.url)
        await third.sign_up(place.mailbox, "anna@example.org")
        assert await third.closing() == 4013
        await second.append(second.draft())


async def test_a_cloned_device_is_told_so(place: Place) -> None:
    wire = await anna(place)
    await wire.append(wire.draft())
    wire.counter -= 1
    assert (await wire.append(wire.draft())).answers[0].code == "device_cloned"


async def test_a_thousand_sign_ins_at_once_do_not_hold_up_the_others(place: Place) -> None:
    bystander = await anna(place)
    askers = [Wire(place.url) for _ in range(20)]

    async def ask(wire: Wire, number: int) -> None:
        await wire.greet()
        key = bytes(wire.device_key.verify_key)
        await wire.ask(m.RequestCode(1, f"x{number}@example.org", key, APP), m.CodeSent)

    asking = asyncio.gather(*[ask(wire, number) for number, wire in enumerate(askers)])
    loop = asyncio.get_running_loop()
    waits = []
    while not asking.done():
        started = loop.time()
        await bystander.append(bystander.draft())
        waits.append(loop.time() - started)
    await asking
    # Twenty slow hashes take most of a second of two cores; an append in between must not wait for them.
    assert len(waits) > 10 and sorted(waits)[len(waits) // 2] < 0.1
