"""What the hub does for two devices that pair: meet, hand over, enrol; each limit at n and n+1; and all for real."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from hub.bus import PairingPassed
from hub.client import HubClient, PairingFailed, PairingHandle, Refusal
from hub.client.pairing import WITHIN_S, pairing_code
from hub.effects import JoinPairing, Known
from hub.session import Session
from hub.store.memory import MemoryStore
from hub.terms import ID_BYTES, Limits, Policy
from hub.wire import messages as m
from hub.wire.codec import encode
from tests.hub_rig import APP, Place, Wire, hub_in
from tests.replica_rig import Line, replica, settled
from tests.session_rig import Person, Rig, person

CHANNEL, OTHER = b"c" * 16, b"o" * 16
ANNA, BEN = "anna@example.org", "ben@example.org"


# --- one session -----------------------------------------------------------------------------


async def newcomer() -> Rig:
    """A session of a device that nobody knows, at the channel."""
    stranger = Person((await person()).store)
    rig = Rig(stranger)
    await rig.greet()
    assert await rig.say(m.OpenPairing(1, CHANNEL)) == [m.Done(1)]
    return rig


async def member() -> Rig:
    """A session of a device that has proved itself, at the channel."""
    rig = await Rig(await person()).ready()
    assert await rig.say(m.OpenPairing(1, CHANNEL)) == [m.Done(1)]
    return rig


BOTH_KINDS = pytest.mark.parametrize("make", [newcomer, member], ids=["newcomer", "member"])


def hears(rig: Rig, notice: PairingPassed) -> list[m.Message]:
    """What a session sends when a frame is handed to it."""
    before = len(rig.sent)
    rig.take(rig.session.noticed(notice, rig.now))
    return rig.sent[before:]


def frame(rig: Rig, body: bytes = b"x", sender: bytes = OTHER, to: bytes | None = None) -> PairingPassed:
    """A frame of a session of the other kind."""
    return PairingPassed(CHANNEL, sender, rig.session.stage == "greeted", to, body)


@BOTH_KINDS
async def test_a_frame_has_2048_bytes_and_no_more(make: object) -> None:
    rig = await make()  # type: ignore[operator]
    most = Limits().pairing_bytes_max
    assert most == 2048
    assert await rig.say(m.Pairing(2, CHANNEL, b"x" * most)) == []
    (refused,) = await rig.say(m.Pairing(3, CHANNEL, b"x" * (most + 1)))
    assert isinstance(refused, m.Refused) and refused.code == "too_large" and rig.closed is None


@BOTH_KINDS
@pytest.mark.parametrize("heard", [0, 1, 7, 8])
async def test_a_pairing_has_8_frames_both_ways_together(make: object, heard: int) -> None:
    rig = await make()  # type: ignore[operator]
    for number in range(heard):
        assert len(hears(rig, frame(rig, bytes([number])))) == 1
    for _ in range(8 - heard):
        assert await rig.say(m.Pairing(2, CHANNEL, b"x")) == []
    (refused,) = await rig.say(m.Pairing(3, CHANNEL, b"x"))
    assert isinstance(refused, m.Refused) and refused.code == "too_many"
    assert hears(rig, frame(rig)) == []
    assert len(rig.published) == 8 - heard


@BOTH_KINDS
async def test_a_frame_goes_to_nobody_and_everybody_until_the_other_side_is_known(make: object) -> None:
    rig = await make()  # type: ignore[operator]
    await rig.say(m.Pairing(2, CHANNEL, b"first"))
    assert hears(rig, frame(rig, b"hello")) == [m.Pairing(0, CHANNEL, b"hello")]
    await rig.say(m.Pairing(3, CHANNEL, b"second"))
    assert [(passed.to, passed.body) for passed in rig.published] == [(None, b"first"), (OTHER, b"second")]
    assert all(passed.trusted is (make is member) for passed in rig.published)


@BOTH_KINDS
async def test_a_third_at_the_channel_hears_that_it_comes_too_late_and_disturbs_nobody(make: object) -> None:
    rig = await make()  # type: ignore[operator]
    assert len(hears(rig, frame(rig, b"first"))) == 1
    assert hears(rig, frame(rig, b"third", sender=b"t" * 16)) == []
    await rig.answer()
    assert rig.published == [PairingPassed(CHANNEL, rig.session.session_id, make is member, b"t" * 16, b"")]
    third = await make()  # type: ignore[operator]
    (refused,) = hears(third, frame(third, b"", to=third.session.session_id))
    assert isinstance(refused, m.Refused) and (refused.request, refused.code) == (1, "too_many")
    assert third.pairing == b"" and third.closed is None
    assert len(hears(rig, frame(rig, b"more"))) == 1


@BOTH_KINDS
async def test_who_talks_to_one_already_is_sent_away_by_no_other(make: object) -> None:
    rig = await make()  # type: ignore[operator]
    hears(rig, frame(rig))
    assert hears(rig, frame(rig, b"", sender=b"t" * 16, to=rig.session.session_id)) == []
    assert rig.pairing == CHANNEL


@BOTH_KINDS
async def test_what_is_not_for_this_session_is_not_handed_to_its_device(make: object) -> None:
    rig = await make()  # type: ignore[operator]
    good = frame(rig)
    for wrong in (
        {"channel": OTHER},
        {"trusted": not good.trusted},  # its own kind: two strangers, or two members, have nothing to say
        {"to": b"t" * 16},
    ):
        passed = PairingPassed(**{name: getattr(good, name) for name in good.__struct_fields__} | wrong)
        assert hears(rig, passed) == [], wrong
    own = PairingPassed(CHANNEL, rig.session.session_id, make is member, None, b"x")
    assert hears(rig, own) == []
    assert hears(rig, good) == [m.Pairing(0, CHANNEL, b"x")]


@BOTH_KINDS
async def test_without_an_open_pairing_nothing_is_handed_over(make: object) -> None:
    rig = await make()  # type: ignore[operator]
    (refused,) = await rig.say(m.Pairing(2, OTHER, b"x"))
    assert isinstance(refused, m.Refused) and refused.code == "not_found" and rig.published == []
    assert await rig.say(m.OpenPairing(3, OTHER)) == [m.Done(3)]
    assert rig.pairing == OTHER
    (refused,) = await rig.say(m.Pairing(4, CHANNEL, b"x"))
    assert isinstance(refused, m.Refused) and refused.code == "not_found"


async def test_a_newcomer_is_sent_away_after_180_seconds_and_not_before() -> None:
    assert Policy().pairing_s == WITHIN_S == 180.0
    rig = await newcomer()
    rig.wait(179.9)
    assert rig.closed is None and len(hears(rig, frame(rig))) == 1
    rig.wait(0.2)
    assert rig.closed and rig.closed.name == "too_slow"


async def test_without_a_pairing_a_newcomer_still_has_ten_seconds() -> None:
    rig = Rig(Person((await person()).store))
    await rig.greet()
    rig.fail_with[JoinPairing] = Refusal("slow_down", retry_after_s=60.0)
    (refused,) = await rig.say(m.OpenPairing(1, CHANNEL))
    assert isinstance(refused, m.Refused) and refused.code == "slow_down"
    rig.wait(10.1)
    assert rig.closed and rig.closed.name == "too_slow"


async def test_a_member_stays_when_its_pairing_is_over() -> None:
    rig = await member()
    for _ in range(18):
        rig.wait(9.99)
        await rig.say(m.Pong())
    assert rig.pairing == CHANNEL
    rig.wait(0.3)
    assert rig.pairing == b"" and rig.closed is None and hears(rig, frame(rig)) == []
    (refused,) = await rig.say(m.Pairing(2, CHANNEL, b"x"))
    assert isinstance(refused, m.Refused) and refused.code == "not_found"


async def test_a_newcomer_may_show_that_it_lives_and_a_stranger_may_not() -> None:
    rig = await newcomer()
    assert await rig.say(m.Ping()) == [m.Pong()]
    stranger = Rig(rig.person)
    await stranger.greet()
    await stranger.say(m.Ping())
    assert stranger.closed and stranger.closed.name == "malformed"


async def test_a_newcomer_gets_nothing_else_done() -> None:
    for message in (m.Vouch(2, OTHER, b"k" * 32), m.ListDevices(2), m.Signal(2, OTHER, b"x")):
        rig = await newcomer()
        await rig.say(message)
        assert rig.closed and rig.closed.name == "malformed"


async def test_one_pairing_is_opened_at_a_time() -> None:
    rig = await Rig(await person()).ready()
    rig.take(rig.session.received(encode(m.OpenPairing(1, CHANNEL)), rig.now))
    rig.take(rig.session.received(encode(m.OpenPairing(2, OTHER)), rig.now))
    await rig.answer()
    refused, done = rig.sent[-2:]
    assert isinstance(refused, m.Refused) and (refused.request, refused.code) == (2, "overloaded")
    assert done == m.Done(1) and rig.pairing == CHANNEL


# --- a real hub ------------------------------------------------------------------------------


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with hub_in(tmp_path / "data") as place:
        yield place


@asynccontextmanager
async def opened(place: Place, path: Path, app_id: str = APP) -> AsyncIterator[HubClient]:
    """A client that is not signed in."""
    client = await HubClient.open(path, app_id=app_id, hub_url=place.hub.url)
    try:
        yield client
    finally:
        await client.stop()


async def sign_in(place: Place, client: HubClient, address: str = ANNA) -> None:
    await client.request_code(address)
    await client.enrol((await place.mailbox.next()).code)


@asynccontextmanager
async def first(place: Place, path: Path) -> AsyncIterator[HubClient]:
    """Anna's first device, running, with a note."""
    async with opened(place, path) as client:
        await sign_in(place, client)
        client.create_key()
        await client.start()
        client.collection("notes").put("first", "Hello")
        await client.synced(10)
        yield client


@asynccontextmanager
async def scanned(old: HubClient, new: HubClient, shown_by: str) -> AsyncIterator[tuple[PairingHandle, PairingHandle]]:
    """(old, new): one shows its code and the other has scanned it."""
    async with contextlib.AsyncExitStack() as stack:
        shower, scanner = (old, new) if shown_by == "giver" else (new, old)
        shown = await stack.enter_async_context(shower.pair(name="Anna's phone"))
        other = await stack.enter_async_context(scanner.pair(shown.code, name="Anna's phone"))
        yield (shown, other) if shown_by == "giver" else (other, shown)


async def pair(old: HubClient, new: HubClient, shown_by: str) -> None:
    """As a person does it."""
    async with scanned(old, new, shown_by) as (giving, taking):
        digits = await taking.digits()
        assert await giving.digits() == digits
        await giving.confirm(digits if shown_by == "giver" else "")
        if shown_by == "taker":
            await taking.confirm(digits)
        assert await giving.name() == "Anna's phone"
        await asyncio.gather(giving.done(), taking.done())


@pytest.mark.parametrize("shown_by", ["giver", "taker"])
async def test_one_scan_signs_a_device_in_and_gives_it_the_key(place: Place, tmp_path: Path, shown_by: str) -> None:
    async with first(place, tmp_path / "a") as a, opened(place, tmp_path / "b") as b:
        told: list[m.AccountNotice] = []
        a.on_account(told.append)
        await pair(a, b, shown_by)
        assert b.signed_in and b.key_code() == a.key_code()
        await b.start()
        await b.synced(10)
        assert b.collection("notes").get("first") == "Hello"
        b.collection("notes").put("second", "from b")
        await b.synced(10)
        await a.synced(10)
        assert a.collection("notes").get("second") == "from b"
        (info,) = [one for one in await a.devices() if one.device_id == b.device_id]
        assert (info.enrolled_via, info.scope, info.app_id, info.probation_until) == ("pairing", "app", APP, 0.0)
        assert [notice.what for notice in told] == ["device_enrolled"]


async def test_a_device_that_was_added_stays_so_after_a_restart_and_adds_the_next(place: Place, tmp_path: Path) -> None:
    async with first(place, tmp_path / "a") as a:
        async with opened(place, tmp_path / "b") as b:
            await pair(a, b, "giver")
        async with opened(place, tmp_path / "b") as b, opened(place, tmp_path / "c") as c:
            await b.start()
            await b.synced(10)
            await pair(b, c, "taker")
            assert c.key_code() == a.key_code()


async def test_nothing_of_a_pairing_is_left_on_the_hub(place: Place, tmp_path: Path) -> None:
    async with first(place, tmp_path / "a") as a, opened(place, tmp_path / "b") as b:
        async with scanned(a, b, "giver") as (giving, taking):
            code = giving.code.encode()
            digits = await taking.digits()
            await giving.confirm(digits)
            await asyncio.gather(giving.done(), taking.done())
        key = a._storage.setting("app_key")
        assert key is not None
        kept = b"".join(path.read_bytes() for path in place.data_dir.rglob("*") if path.is_file())
        assert bytes(b._identity.signing_key.verify_key) in kept
        for hidden in (key, code[8:60], b"Anna's phone", giving.channel):
            assert hidden not in kept
    await _until(lambda: not place.hub.server.pairings._members)


async def _until(holds: object, within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():  # type: ignore[operator]
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("shown_by", ["giver", "taker"])
async def test_wrong_digits_leave_the_new_device_outside(place: Place, tmp_path: Path, shown_by: str) -> None:
    async with first(place, tmp_path / "a") as a, opened(place, tmp_path / "b") as b:
        async with scanned(a, b, shown_by) as (giving, taking):
            right = await taking.digits()
            wrong = f"{(int(right) + 1) % 10**6:06}"
            await giving.digits()
            if shown_by == "taker":
                await giving.confirm()
            await (giving if shown_by == "giver" else taking).confirm(wrong)
            names = []
            for handle in (giving, taking):
                with pytest.raises(PairingFailed) as failed:
                    await handle.done()
                names.append(failed.value.name)
            assert sorted(names) == ["cancelled", "wrong_digits"]
        assert not b.signed_in and not b.has_key and len(await a.devices()) == 1
        await pair(a, b, shown_by)  # and a new code works


@pytest.mark.parametrize("shown_by", ["giver", "taker"])
@pytest.mark.parametrize("who", ["old", "new"])
async def test_leaving_the_pairing_tells_the_other_device(
    place: Place, tmp_path: Path, shown_by: str, who: str
) -> None:
    async with first(place, tmp_path / "a") as a, opened(place, tmp_path / "b") as b:
        shower, scanner = (a, b) if shown_by == "giver" else (b, a)
        leaver = a if who == "old" else b
        async with shower.pair() as shown:
            async with scanner.pair(shown.code) as other:
                await asyncio.gather(shown.digits(), other.digits())
                stays = shown if leaver is scanner else other
                if leaver is shower:
                    shown.cancel()
                    with pytest.raises(PairingFailed, match="cancelled"):
                        await stays.done()
            if leaver is scanner:
                with pytest.raises(PairingFailed, match="cancelled"):
                    await stays.done()
        assert not b.has_key and len(await a.devices()) == 1


async def test_two_devices_at_one_code_the_second_is_told_and_the_first_goes_on(place: Place, tmp_path: Path) -> None:
    async with (
        first(place, tmp_path / "a") as a,
        opened(place, tmp_path / "b") as b,
        opened(place, tmp_path / "c") as c,
    ):
        async with scanned(a, b, "giver") as (giving, taking):
            digits = await taking.digits()
            await giving.digits()
            async with c.pair(giving.code) as late:
                with pytest.raises(Refusal, match="another device uses this pairing code"):
                    await late.done()
            await giving.confirm(digits)
            await asyncio.gather(giving.done(), taking.done())
        assert b.has_key and not c.has_key and len(await a.devices()) == 2


async def test_a_second_device_that_would_add_the_same_one_is_told(place: Place, tmp_path: Path) -> None:
    async with (
        first(place, tmp_path / "a") as a,
        opened(place, tmp_path / "b") as b,
        opened(place, tmp_path / "c") as c,
    ):
        await pair(a, b, "giver")
        await b.start()
        await b.synced(10)
        async with scanned(a, c, "taker") as (giving, taking):
            digits = await giving.digits()
            await taking.digits()
            async with b.pair(taking.code) as late:
                with pytest.raises(Refusal, match="another device uses this pairing code"):
                    await late.done()
            await giving.confirm()
            await taking.confirm(digits)
            await asyncio.gather(giving.done(), taking.done())
        assert c.has_key


async def test_a_lost_line_ends_the_pairing_on_both_sides(place: Place, tmp_path: Path) -> None:
    async with first(place, tmp_path / "a") as a, opened(place, tmp_path / "b") as b:
        async with scanned(a, b, "giver") as (giving, taking):
            await asyncio.gather(giving.digits(), taking.digits())
            for peer in list(place.hub.server._peers):
                peer._socket.transport.abort()
            for handle in (giving, taking):
                with pytest.raises(ConnectionError):
                    await handle.done()
        await a.synced(10)
        assert not b.has_key


async def test_time_runs_out_for_a_code_that_nobody_scans(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.client.pairing.WITHIN_S", 0.2)
    async with first(place, tmp_path / "a") as a, opened(place, tmp_path / "b") as b:
        for client in (a, b):
            async with client.pair() as handle:
                with pytest.raises(PairingFailed, match="took too long"):
                    await handle.digits()


async def test_a_device_that_the_mail_enrolled_gets_the_key_and_is_trusted(place: Place, tmp_path: Path) -> None:
    async with first(place, tmp_path / "a") as a, opened(place, tmp_path / "b") as b:
        await sign_in(place, b)
        me = b.device_id
        (info,) = [one for one in await a.devices() if one.device_id == me]
        assert info.probation_until
        await pair(a, b, "giver")
        assert b.device_id == me
        (info,) = [one for one in await a.devices() if one.device_id == me]
        assert (info.enrolled_via, info.probation_until) == ("mail", 0.0)


async def test_a_device_of_another_account_is_not_taken_over(place: Place, tmp_path: Path) -> None:
    async with first(place, tmp_path / "a") as a, opened(place, tmp_path / "b") as b:
        await sign_in(place, b, BEN)
        async with scanned(a, b, "giver") as (giving, taking):
            await giving.confirm(await taking.digits())
            with pytest.raises(Refusal) as refused:
                await giving.done()
            with pytest.raises(PairingFailed, match="cancelled"):
                await taking.done()
        assert refused.value.code == "device_exists" and not b.has_key


async def test_a_revoked_device_can_be_added_again_with_the_data_it_has(place: Place, tmp_path: Path) -> None:
    async with first(place, tmp_path / "a") as a, opened(place, tmp_path / "b") as b:
        await pair(a, b, "giver")
        await b.start()
        await b.synced(10)
        old = b.device_id
        await b.revoke([old])
        await _until(lambda: b.status.phase == "blocked")
        await pair(a, b, "taker")
        assert b.device_id != old
        await b.synced(10)
        assert b.collection("notes").get("first") == "Hello"


async def test_a_device_with_other_data_takes_no_other_key(place: Place, tmp_path: Path) -> None:
    async with first(place, tmp_path / "a") as a, opened(place, tmp_path / "b") as b:
        b.create_key()
        mine = b.key_code()
        with pytest.raises(ValueError, match="has a key of its own"):
            async with b.pair():
                pass
        b._set(blocked=b"revoked")
        async with scanned(a, b, "giver") as (giving, taking):
            await giving.confirm(await taking.digits())
            with pytest.raises(PairingFailed, match="opens other data"):
                await taking.done()
        assert b.key_code() == mine


async def test_a_hub_that_puts_the_device_into_another_account_is_noticed(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Session._begin

    def lying(session: Session, known: Known) -> list[object]:
        device = dataclasses.replace(known.device, account_id=b"\xee" * 16)
        return begin(session, known._replace(device=device))  # type: ignore[return-value]

    async with first(place, tmp_path / "a") as a, opened(place, tmp_path / "b") as b:
        async with scanned(a, b, "giver") as (giving, taking):
            digits = await taking.digits()
            await giving.digits()
            monkeypatch.setattr(Session, "_begin", lying)
            await giving.confirm(digits)
            with pytest.raises(PairingFailed, match="another account"):
                await taking.done()
        assert not b.has_key and not b.signed_in


async def test_a_hub_that_hides_what_the_giver_had_is_noticed_by_a_brand_new_device(
    place: Place, tmp_path: Path
) -> None:
    async with first(place, tmp_path / "a") as a, opened(place, tmp_path / "b") as b:
        a.collection("notes").put("second", 2)
        await a.synced(10)
        await pair(a, b, "giver")
        life, heads = a._engine.device.heads
        assert heads and b._engine.device.granted_seq(life, heads[0][0]) == heads[0][1] == 2
        assert b._engine.device.granted_seq(b"x" * 16, heads[0][0]) == 0  # another life of the log
        # As if the giver had stood one further than what the hub shows.
        b._engine.device.keep_granted(life, [(heads[0][0], 3)])
        b.collection("notes")
        await b.start()
        await _until(lambda: b.status.alarms)
        assert b.status.alarms[0].name == "rollback" and b.status.phase == "alarm"
        await b.forget_alarms()  # a person has seen it, and wants what there is
        await b.synced(10)
        assert b.collection("notes").get("first") == "Hello" and not b.status.alarms


async def test_a_device_that_waits_shows_that_it_lives(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy between it and the hub cuts a line on which nothing passes."""
    monkeypatch.setattr("hub.client.SIGN_OF_LIFE_EVERY_S", 0.02)
    came: list[m.Message] = []
    on_greeted = Session._on_greeted

    def noting(session: Session, message: m.Message) -> list[object]:
        came.append(message)
        return on_greeted(session, message)  # type: ignore[return-value]

    monkeypatch.setattr(Session, "_on_greeted", noting)
    async with opened(place, tmp_path / "b") as b, b.pair():
        await _until(lambda: sum(isinstance(message, m.Ping) for message in came) >= 3)


async def test_who_is_not_running_cannot_add_a_device(place: Place, tmp_path: Path) -> None:
    async with opened(place, tmp_path / "a") as a:
        await sign_in(place, a)
        a.create_key()
        with pytest.raises(ConnectionError, match="start the client first"):
            async with a.pair():
                pass


async def test_only_one_pairing_at_a_time(place: Place, tmp_path: Path) -> None:
    async with first(place, tmp_path / "a") as a, a.pair() as one:
        for scanned_code in ("", pairing_code(b"p" * 32, b"s" * 32, a._identity.hub_url, has_key=False)):
            with pytest.raises(ValueError, match="under way"):
                async with a.pair(scanned_code):
                    pass
        assert one.gives


# --- rights and limits -----------------------------------------------------------------------


async def wire(place: Place, address: str = ANNA, **options: str) -> Wire:
    """A device that is signed in, and speaks the raw protocol."""
    one = Wire(place.url)
    await one.sign_up(place.mailbox, address, **options)
    return one


def vouch(one: Wire, device_id: bytes | None = None, key: SigningKey | None = None) -> m.Vouch:
    public_key = bytes((key or SigningKey.generate()).verify_key)
    return m.Vouch(one.number(), device_id or secrets.token_bytes(ID_BYTES), public_key)


async def test_vouching_is_harmless_to_repeat_and_takes_no_other_key(place: Place) -> None:
    one = await wire(place)
    key, device_id = SigningKey.generate(), secrets.token_bytes(16)
    for _ in range(2):
        await one.ask(vouch(one, device_id, key), m.Done)
    assert await one.refusal(vouch(one, device_id)) == "device_exists"
    assert await one.refusal(vouch(one, None, key)) == "device_exists"
    assert await one.refusal(m.Vouch(one.number(), device_id, bytes(32))) == "bad_device_key"
    await one.ask(m.ListDevices(one.number()), m.DeviceList)
    other = await wire(place, BEN)
    assert await other.refusal(vouch(other, device_id, key)) == "device_exists"


async def test_a_device_on_probation_adds_none_and_opens_no_pairing(place: Place) -> None:
    one = await wire(place)
    late = await wire(place)
    assert await late.refusal(vouch(late)) == "probation"
    assert await late.refusal(m.OpenPairing(late.number(), CHANNEL)) == "probation"
    await one.ask(m.ApproveDevice(one.number(), late.device_id), m.Done)
    await late.ask(vouch(late), m.Done)
    await late.ask(m.OpenPairing(late.number(), CHANNEL), m.Done)


async def test_a_device_that_was_revoked_is_not_brought_back_by_vouching(place: Place) -> None:
    one = await wire(place, scope="account")
    key, device_id = SigningKey.generate(), secrets.token_bytes(16)
    await one.ask(vouch(one, device_id, key), m.Done)
    await one.ask(m.RevokeDevices(one.number(), [device_id]), m.Done)
    assert await one.refusal(vouch(one, device_id, key)) == "device_exists"


async def test_an_account_scope_device_adds_devices_of_its_app_without_its_rights(place: Place) -> None:
    one = await wire(place, scope="account")
    device_id = secrets.token_bytes(16)
    await one.ask(vouch(one, device_id), m.Done)
    listed = await one.ask(m.ListDevices(one.number()), m.DeviceList)
    (info,) = [device for device in listed.devices if device.device_id == device_id]
    assert (info.scope, info.app_id, info.enrolled_via) == ("app", APP, "pairing")


async def test_an_app_has_20_devices_and_no_more_also_by_pairing(place: Place) -> None:
    one = await wire(place)
    for _ in range(19):
        await one.ask(vouch(one), m.Done)
    assert await one.refusal(vouch(one)) == "too_many"


async def test_an_account_opens_3_pairings_in_180_seconds_and_another_is_not_hindered(tmp_path: Path) -> None:
    async with hub_in(tmp_path / "data") as place:
        one, other = await wire(place), await wire(place, BEN)
        for _ in range(3):
            await one.ask(m.OpenPairing(one.number(), secrets.token_bytes(16)), m.Done)
        refused = await one.ask(m.OpenPairing(one.number(), CHANNEL), m.Refused)
        assert refused.code == "slow_down" and 0 < refused.retry_after_s <= 180
        await other.ask(m.OpenPairing(other.number(), CHANNEL), m.Done)


async def test_one_address_comes_to_20_pairings_an_hour_without_being_known(place: Place) -> None:
    for _ in range(20):
        one = Wire(place.url)
        await one.greet()
        await one.ask(m.OpenPairing(1, secrets.token_bytes(16)), m.Done)
        await one.hang_up()
    late = Wire(place.url)
    await late.greet()
    assert await late.refusal(m.OpenPairing(1, CHANNEL)) == "slow_down"
    await late.hang_up()


# --- replicas --------------------------------------------------------------------------------


async def test_the_two_devices_may_be_on_two_replicas_and_a_third_is_told_on_any() -> None:
    store, line = MemoryStore(), Line()
    await store.open()
    someone = await settled(store)
    async with replica(store, line) as here, replica(store, line) as there:
        old = await here.sign_in(someone)
        await old.ask(m.OpenPairing(old.number(), CHANNEL), m.Done)
        new, late = Wire(there.url), Wire(here.url)
        for each in (new, late):
            await each.greet()
            await each.ask(m.OpenPairing(1, CHANNEL), m.Done)
        await new.say(m.Pairing(2, CHANNEL, b"from new"))
        assert (await old.hear(m.Pairing)).body == b"from new"
        await old.say(m.Pairing(old.number(), CHANNEL, b"from old"))
        assert (await new.hear(m.Pairing)).body == b"from old"
        await late.say(m.Pairing(2, CHANNEL, b"from late"))
        assert (await late.hear(m.Refused)).code == "too_many"
        assert not [message for message in late.unread if isinstance(message, m.Pairing)]
        await old.ask(m.ListDevices(old.number()), m.DeviceList)
        assert not [message for message in old.unread if isinstance(message, m.Pairing)]
        for each in (old, new, late):
            await each.hang_up()
    await store.close()


async def test_a_channel_that_is_called_like_an_account_hears_nothing_of_it_and_takes_nothing_away() -> None:
    store, line = MemoryStore(), Line()
    await store.open()
    someone = await settled(store)
    async with replica(store, line) as hub:
        old = await hub.sign_in(someone)
        spy = Wire(hub.url)
        await spy.greet()
        await spy.ask(m.OpenPairing(1, someone.account_id), m.Done)
        await old.ask(vouch(old), m.Done)
        assert (await old.hear(m.AccountNotice)).what == "device_enrolled"
        await spy.ask(m.Ping(), m.Pong)
        assert not spy.unread
        for each in (spy, old):
            await each.hang_up()
    await store.close()
