"""HubClient against a real hub: signing in, both directions, offline, history, switching off, healing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hub import control
from hub.client import MANUAL, MISSING, Closed, HubClient, Refusal, WrongKeyCode
from hub.client.keycode import key_code
from hub.client.strategies import counter_sum
from hub.errors import CLOSINGS
from hub.wire import messages as m
from tests.hub_rig import APP, Place, hub_in

ANNA = "anna@example.org"


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with hub_in(tmp_path / "data") as place:
        yield place


@asynccontextmanager
async def device(place: Place, path: Path, key: str = "", *, address: str = ANNA) -> AsyncIterator[HubClient]:
    """A signed-in, running client; the same again when the file is there."""
    client = await HubClient.open(path, app_id=APP, hub_url=place.hub.url)
    if not client.signed_in:
        sent = await client.request_code(address)
        mail = await place.mailbox.next()
        assert sent.phrase in mail.text
        await client.enrol(mail.code)
        if key:
            client.import_key(key)
        else:
            client.create_key()
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


async def until(holds: object, within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():  # type: ignore[operator]
            await asyncio.sleep(0.01)


async def test_what_one_device_writes_the_other_reads(place: Place, tmp_path: Path) -> None:
    async with device(place, tmp_path / "a") as a, device(place, tmp_path / "b", a.key_code()) as b:
        change_id = a.collection("notes").put("first", {"text": "Hello"})
        notes = b.collection("notes")
        await a.when_appended(change_id)
        await b.synced(10)
        assert notes.get("first") == {"text": "Hello"}
        notes.delete("first")
        await b.synced(10)
        await until(lambda: a.collection("notes").get("first") is None)


async def test_edits_made_offline_arrive_later_in_both_directions(place: Place, tmp_path: Path) -> None:
    async with device(place, tmp_path / "a") as a:
        key = a.key_code()
        async with device(place, tmp_path / "b", key) as b:
            await b.turn_off()
            b.collection("notes").put("from b", 1)
            a.collection("notes").put("from a", 2)
            await a.synced(10)
            assert b.status.phase == "off" and b.status.unsynced == 1
            await b.turn_on()
            await b.synced(10)
            await until(lambda: sorted(a.collection("notes").items()) == [("from a", 2), ("from b", 1)])
            assert sorted(b.collection("notes").items()) == [("from a", 2), ("from b", 1)]


async def test_a_running_device_that_signs_in_anew_loses_no_edit(place: Place, tmp_path: Path) -> None:
    async with device(place, tmp_path / "a") as a:
        notes, former = a.collection("notes"), a.device_id
        notes.put("before", 1)
        await a.synced(10)
        await a.request_code(ANNA)
        assert a.device_id != former
        notes.put("between", 2)
        await a.enrol((await place.mailbox.next()).code)
        notes.put("after", 3)
        await a.synced(10)
        assert (a.status.unsynced, a.status.parked) == (0, 0)
        async with device(place, tmp_path / "b", a.key_code()) as b:
            await b.synced(10)
            assert dict(b.collection("notes").items()) == {"before": 1, "between": 2, "after": 3}


async def test_unsent_edits_survive_a_restart_of_the_device(place: Place, tmp_path: Path) -> None:
    async with device(place, tmp_path / "a") as a:
        key = a.key_code()
        await a.synced(10)
        await a.turn_off()
        a.collection("notes").put("k", "v")
    async with device(place, tmp_path / "a") as a, device(place, tmp_path / "b", key) as b:
        await a.turn_on()
        await a.synced(10)
        notes = b.collection("notes")
        await until(lambda: notes.get("k") == "v")


async def test_counters_merge_by_themselves_and_prose_waits_for_a_person(place: Place, tmp_path: Path) -> None:
    async with device(place, tmp_path / "a") as a, device(place, tmp_path / "b", a.key_code()) as b:
        for each in (a, b):
            each.collection("words", strategy=counter_sum("n"))
            each.collection("prose", strategy=lambda conflict: MANUAL)
        a.collection("words").put("monday", {"n": 10})
        a.collection("prose").put("chapter", "base")
        await a.synced(10)
        await b.synced(10)
        await a.turn_off()
        await b.turn_off()
        a.collection("words").put("monday", {"n": 15})
        b.collection("words").put("monday", {"n": 13})
        a.collection("prose").put("chapter", "from a")
        b.collection("prose").put("chapter", "from b")
        await a.turn_on()
        await a.synced(10)
        await b.turn_on()
        await until(lambda: len(b.collection("prose").conflicts()) == 1)
        await until(lambda: a.collection("words").get("monday") == {"n": 18})
        (conflict,) = b.collection("prose").conflicts()
        assert (conflict.base, conflict.mine, conflict.theirs) == ("base", "from b", "from a")
        b.collection("prose").resolve("chapter", "from a and b")
        await until(lambda: a.collection("prose").get("chapter") == "from a and b")


async def test_a_strategy_given_later_replaces_the_first(place: Place, tmp_path: Path) -> None:
    async with device(place, tmp_path / "a") as a, device(place, tmp_path / "b", a.key_code()) as b:
        for each in (a, b):
            each.collection("words")
            handle = each.collection("words", strategy=counter_sum("n"))
            assert each.collection("words") is handle
        a.collection("words").put("monday", {"n": 10})
        await a.synced(10)
        await b.synced(10)
        await b.turn_off()
        b.collection("words").put("monday", {"n": 12})
        await a.when_appended(a.collection("words").put("monday", {"n": 15}))
        await b.turn_on()
        await until(lambda: a.collection("words").get("monday") == {"n": 17})


async def test_an_earlier_state_of_a_record_can_be_read_and_put_back(place: Place, tmp_path: Path) -> None:
    async with device(place, tmp_path / "a") as a:
        notes = a.collection("notes")
        before = datetime.now(UTC) - timedelta(seconds=1)
        for text in ("one", "two", "three"):
            await a.when_appended(notes.put("k", text))
        await a.when_appended(notes.delete("k"))
        versions = await notes.history("k")
        assert [version.value for version in versions] == [MISSING, "three", "two", "one"]
        assert await notes.at("k", versions[2].appended_at) in ("two", "three")  # milliseconds may coincide
        assert await notes.at("k", before) is MISSING
        assert notes.get("k") is None
        notes.put("k", versions[1].value)
        assert notes.get("k") == "three"


async def test_a_wipe_empties_the_hub_and_no_device(place: Place, tmp_path: Path) -> None:
    async with device(place, tmp_path / "a") as a, device(place, tmp_path / "b", a.key_code()) as b:
        wiped: list[bool] = []
        b.on_wiped(lambda: wiped.append(True))
        b.collection("notes")
        a.collection("notes").put("k", "v" * 1000)
        await a.synced(10)
        await until(lambda: b.collection("notes").get("k") is not None)
        await a.turn_off_and_wipe()
        await until(lambda: wiped == [True])
        account = await place.hub.store.account((await place.hub.store.device(a.device_id)).account_id)  # type: ignore[union-attr]
        assert account and account.used_bytes < 1000
        assert a.status.phase == b.status.phase == "off"
        assert a.collection("notes").get("k") == b.collection("notes").get("k") == "v" * 1000
        await b.turn_on()
        await b.synced(10)
        await a.turn_on()
        await a.synced(10)
        assert a.collection("notes").get("k") == "v" * 1000
        assert not a.status.alarms and not b.status.alarms


async def test_everywhere_means_that_the_others_have_said_so(place: Place, tmp_path: Path) -> None:
    async with device(place, tmp_path / "a") as a, device(place, tmp_path / "b", a.key_code()) as b:
        b.collection("notes")
        change_id = a.collection("notes").put("k", "v")
        await a.when_appended(change_id)
        async with asyncio.timeout(15):
            await a.when_everywhere(change_id)
        assert b.collection("notes").get("k") == "v"


async def test_a_hub_that_was_emptied_is_filled_again_by_its_devices(tmp_path: Path) -> None:
    async with hub_in(tmp_path / "data") as place:
        port = place.hub.port
        async with device(place, tmp_path / "a") as a:
            key = a.key_code()
            a.collection("notes").put_many({f"k{n}": n for n in range(100)})
            await a.synced(10)
    for file in (tmp_path / "data").iterdir():
        file.unlink()
    async with hub_in(tmp_path / "data", port=port) as place:
        client = await HubClient.open(tmp_path / "a", app_id=APP)
        await client.start()
        await until(lambda: client.status.phase == "blocked")  # the new hub knows nobody
        assert client.collection("notes").get("k7") == 7
        await client.request_code(ANNA)
        await client.enrol((await place.mailbox.next()).code)
        await client.synced(10)
        async with device(place, tmp_path / "b", key) as b:
            notes = b.collection("notes")
            await until(lambda: len(notes.keys()) == 100)
        assert not client.status.alarms
        await client.stop()


async def test_a_hub_restored_to_yesterday_is_healed_by_its_devices(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with hub_in(data) as place:
        port = place.hub.port
        async with device(place, tmp_path / "a") as a, device(place, tmp_path / "b", a.key_code()) as b:
            b.collection("notes")
            a.collection("notes").put_many({f"old{n}": n for n in range(20)})
            await a.synced(10)
            await b.synced(10)
    backup = {file.name: file.read_bytes() for file in data.iterdir() if file.suffix != ".lock"}
    async with hub_in(data, port=port) as place, device(place, tmp_path / "a") as a:
        a.collection("notes").put_many({"old3": "changed", "new": "written after the backup"})
        await a.synced(10)
    for name, content in backup.items():
        (data / name).write_bytes(content)
    async with hub_in(data, port=port) as place:
        await place.hub.store.renew_incarnation()
        async with device(place, tmp_path / "b") as b, device(place, tmp_path / "a") as a:
            notes = b.collection("notes")
            await until(lambda: (notes.get("old3"), notes.get("new")) == ("changed", "written after the backup"))
            a.collection("notes")
            await a.synced(10)
            await b.synced(10)
            assert sorted(a.collection("notes").items()) == sorted(notes.items())
            assert len(notes.items()) == 21
            assert not a.status.alarms and not b.status.alarms


async def test_what_the_account_takes_on_the_hub_is_told_also_right_after_a_write(place: Place, tmp_path: Path) -> None:
    async with device(place, tmp_path / "a") as a:
        await a.synced(10)
        before = await a.usage()
        assert before.quota_bytes > 1_000_000
        a.collection("notes").put("large", "x" * 10_000)
        await a.synced(10)
        assert (await a.usage()).used_bytes - before.used_bytes > 10_000


async def test_a_key_of_no_space_of_the_account_is_refused_before_harm(place: Place, tmp_path: Path) -> None:
    async with device(place, tmp_path / "a") as a:
        await a.synced(10)
        other = key_code(b"x" * 32, 0)
        async with device(place, tmp_path / "b", other) as b:
            await until(lambda: b.status.phase == "blocked")
            assert "this key belongs to none" in b.status.error
            assert len(await a.spaces()) == 1
            b.import_key(a.key_code())
            await b.synced(10)


def test_a_mistyped_key_code_is_refused_with_a_sentence() -> None:
    code = key_code(bytes(32), 0)
    with pytest.raises(WrongKeyCode):
        from hub.client.keycode import parse_key_code

        parse_key_code(code[:-1] + ("Q" if code[-1] != "Q" else "P"))


async def test_a_wrong_code_is_refused(place: Place, tmp_path: Path) -> None:
    client = await HubClient.open(tmp_path / "a", app_id=APP, hub_url=place.hub.url)
    await client.request_code(ANNA)
    right = (await place.mailbox.next()).code
    with pytest.raises(Refusal) as refused:
        await client.enrol(f"{(int(right) + 1) % 10**8:08d}")
    assert refused.value.code == "enrol_failed" and not client.signed_in
    await client.enrol(right)
    assert client.signed_in
    await client.stop()


async def test_a_revoked_device_stops_and_says_why(place: Place, tmp_path: Path) -> None:
    async with device(place, tmp_path / "a") as a:
        await a.synced(10)
        await a.revoke([a.device_id])
        await until(lambda: a.status.phase == "blocked")
        assert "revoked" in a.status.error
        a.collection("notes").put("k", "still works here")
        assert a.collection("notes").get("k") == "still works here"


async def test_ten_thousand_records_arrive_with_progress(place: Place, tmp_path: Path) -> None:
    async with device(place, tmp_path / "a") as a:
        key = a.key_code()
        for start in range(0, 10_000, 1_000):
            a.collection("notes").put_many({f"k{n}": n for n in range(start, start + 1_000)})
        await a.synced(40)
        seen: list[tuple[int, int]] = []
        async with device(place, tmp_path / "b", key) as b:
            b.on_status(lambda status: seen.append(status.progress))
            notes = b.collection("notes")
            await b.synced(40)
            assert len(notes.keys()) == 10_000
        assert any(done and remaining for done, remaining in seen)


async def test_whoever_taps_the_line_sees_what_is_sent_and_received(place: Place, tmp_path: Path) -> None:
    async with device(place, tmp_path / "a") as a:
        await a.synced(10)
    seen: list[tuple[str, object]] = []
    client = await HubClient.open(tmp_path / "a", app_id=APP, tap=lambda what, message: seen.append((what, message)))
    await client.start()
    await client.when_appended(client.collection("notes").put("k", "v"))
    await client.stop()
    types = [(what, type(message)) for what, message in seen]
    assert types[:3] == [("sent", m.Hello), ("received", m.Challenge), ("sent", m.Auth)]
    assert types.index(("sent", m.Append)) < types.index(("received", m.Appended))
    assert types[-1] == ("closed", Closed)


async def test_a_signal_reaches_the_other_device(place: Place, tmp_path: Path) -> None:
    async with device(place, tmp_path / "a") as a, device(place, tmp_path / "b", a.key_code()) as b:
        heard: list[bytes] = []
        b.on_signal(lambda device_id, body: heard.append(body))
        await a.synced(10)
        await b.synced(10)
        await a.send_signal(b"hello")
        await until(lambda: heard == [b"hello"])


# --- names, and an account that moves ---------------------------------------------------------


async def test_a_device_is_called_what_the_person_says_on_all_devices_and_nowhere_on_the_hub(
    place: Place, tmp_path: Path
) -> None:
    async with device(place, tmp_path / "a") as a, device(place, tmp_path / "b", a.key_code()) as b:
        a.name_device("  Laptop in the attic ")
        await a.synced(10)
        await until(lambda: b.device_names() == {a.device_id.hex(): "Laptop in the attic"})
        kept = b"".join(path.read_bytes() for path in place.data_dir.iterdir() if path.is_file())
        assert b"attic" not in kept and b"_devices" not in kept


@pytest.mark.parametrize(
    ("name", "fits"), [("", False), ("  ", False), ("n", True), ("n" * 64, True), ("n" * 65, False)]
)
async def test_a_devices_name_has_1_to_64_characters(name: str, fits: bool, tmp_path: Path) -> None:
    client = await HubClient.open(tmp_path / "a", app_id=APP, hub_url="http://localhost:1")
    with pytest.raises(LookupError):
        client.name_device("no key yet")
    client.create_key()
    try:
        if fits:
            client.name_device(name)
            assert client.device_names() == {client.device_id.hex(): name}
        else:
            with pytest.raises(ValueError, match="1 to 64"):
                client.name_device(name)
    finally:
        await client.stop()


async def operated(place: Place, verb: str, client: HubClient, **more: str) -> None:
    """As the operator at the machine."""
    account_id = client._storage.setting("account_id")
    assert account_id is not None
    await control.ask(place.data_dir, verb, {"account_id": account_id.hex(), **more})


async def test_a_suspended_account_stops_its_devices_until_the_person_tries_again(place: Place, tmp_path: Path) -> None:
    async with device(place, tmp_path / "a") as a:
        await a.synced(10)
        await operated(place, "suspend", a)
        await until(lambda: a.status.phase == "blocked")
        assert a.status.error == CLOSINGS["suspended"].message and a.status.moved_to == ""
        a.collection("notes").put("meanwhile", 1)
        await operated(place, "resume", a)
        await a.turn_on()
        await a.synced(10)
        assert a.status.error == "" and a.status.unsynced == 0


async def test_a_device_comes_back_by_itself_from_a_move_that_was_cancelled(place: Place, tmp_path: Path) -> None:
    async with device(place, tmp_path / "a") as a:
        await a.synced(10)
        await operated(place, "begin_move", a, url="wss://new.example.org/v1/ws")
        await until(lambda: a.status.error == CLOSINGS["moving"].message)
        a.collection("notes").put("meanwhile", 1)
        await operated(place, "cancel_move", a)
        await a.synced(20)
        assert a.status.error == "" and a.status.moved_to == ""


async def test_a_device_that_is_told_of_a_move_waits_for_the_person(place: Place, tmp_path: Path) -> None:
    async with device(place, tmp_path / "a") as a:
        await a.synced(10)
        with pytest.raises(LookupError):
            await a.follow()
        await operated(place, "begin_move", a, url="wss://127.0.0.1:1/v1/ws")
        await operated(place, "end_move", a)
        await until(lambda: a.status.moved_to == "wss://127.0.0.1:1/v1/ws" and a.status.phase == "blocked")
        assert await a.follow() == "wss://127.0.0.1:1/v1/ws"
        assert a.status.moved_to == "" and a.status.phase != "blocked"
    # The app still has the former hub in its settings.
    again = await HubClient.open(tmp_path / "a", app_id=APP, hub_url=place.hub.url)
    assert again._identity.hub_url == "wss://127.0.0.1:1/v1/ws"
    await again.stop()


async def test_a_device_that_is_not_running_learns_of_a_move_from_its_first_question(
    place: Place, tmp_path: Path
) -> None:
    async with device(place, tmp_path / "a") as a:
        await a.synced(10)
        await operated(place, "begin_move", a, url="wss://new.example.org/v1/ws")
        await operated(place, "end_move", a)
        await until(lambda: a.status.moved_to)
        a._set(moved_to=None)
    client = await HubClient.open(tmp_path / "a", app_id=APP)
    with pytest.raises(Closed) as closed:
        await client.devices()
    assert closed.value.code == CLOSINGS["moved"].code
    assert client.status.moved_to == "wss://new.example.org/v1/ws"
    await client.stop()
