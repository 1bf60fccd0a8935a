"""The hub on a real socket: handshake, limits of the door, delivery, revocation, pages."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from hub.wire import messages as m
from tests.hub_rig import APP, COLLECTION, Place, Wire, hub_in


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with hub_in(tmp_path / "data") as place:
        yield place


async def anna(place: Place, address: str = "anna@example.org") -> Wire:
    """A signed-in device with a space."""
    wire = Wire(place.url)
    await wire.sign_up(place.mailbox, address)
    await wire.make_space()
    return wire


async def second_device(place: Place, first: Wire, address: str = "anna@example.org") -> Wire:
    wire = Wire(place.url)
    await wire.sign_up(place.mailbox, address)
    wire.space_key = first.space_key
    await wire.enter()
    return wire


async def get(place: Place, path: str, *more: str, method: str = "GET") -> tuple[int, str]:
    """One plain HTTP request; status and everything after the status line."""
    reader, writer = await asyncio.open_connection("127.0.0.1", place.hub.port)
    headers = "".join(f"{line}\r\n" for line in (f"Host: 127.0.0.1:{place.hub.port}", *more))
    writer.write(f"{method} {path} HTTP/1.1\r\n{headers}\r\n".encode())
    answer = (await asyncio.wait_for(reader.read(), 5)).decode()
    writer.close()
    await writer.wait_closed()
    return int(answer.split()[1]), answer.partition("\r\n")[2]


# --- the main job ---


async def test_two_devices_of_one_person_exchange_sealed_changes_live_and_later(place: Place) -> None:
    phone = await anna(place)
    laptop = await second_device(place, phone)
    await laptop.follow()
    draft = phone.draft()
    appended = await phone.append(draft)
    assert appended.answers[0].seq == 1
    (change,) = await laptop.changes(1)
    assert (change.seq, change.sealed) == (1, draft)
    await laptop.hang_up()
    later = phone.draft()
    await phone.append(later)
    await laptop.sign_in()
    await laptop.enter()
    await laptop.follow(1)
    (change,) = await laptop.changes(1)
    assert (change.seq, change.sealed) == (2, later)


async def test_everything_may_be_said_behind_the_auth_without_waiting(place: Place) -> None:
    wire = await anna(place)
    await wire.hang_up()
    await wire.greet()
    big = wire.draft(body=secrets.token_bytes(150_000))
    await wire.say(m.Auth(wire.proof()))
    await wire.say(m.Enter(1, [m.SpaceProof(wire.space_id, 0, wire.space_proof())]))
    cursor = m.CursorPart(COLLECTION, wire.incarnation, 0)
    await wire.say(m.Subscribe(2, wire.space_id, [cursor]))
    await wire.say(m.Append(3, wire.space_id, [big]))
    assert (await wire.hear(m.Appended)).answers[0].seq == 1
    assert [change.seq for change in await wire.changes(1)] == [1]


async def test_a_restarted_hub_knows_its_devices_and_changes(tmp_path: Path) -> None:
    async with hub_in(tmp_path / "data") as place:
        wire = await anna(place)
        draft = wire.draft()
        await wire.append(draft)
        port = place.hub.port
    assert await wire.closing() == 4000
    async with hub_in(tmp_path / "data", port=port):
        await wire.sign_in()
        await wire.enter()
        await wire.follow()
        assert [change.sealed for change in await wire.changes(1)] == [draft]


async def test_an_account_sees_nothing_of_another(place: Place) -> None:
    mine, theirs = await anna(place), await anna(place, "ben@example.org")
    await theirs.append(theirs.draft())
    mine.space_key = theirs.space_key
    proof = m.SpaceProof(mine.space_id, 0, mine.space_proof())
    assert await mine.refusal(m.Enter(1, [proof])) == "not_found"


# --- the door ---


async def test_the_subprotocol_is_required(place: Place) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(place.url, proxy=None)
    assert refused.value.response.status_code == 400


async def test_a_foreign_host_name_is_misdirected(place: Place) -> None:
    status, _ = await get(place, "/v1/ws")
    assert status != 421  # our own name passes the door and fails later, not being a WebSocket
    reader, writer = await asyncio.open_connection("127.0.0.1", place.hub.port)
    writer.write(b"GET /v1/ws HTTP/1.1\r\nHost: evil.example.org\r\n\r\n")
    assert b" 421 " in await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("origin", ["null", "https://app.example.org", "http://localhost:3000"])
async def test_any_origin_may_connect_since_nothing_rides_on_it(place: Place, origin: str) -> None:
    wire = Wire(place.url)
    await wire.dial(origin=origin)
    await wire.hang_up()


async def test_an_operator_may_name_the_origins(tmp_path: Path) -> None:
    async with hub_in(tmp_path / "data", allowed_origins=("https://app.example.org",)) as place:
        await (await Wire(place.url).dial(origin="https://app.example.org")).hang_up()
        with pytest.raises(InvalidStatus):
            await Wire(place.url).dial(origin="https://evil.example.org")


async def test_cookies_and_authorization_change_nothing(place: Place) -> None:
    garbage = {"Cookie": "session=1", "Authorization": "Bearer x"}
    wire = await (Wire(place.url)).dial(additional_headers=garbage)
    response = wire.socket.response
    assert response is not None and "Set-Cookie" not in response.headers
    await wire.hang_up()


async def test_no_compression_is_negotiated(place: Place) -> None:
    async with connect(place.url, subprotocols=["hub.v1"], compression="deflate", proxy=None) as socket:  # type: ignore[list-item]
        assert socket.protocol.extensions == []


@pytest.mark.parametrize(("size", "code"), [(4_096, 4500), (4_097, 1009)])
async def test_before_auth_a_frame_may_have_4096_bytes(place: Place, size: int, code: int) -> None:
    wire = await Wire(place.url).dial()
    await wire.say(b"x" * size)
    assert await wire.closing() == code


@pytest.mark.parametrize(("size", "fits"), [(262_144, True), (262_145, False)])
async def test_after_auth_a_frame_may_have_256_kib(place: Place, size: int, fits: bool) -> None:
    wire = await anna(place)
    frame = b"\x83\xa4type\xaclist_devices\xa7request\x05\xa4fill\xc6"
    frame += (size - len(frame) - 4).to_bytes(4, "big")
    await wire.say(frame + bytes(size - len(frame)))
    if fits:
        await wire.hear(m.DeviceList)
    else:
        assert await wire.closing() == 1009


async def test_a_silent_socket_is_closed_in_time(place: Place) -> None:
    wire = await Wire(place.url).dial()
    started = asyncio.get_running_loop().time()
    assert await wire.closing(within_s=8) == 4001
    assert 4.5 < asyncio.get_running_loop().time() - started < 7


async def test_a_request_that_never_ends_is_closed_in_time(place: Place) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", place.hub.port)
    writer.write(b"GET /v1/ws HTTP/1.1\r\nHost:")
    assert await asyncio.wait_for(reader.read(), 8) is not None
    writer.close()
    await writer.wait_closed()


async def test_a_wrong_signature_is_one_closing(place: Place) -> None:
    wire = await anna(place)
    wire.device_key = SigningKey.generate()
    await wire.greet()
    await wire.say(m.Auth(wire.proof()))
    assert await wire.closing() == 4501


async def test_a_replayed_auth_is_refused(place: Place) -> None:
    wire = await anna(place)
    await wire.greet()
    captured = wire.proof()
    await wire.greet()
    await wire.say(m.Auth(captured))
    assert await wire.closing() == 4501


async def test_sockets_beyond_the_hubs_most_are_turned_away(tmp_path: Path) -> None:
    async with hub_in(tmp_path / "data", sessions_max=4) as place:
        inside = [await Wire(place.url).dial() for _ in range(3)]  # 95 % of 4
        outside = await Wire(place.url).dial()
        assert await outside.closing() == 4013
        await inside[0].hang_up()
        for _ in range(50):
            again = await Wire(place.url).dial()
            await again.say(b"\xc0")
            if await again.closing() == 4500:
                break
        else:
            pytest.fail("the place was not free again")
        for wire in inside[1:]:
            await wire.hang_up()


# --- sessions of one device, revocation ---


async def test_the_newer_connection_of_a_device_replaces_the_older(place: Place) -> None:
    wire = await anna(place)
    older, wire._socket = wire._socket, None
    await wire.sign_in()
    wire._socket, newer = older, wire._socket
    assert await wire.closing() == 4509
    wire._socket = newer
    await wire.ask(m.ListDevices(5), m.DeviceList)


async def test_a_revoked_device_is_closed_within_a_second_and_stays_out(place: Place) -> None:
    wire = Wire(place.url)
    await wire.sign_up(place.mailbox, "anna@example.org", scope="account")
    other = Wire(place.url)
    await other.sign_up(place.mailbox, "anna@example.org")
    started = asyncio.get_running_loop().time()
    await wire.ask(m.RevokeDevices(7, [other.device_id]), m.Done)
    assert await other.closing(1.0) == 4503
    assert asyncio.get_running_loop().time() - started < 1.0
    await other.greet()
    await other.say(m.Auth(other.proof()))
    assert await other.closing() == 4501


async def test_a_revocation_whose_notice_was_lost_is_found_by_the_recheck(place: Place) -> None:
    wire = await anna(place)
    device = await place.hub.store.device(wire.device_id)
    assert device
    await place.hub.store.revoke(device.account_id, [wire.device_id], 1.0)  # and nobody is told
    await place.hub.server.recheck_stopped()
    assert await wire.closing(1.0) == 4503


async def test_a_revocation_between_hello_and_auth_is_found_when_the_session_begins(place: Place) -> None:
    wire = await anna(place)
    device = await place.hub.store.device(wire.device_id)
    assert device
    await wire.greet()
    await place.hub.store.revoke(device.account_id, [wire.device_id], 1.0)
    await wire.say(m.Auth(wire.proof()))
    assert await wire.closing(1.0) == 4503


async def test_appends_that_race_a_revocation_never_commit_after_it(place: Place) -> None:
    wire = await anna(place)
    device = await place.hub.store.device(wire.device_id)
    assert device

    async def append_on() -> int:
        acknowledged = 0
        try:
            while True:
                acknowledged = (await wire.append(wire.draft())).answers[0].seq
        except Exception:
            return acknowledged

    appending = asyncio.create_task(append_on())
    while (
        not (states := await place.hub.store.states(device.account_id, wire.space_id, wire.device_id, None))
        or states[0].head < 50
    ):
        await asyncio.sleep(0)
    await place.hub.store.revoke(device.account_id, [wire.device_id], 1.0)
    head = (await place.hub.store.states(device.account_id, wire.space_id, wire.device_id, None))[0].head
    acknowledged = await appending
    (after,) = await place.hub.store.states(device.account_id, wire.space_id, wire.device_id, None)
    assert after.head == head >= acknowledged >= 50


# --- the slow device ---


async def test_a_device_that_does_not_read_costs_only_itself(place: Place) -> None:
    phone = await anna(place)
    slow, quick = await second_device(place, phone), await second_device(place, phone)
    await slow.follow()
    await quick.follow()
    slow.socket.transport.pause_reading()  # type: ignore[union-attr]
    rounds = 40
    for _ in range(rounds):
        await phone.append(phone.draft(body=secrets.token_bytes(100_000)))
        await quick.changes(1)
    peer = next(p for p in place.hub.server._peers if p.device_id == slow.device_id)
    assert peer.session.queued_bytes <= place.hub.server.limits.queued_bytes_max
    slow.socket.transport.resume_reading()  # type: ignore[union-attr]
    assert [change.seq for change in await slow.changes(rounds)] == list(range(1, rounds + 1))


async def test_a_fault_in_one_session_ends_that_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    phone = await anna(place)
    laptop = await second_device(place, phone)
    peer = next(p for p in place.hub.server._peers if p.device_id == phone.device_id)

    def stumble(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(peer, "session", Stumbling(peer.session, stumble))
    await phone.say(m.ListDevices(5))
    assert await phone.closing() == 1011
    assert await laptop.ask(m.ListDevices(6), m.DeviceList)
    assert peer not in place.hub.server._peers


class Stumbling:
    """A session that cannot take a frame."""

    def __init__(self, session: Any, received: Any) -> None:
        self._session = session
        self.received = received

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


async def test_frames_behind_ready_wait_until_the_bus_is_followed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = await anna(place)
    gate, join = asyncio.Event(), place.hub.server.fanout.join

    async def late(*member: Any) -> None:
        await gate.wait()
        await join(*member)

    monkeypatch.setattr(place.hub.server.fanout, "join", late)
    await wire.greet()
    await wire.say(m.Auth(wire.proof()))
    await wire.say(m.ListDevices(5))
    await wire.hear(m.Ready)
    (peer,) = [p for p in place.hub.server._peers if p.device_id == wire.device_id and p._joining]
    async with asyncio.timeout(5):
        while not peer._socket._rest:
            await asyncio.sleep(0.001)
    gate.set()
    assert (await wire.hear(m.DeviceList)).request == 5


async def test_an_idle_session_is_one_task(place: Place) -> None:
    phone = await anna(place)
    tasks = len(asyncio.all_tasks())
    others = [await second_device(place, phone) for _ in range(3)]
    for other in others:
        await other.follow()
    async with asyncio.timeout(5):
        while len(asyncio.all_tasks()) > tasks + len(others):
            await asyncio.sleep(0.01)


# --- signals ---


async def test_a_signal_passes_between_devices_and_is_not_kept(place: Place) -> None:
    phone = await anna(place)
    laptop = await second_device(place, phone)
    await phone.say(m.Signal(4, phone.space_id, b"are you there?"))
    signal = await laptop.hear(m.Signal)
    assert (signal.body, signal.device_id) == (b"are you there?", phone.device_id)
    assert b"are you there?" not in b"".join(p.read_bytes() for p in place.data_dir.iterdir() if p.is_file())


# --- pages ---


async def test_the_pages_answer(place: Place) -> None:
    assert (await get(place, "/healthz"))[0] == 200
    assert (await get(place, "/readyz"))[0] == 200
    status, page = await get(place, "/metrics")
    assert status == 200 and "hub_sessions 0" in page
    status, page = await get(place, "/.well-known/sync-hub")
    assert status == 200 and '"sign_up": "open"' in page and "Access-Control-Allow-Origin: *" in page
    assert (await get(place, "/nothing"))[0] == 404


async def test_a_head_request_has_no_body(place: Place) -> None:
    status, answer = await get(place, "/healthz", method="HEAD")
    assert status == 200 and answer.endswith("\r\n\r\n")


async def test_nothing_but_get_and_head_is_served(place: Place) -> None:
    assert (await get(place, "/healthz", method="DELETE"))[0] == 405


async def test_metrics_are_for_this_machine_unless_told_otherwise(tmp_path: Path) -> None:
    async with hub_in(tmp_path / "data", behind_proxy=True) as place:
        assert (await get(place, "/metrics", "X-Forwarded-For: 203.0.113.7"))[0] == 404
        assert (await get(place, "/metrics"))[0] == 200


async def test_a_forwarded_address_is_believed_from_a_trusted_proxy_only(tmp_path: Path) -> None:
    async with hub_in(tmp_path / "data", behind_proxy=False) as place:
        assert (await get(place, "/metrics", "X-Forwarded-For: 203.0.113.7"))[0] == 200


async def test_a_draining_hub_says_so(place: Place) -> None:
    place.hub.server.refuse_new()
    assert (await get(place, "/readyz"))[0] == 404
    with pytest.raises(InvalidStatus) as refused:
        await Wire(place.url).dial()
    assert refused.value.response.status_code == 503


# --- signing in, end to end ---


async def test_a_wrong_code_is_refused_and_the_right_one_still_works(place: Place) -> None:
    wire = Wire(place.url)
    await wire.greet()
    sent = await wire.ask(m.RequestCode(1, "anna@example.org", bytes(wire.device_key.verify_key), APP), m.CodeSent)
    mail = await place.mailbox.next()
    assert sent.phrase in mail.text
    wrong = "0" * 8 if mail.code != "0" * 8 else "1" * 8
    enrol = m.Enrol(2, sent.attempt_id, wrong, bytes(wire.device_key.verify_key), wire.proof("enrol"))
    assert await wire.refusal(enrol) == "enrol_failed"
    ready = await wire.enrol(sent.attempt_id, mail.code)
    assert ready.spaces == [] and ready.app_id == APP


async def test_a_code_is_good_on_a_later_connection_with_the_same_key_only(place: Place) -> None:
    wire = Wire(place.url)
    await wire.greet()
    sent = await wire.ask(m.RequestCode(1, "anna@example.org", bytes(wire.device_key.verify_key), APP), m.CodeSent)
    code = (await place.mailbox.next()).code
    thief = Wire(place.url)
    await thief.greet()
    enrol = m.Enrol(2, sent.attempt_id, code, bytes(thief.device_key.verify_key), thief.proof("enrol"))
    assert await thief.refusal(enrol) == "enrol_failed"
    await wire.greet()
    assert (await wire.enrol(sent.attempt_id, code)).account_id


async def test_a_second_device_by_mail_is_announced_and_on_probation(place: Place) -> None:
    phone = await anna(place)
    laptop = Wire(place.url)
    ready = await laptop.sign_up(place.mailbox, "anna@example.org")
    assert ready.probation_until > ready.server_time + 71 * 3600
    notice = await phone.hear(m.AccountNotice)
    assert (notice.what, notice.device_id) == ("device_enrolled", laptop.device_id)
    assert await laptop.refusal(m.RevokeDevices(3, [phone.device_id])) == "probation"
    await phone.ask(m.ApproveDevice(4, laptop.device_id), m.Done)
    devices = await phone.ask(m.ListDevices(5), m.DeviceList)
    assert [device.probation_until for device in devices.devices] == [0.0, 0.0]


async def test_the_first_person_closes_the_door_behind_them(tmp_path: Path) -> None:
    async with hub_in(tmp_path / "data", sign_up="closed") as place:
        await anna(place)
        stranger = Wire(place.url)
        await stranger.greet()
        key = bytes(stranger.device_key.verify_key)
        await stranger.ask(m.RequestCode(1, "ben@example.org", key, APP), m.CodeSent)
        await second_device(place, await anna_again(place))
        assert {mail.recipient for mail in place.mailbox.mails} == {"anna@example.org"}


async def anna_again(place: Place) -> Wire:
    """A device of the account that is there."""
    wire = Wire(place.url)
    await wire.sign_up(place.mailbox, "anna@example.org")
    await wire.make_space()
    return wire
