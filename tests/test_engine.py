"""The client engine, one named example for each rule: what is sent, what is kept, and what the person is told."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from hub.client.connection import Closed
from hub.client.device import Hangup, Send, Wiped
from hub.client.storage import MemoryStorage, SqliteStorage, State
from hub.client.strategies import MISSING, THEIRS, Conflict, counter_sum, last_writer_wins, manual, per_field
from hub.errors import CLOSINGS, REFUSALS
from hub.terms import Kind
from hub.wire import messages as m
from hub.wire.codec import decode_from_device, decode_from_hub, encode
from hub.wire.header import parse_header
from tests.engine_hub import ACCOUNT, HUB_URL, Line, Peer, World


@pytest.fixture
def heard(monkeypatch):
    """Every message that reached the hub, with the device it came from."""
    messages = []
    take = Line.take

    def take_and_note(line, frame):
        messages.append((line.device_id, decode_from_device(frame)))
        take(line, frame)

    monkeypatch.setattr(Line, "take", take_and_note)
    return messages


def synced(strategy=last_writer_wins, names="x"):
    """A world in which these devices have connected and nothing is under way."""
    world = World()
    peers = [world.peer(name, strategy) for name in names]
    world.settle()
    return world, *peers


def log_of(peer):
    return peer.world.hub.log(peer.collections["notes"].row.collection_id)


def rows(peer, key):
    return peer.storage.rows_of(peer.collections["notes"].n, key)


def under_way(peer):
    """The drafts on their way from the device to the hub."""
    messages = [decode_from_device(frame) for frame in peer.to_hub]
    return [sealed for message in messages if isinstance(message, m.Append) for sealed in message.drafts]


def drafts_in(heard, peer):
    appends = [message for device_id, message in heard if device_id == peer.device_id and isinstance(message, m.Append)]
    return [sealed for message in appends for sealed in message.drafts]


def on_its_way_to(peer, kind):
    messages = [decode_from_hub(frame) for frame in peer.line.out]
    return [message for message in messages if isinstance(message, kind)]


def theirs(conflict):
    """A strategy of an app that takes whatever the log has."""
    return THEIRS


def wipe_of(peer):
    """The device begins to drop the remote copies; nothing of that has left it."""
    peer.carry_out(peer.engine.start_wipe(peer.world.now))


def push(peer):
    """Everything the device has to say reaches the hub, and no answer comes back yet."""
    while peer.step_out():
        pass


def where(peer):
    status = peer.status()
    return status.phase, status.unsynced, status.parked


# --- edits and their drafts ---


def test_a_second_edit_of_a_waiting_record_coalesces():
    world, x = synced()
    x.cut()
    first, second = x.put("a", 1), x.put("a", 2)
    assert first == second
    assert x.status().unsynced == 1
    world.settle()
    assert [header.change_id for header in world.hub.appended] == [first]
    assert x.items() == {"a": 2}


def test_a_record_that_never_left_the_device_is_taken_back_without_a_tombstone():
    world, x = synced()
    x.cut()
    x.put("a", 1)
    x.delete("a")
    world.settle()
    assert world.hub.appended == []
    assert x.get("a") is MISSING


@pytest.mark.parametrize("strategy", [last_writer_wins, per_field])
def test_an_edit_behind_a_sealed_one_has_it_as_its_base(strategy):
    world, x = synced(strategy)
    first = x.put("a", {"n": 1})
    second = x.put("a", {"n": 2})
    assert first != second
    world.quiesce()
    assert [(header.change_id, header.counter) for header in world.hub.appended] == [(first, 1), (second, 2)]
    assert world.hub.appended[1].base == first
    assert where(x) == ("synced", 0, 0)


@pytest.mark.parametrize("end", ["cut", "crash"])
@pytest.mark.parametrize("arrived", [False, True])
def test_a_sealed_draft_is_sent_again_byte_for_byte_and_is_in_the_log_once(end, arrived, heard):
    world, x = synced()
    change_id = x.put("a", 1)
    sealed = under_way(x)
    if arrived:
        push(x)
    getattr(x, end)()
    heard.clear()
    world.settle()
    assert drafts_in(heard, x) == sealed
    assert [header.change_id for header in world.hub.appended] == [change_id]
    assert list(log_of(x).kept.values()) == sealed
    assert where(x) == ("synced", 0, 0)


def test_an_edit_and_its_outbox_row_survive_a_crash():
    world, x = synced()
    x.cut()
    change_id = x.put("a", 1)
    x.crash()
    assert x.items() == {"a": 1}
    assert [(row.change_id, row.state) for row in rows(x, "a")] == [(change_id, State.WAITING)]
    assert where(x) == ("offline", 1, 0)
    world.settle()
    assert [header.change_id for header in world.hub.appended] == [change_id]


def test_an_edit_survives_in_the_file_when_it_is_opened_anew(tmp_path):
    world = World()
    x = world.peer("x", storage=SqliteStorage(tmp_path / "x"))
    x.put("a", 1)
    x.storage.close()
    x.storage = SqliteStorage(tmp_path / "x")
    x.crash()
    assert x.items() == {"a": 1}
    world.settle()
    assert where(x) == ("synced", 0, 0)
    x.storage.close()


def test_own_drafts_come_back_without_bytes_and_are_recognised():
    world, x = synced()
    change_id = x.put("a", 1)
    push(x)
    (changes,) = on_its_way_to(x, m.Changes)
    assert [change.sealed for change in changes.changes] == [b""]
    x.changed.clear()
    world.quiesce()
    assert rows(x, "a") == []
    assert x.storage.record(x.collections["notes"].n, "a").change_id == change_id
    assert x.changed == []
    assert where(x) == ("synced", 0, 0)


def test_an_edit_that_comes_back_without_the_one_before_it_stays_what_the_person_sees():
    world, x = synced()
    x.put("a", 1)
    x.put("a", 2)
    push(x)
    x.cut()
    world.hub.compact()  # of the two the log shows the second alone
    x.changed.clear()
    world.hub.refuse_next = ["unavailable"]
    x.connect()
    while x.step_out() or x.step_in():
        assert x.get("a") == 2
    world.pass_time(10)
    assert where(x) == ("synced", 0, 0)
    assert x.get("a") == 2
    assert x.changed == []


def test_own_drafts_whose_answer_was_lost_are_recognised_when_they_come_whole():
    world, x = synced()
    x.put("a", 1)
    sealed = under_way(x)
    push(x)
    x.cut()
    x.changed.clear()
    assert x.status().unsynced == 1
    world.hub.refuse_next = ["unavailable"]  # so that the answer to the second sending says nothing
    came = []
    x.connect()
    while x.step_out() or x.line.out:
        came += [change.sealed for changes in on_its_way_to(x, m.Changes) for change in changes.changes]
        x.step_in()
    assert set(came) == set(sealed)
    assert rows(x, "a") == []
    assert x.changed == []
    world.pass_time(70)
    assert len(world.hub.appended) == 1
    assert where(x) == ("synced", 0, 0)


# --- conflicts ---


def test_a_manual_conflict_parks_and_blocks_no_other_record_until_it_is_resolved():
    world, x, y = synced(manual, "xy")
    x.cut()
    y.put("a", "theirs")
    world.quiesce()
    x.put("a", "mine")
    x.put("b", 1)
    world.settle()
    assert where(x) == ("synced", 0, 1)
    assert x.collections["notes"].conflicts() == [Conflict("a", MISSING, "mine", "theirs")]
    assert (x.items(), y.items()) == ({"a": "mine", "b": 1}, {"a": "theirs", "b": 1})
    x.resolve("a", "both")
    world.quiesce()
    assert where(x) == ("synced", 0, 0)
    assert x.get("a") == y.get("a") == "both"


def test_only_a_parked_conflict_can_be_resolved():
    _world, x = synced(manual)
    x.put("a", 1)
    with pytest.raises(KeyError):
        x.resolve("a", 2)


def test_a_remote_change_of_a_waiting_record_is_merged_at_once(heard):
    world, x, y = synced(per_field, "xy")
    y.put("a", {"n": 1, "m": 1})
    world.quiesce()
    world.hub.refuse_next = ["unavailable"]
    x.put("b", {})  # refused: x holds back what it has for a second
    world.quiesce()
    x.put("a", {"n": 5, "m": 1})
    assert rows(x, "a")[0].state is State.WAITING
    theirs = y.put("a", {"n": 1, "m": 7})
    world.quiesce()
    assert rows(x, "a")[0].state is State.WAITING
    assert x.get("a") == {"n": 5, "m": 7}
    world.pass_time(2)
    assert y.get("a") == {"n": 5, "m": 7}
    assert [parse_header(sealed).base for sealed in drafts_in(heard, x)].count(theirs) == 1


@pytest.mark.parametrize(("strategy", "conditional"), [(last_writer_wins, False), (per_field, True), (manual, True)])
def test_only_last_writer_wins_appends_unconditionally(strategy, conditional):
    world, x = synced(strategy)
    x.put("a", {})
    world.quiesce()
    x.delete("a")
    world.quiesce()
    assert [header.conditional for header in world.hub.appended] == [conditional] * 2


def test_the_last_writer_wins_though_it_had_not_seen_the_other():
    world, x, y = synced(names="xy")
    y.put("a", "first")
    push(y)
    x.put("a", "last")
    world.quiesce()
    assert x.items() == y.items() == {"a": "last"}
    assert len(world.hub.appended) == 2


# --- refusals ---


def test_what_was_out_of_order_behind_a_refused_draft_is_sealed_anew():
    world, x, y = synced(manual, "xy")
    y.put("a", "theirs")
    push(y)
    x.put("a", "mine")
    behind = x.put("b", 1)
    first = under_way(x)[1]
    assert (parse_header(first).change_id, parse_header(first).counter) == (behind, 2)
    push(x)
    codes = [answer.code for appended in on_its_way_to(x, m.Appended) for answer in appended.answers]
    assert codes == ["conflict", "out_of_order"]
    world.quiesce()
    (again,) = [header for header in world.hub.appended if header.change_id == behind]
    assert again.counter == 1
    assert first not in log_of(x).kept.values()
    assert where(x) == ("synced", 0, 1)
    assert y.get("b") == 1


def test_an_edit_over_quota_is_kept_and_shown_and_goes_out_by_itself_when_there_is_room():
    world, x = synced()
    x.put("old", 1)
    world.quiesce()
    world.hub.full = True
    x.put("a", 1)
    world.quiesce()
    status = x.status()
    assert status.error == REFUSALS["quota_exceeded"].message
    assert (status.phase, status.unsynced) == ("sending", 1)
    assert x.get("a") == 1
    x.delete("old")  # frees room, so it does not wait
    world.quiesce()
    assert [header.kind for header in world.hub.appended] == [Kind.PUT, Kind.DELETE]
    world.hub.full = False
    world.pass_time(70)
    assert where(x) == ("synced", 0, 0)
    assert x.status().error == ""


def test_a_refusal_that_says_later_is_tried_again_later(heard):
    world, x = synced()
    world.hub.refuse_next = ["unavailable"]
    x.put("a", 1)
    world.quiesce()
    assert where(x) == ("sending", 1, 0)
    assert world.hub.appended == []
    world.pass_time(1.5)
    first, second = drafts_in(heard, x)
    assert first == second
    assert where(x) == ("synced", 0, 0)


@pytest.mark.parametrize("code", ["unavailable", "overloaded"])
def test_requests_that_the_hub_cannot_serve_go_again_byte_for_byte_in_order_and_ever_later(code, monkeypatch):
    world, x = synced()
    sent = []
    take = Line.take

    def take_and_note(line, frame):
        message = decode_from_device(frame)
        if isinstance(message, m.Append):
            sent.append((world.now.steady, message.drafts))
        take(line, frame)

    monkeypatch.setattr(Line, "take", take_and_note)
    world.hub.refuse_next = [code] * 12
    for n in range(5):
        x.put(f"k{n}", n)
    world.quiesce()
    first = [draft for _, drafts in sent for draft in drafts]
    assert [parse_header(draft).counter for draft in first] == [1, 2]  # two requests in flight, three edits wait
    world.pass_time(200)
    assert where(x) == ("synced", 0, 0)
    assert [header.counter for header in world.hub.appended] == [1, 2, 3, 4, 5]
    again = [drafts for at, drafts in sent[2:]]
    assert all(drafts[:2] == first for drafts in again[:-1])
    times = list(dict.fromkeys(at for at, _ in sent))
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(waits) >= 1.0  # as long as the hub asked for, and more each time
    assert waits[0] < 2.0
    assert max(waits) > 4.0


@pytest.mark.parametrize("what", ["Auth", "Enter", "Collections", "Subscribe"])
def test_a_handshake_that_the_hub_cannot_serve_is_begun_anew_after_a_while(what):
    world, x = synced()
    x.put("a", 1)
    world.quiesce()
    x.cut()
    x.crash()
    world.hub.refuse_once = {what: "unavailable"}
    x.connect()
    world.quiesce()
    assert world.hub.refuse_once == {}
    assert [(hangup.retry, hangup.after_s) for hangup in x.hangups] == [(True, 1.0)]
    world.settle()
    assert where(x) == ("synced", 0, 0)
    assert x.status().error == ""


# --- hanging up ---


def hang_ups():
    """Ways to decide that the line goes, each with the effects of the call that decides it."""

    def refused(code):
        def decide(world, peer):
            peer.put("first", 1)
            (frame,) = peer.to_hub
            request = decode_from_device(frame).request
            answer = m.Appended(request, peer.engine.device.space_id, [m.DraftAnswer(code=code)])
            return lambda: peer.engine.received(encode(answer), world.now)

        return decide

    def silent(world, peer):
        world._set(world.now.steady + 25.0)
        peer.engine.timer_fired(world.now)
        world._set(world.now.steady + 10.0)
        return lambda: peer.engine.timer_fired(world.now)

    return {
        "device_cloned": refused("device_cloned"),
        "stale_key_epoch": refused("stale_key_epoch"),
        "turned off": lambda world, peer: peer.engine.turn_off,
        "alarms forgotten": lambda world, peer: peer.engine.forget_alarms,
        "nonsense": lambda world, peer: lambda: peer.engine.received(b"nonsense", world.now),
        "silence": silent,
    }


@pytest.mark.parametrize("way", hang_ups())
def test_after_the_decision_to_hang_up_nothing_is_sealed_or_sent(way):
    world, x, y = synced(names="xy")
    y.put("theirs", 1)
    push(y)
    world.hub.refuse_next = ["unavailable"]
    decide = hang_ups()[way](world, x)
    x.to_hub.clear()
    x.engine._talk._hold_until = world.now.steady + 0.5
    for n in range(3):
        x.put(f"k{n}", n)  # they wait
    assert not x.to_hub
    x.engine._talk._hold_until = 0.0
    effects = decide()
    assert [type(effect) for effect in effects if isinstance(effect, Send | Hangup)][-1] is Hangup
    after = [
        *x.engine.edit(x.collections["notes"], lambda: x.collections["notes"].put("k9", 9, 0.0), world.now)[1],
        *[effect for frame in x.line.out for effect in x.engine.received(frame, world.now)],
        *x.engine.timer_fired(world.now),
        *x.engine.farewell(world.now),
        *x.engine.ask_heads(),
        *x.engine.open_collection("more", last_writer_wins, world.now)[1],
    ]
    assert not [effect for effect in after if isinstance(effect, Send | Hangup)]
    with pytest.raises(ConnectionError):
        x.engine.request(m.ListDevices)
    with pytest.raises(ConnectionError):
        x.engine.send_signal(b"body", None)
    assert x.engine.timer() is None
    for key in ("k0", "k1", "k2", "k9"):
        assert [row.state for row in rows(x, key)] == [State.WAITING]


# --- a hub that goes away ---


def test_a_hub_that_goes_away_is_asked_nothing_new_and_left_when_it_has_answered():
    world, x = synced()
    first = x.put("a", 1)
    x.line.say(m.GoingAway(2.5))
    x.line.say(m.Ping())
    assert x.step_in() and x.step_in()
    x.put("b", 2)
    assert [row.state for row in rows(x, "b")] == [State.WAITING]
    assert [type(decode_from_device(frame)) for frame in x.to_hub] == [m.Append, m.Pong]
    assert (x.status().phase, x.status().error) == ("connecting", "")
    assert x.hangups == []
    world.quiesce()
    (hangup,) = x.hangups
    assert (hangup.retry, hangup.after_s, hangup.politely) == (True, 2.5, True)
    assert [header.change_id for header in world.hub.appended] == [first]
    assert (x.status().phase, x.status().error, x.status().unsynced) == ("connecting", "", 1)
    world.settle()
    assert where(x) == ("synced", 0, 0)
    assert len(world.hub.appended) == 2


def test_a_hub_that_goes_away_and_owes_no_answer_is_left_at_once():
    _world, x = synced()
    x.line.say(m.GoingAway(0.0))
    x.step_in()
    assert [hangup.politely for hangup in x.hangups] == [True]


def test_a_hub_that_goes_away_in_the_middle_of_entering_is_not_asked_for_more():
    world, x = synced()
    x.cut()
    x.connect()
    while not x.engine.in_session:
        assert x.step_out() or x.step_in()
    x.line.out.appendleft(encode(m.GoingAway(1.0)))
    x.step_in()
    assert x.hangups == []
    x.put("a", 1)
    world.quiesce()
    assert [hangup.after_s for hangup in x.hangups] == [1.0]
    assert world.hub.appended == []
    world.settle()
    assert where(x) == ("synced", 0, 0)


def test_what_the_app_asked_a_hub_that_goes_away_is_still_answered():
    world, x = synced()
    number, effects = x.engine.request(m.ListDevices)
    x.carry_out(effects)
    x.line.say(m.GoingAway(1.0))
    x.step_in()
    assert x.engine.in_session and x.hangups == []
    with pytest.raises(ConnectionError):
        x.engine.request(m.ListDevices)
    x.line.say(m.DeviceList(number, []))
    x.step_in()
    assert [effect.number for effect in x.effects] == [number]
    assert len(x.hangups) == 1
    world.settle()


def test_a_hub_that_goes_away_without_its_answers_is_left_after_ten_seconds():
    world, x = synced()
    sealed = [x.put("a", 1)] and under_way(x)
    x.to_hub.clear()
    x.line.say(m.GoingAway(1.0))
    x.step_in()
    world.pass_time(9.9)
    assert x.hangups == []
    world.pass_time(0.2)
    assert len(x.hangups) == 1
    world.settle()
    assert list(log_of(x).kept.values()) == sealed


def test_the_person_is_told_offline_once_no_other_hub_could_be_reached():
    _world, x = synced()
    x.line.say(m.GoingAway(1.0))
    x.step_in()
    assert x.status().phase == "connecting"
    x.carry_out(x.engine.disconnected())
    assert x.status().phase == "offline"
    x.connect()
    x.carry_out(x.engine.disconnected(restarting=True))
    assert x.status().phase == "connecting"


def test_a_message_of_a_later_hub_is_passed_over():
    world, x = synced()
    x.line.out.append(msgspec.msgpack.encode({"type": "something_later", "n": 1}))
    x.put("a", 1)
    world.quiesce()
    assert where(x) == ("synced", 0, 0)
    assert x.hangups == []


# --- coming back ---


def test_coming_back_costs_an_idle_device_one_round_trip_however_many_collections_it_has(heard):
    world = World()
    names = {f"c{n}": last_writer_wins for n in range(9)}
    x = world.peer("x", **names)
    for name in ["notes", *names]:
        x.put("k", 1, name)
    world.settle()
    world.pass_time(60)  # whatever it has to state is stated
    x.cut()
    heard.clear()
    x.connect()
    answers = []
    while x.step_out():
        pass
    assert [type(message) for _, message in heard] == [m.Hello]
    x.step_in()
    assert len(x.to_hub) == 4  # and these wait for nothing
    while x.step_out() or x.line.out:
        answers += [type(decode_from_hub(frame)) for frame in x.line.out]
        while x.step_in():
            pass
    world.pass_time(20)
    assert [type(message) for _, message in heard] == [m.Hello, m.Auth, m.Enter, m.Collections, m.Subscribe]
    assert len(heard[-1][1].cursors) == 10
    assert answers == [m.Ready, m.Entered, m.CollectionList, m.Subscribed]
    assert where(x) == ("synced", 0, 0)


def test_turning_sync_on_enters_the_space_on_a_line_that_came_up_without():
    world, x = synced()
    x.carry_out(x.engine.turn_off())
    x.connect()
    world.quiesce()
    assert x.status().phase == "off"
    x.carry_out(x.engine.turn_on(world.now))
    x.put("a", 1)
    world.quiesce()
    assert where(x) == ("synced", 0, 0)


def test_a_witness_that_was_lost_is_stated_again_on_the_next_line():
    for lost in ("cut", "refused"):
        world, x, y = synced(names="xy")
        y.put("a", 1)
        world.quiesce()
        if lost == "refused":
            world.hub.refuse_once = {"Witness": "unavailable"}
            world.pass_time(20)
        else:
            x.carry_out(x.engine.farewell(world.now))
            x.cut()
            world.settle()
            world.pass_time(6)
        assert {x.device_id, y.device_id} <= log_of(x).witnesses.keys()


# --- reading ---


def test_deltas_of_several_devices_merge():
    world, x, y = synced(manual, "xy")
    x.cut()
    y.cut()
    x.delta("doc", "from x")
    y.delta("doc", "from y")
    world.settle()
    assert x.collections["notes"].deltas("doc") == y.collections["notes"].deltas("doc")
    assert set(x.collections["notes"].deltas("doc")) == {"from x", "from y"}
    x.snapshot("doc", ["from x", "from y"])
    world.quiesce()
    assert y.get("doc") == ["from x", "from y"]
    assert y.collections["notes"].deltas("doc") == []
    assert where(x) == where(y) == ("synced", 0, 0)


def test_the_first_subscribe_is_live_only_and_a_compacted_log_arrives_whole(heard):
    world, x = synced()
    for value in range(4):
        for key in "abcde":
            x.put(key, value)
        world.quiesce()
    x.delete("e")
    x.delta("doc", 1)
    world.quiesce()
    world.hub.compact()
    y = world.peer("y")
    for _ in range(2):
        world.settle()
        y.cut()
    world.settle()
    cursors = [
        cursor
        for device_id, message in heard
        if device_id == y.device_id and isinstance(message, m.Subscribe)
        for cursor in message.cursors
    ]
    assert cursors[0].live_only
    assert cursors[0].seq == 0
    assert not cursors[-1].live_only
    assert cursors[-1].seq == log_of(x).head
    assert y.items() == x.items() == {"a": 3, "b": 3, "c": 3, "d": 3, "doc": MISSING}
    assert y.collections["notes"].deltas("doc") == [1]
    assert y.alarms() == []


def test_a_hub_restored_from_an_older_backup_is_healed_and_nothing_local_goes_away():
    world, x, y = synced(names="xy")
    x.put("a", 1)
    world.quiesce()
    backup = world.hub.backup()
    later = [x.put("a", 2), y.put("b", 1)]
    world.quiesce()
    for peer in world.peers:
        peer.cut()
    world.hub.restore(backup, b"J" * 16)
    world.settle()
    assert x.items() == y.items() == {"a": 2, "b": 1}
    assert where(x) == where(y) == ("synced", 0, 0)
    assert x.alarms() == y.alarms() == []
    kept = {parse_header(sealed).change_id for sealed in log_of(x).kept.values()}
    assert set(later) <= kept
    z = world.peer("z")
    world.settle()
    assert z.items() == x.items()


def test_the_same_count_from_two_changes_heals_a_hub_without_counting_twice():
    world, x, y = synced(counter_sum("n"), "xy")
    backup = world.hub.backup()
    x.put("a", {"n": 5})
    world.quiesce()
    x.cut()
    for n in (6, 5):
        y.put("a", {"n": n})
        world.quiesce()
    y.cut()
    world.hub.restore(backup, b"J" * 16)
    for peer in (y, x):
        peer.connect()
        world.quiesce()
    assert x.items() == y.items() == {"a": {"n": 5}}
    assert where(x) == where(y) == ("synced", 0, 0)


def test_what_devices_append_again_after_a_wipe_is_not_counted_twice():
    world, x, y = synced(counter_sum("n"), "xy")
    x.put("a", {"n": 5})
    world.quiesce()
    wiped_by(y)
    world.quiesce()
    for peer in (x, y):
        peer.carry_out(peer.engine.turn_on(world.now))
    world.settle()
    assert x.items() == y.items() == {"a": {"n": 5}}
    assert where(x) == where(y) == ("synced", 0, 0)


def test_two_equal_counts_add_up_also_of_a_counter_that_both_have_made():
    world, x, y = synced(counter_sum("n"), "xy")
    for total in (2, 4):
        x.cut()
        y.put("a", {"n": total - 1})
        world.quiesce()
        x.put("a", {"n": total - 1})
        world.settle()
        assert x.items() == y.items() == {"a": {"n": total}}
    assert where(x) == ("synced", 0, 0)


def test_a_device_that_does_not_know_yet_what_there_is_does_not_say_that_it_is_synced():
    world, x = synced(names="x")
    x.put("a", 1)
    world.quiesce()
    bare = Peer(world, "z", MemoryStorage(), {})
    world.peers.append(bare)
    bare.connect()
    while bare.step_out() or bare.step_in():
        if bare.status().phase == "synced":
            break
    [known] = bare.engine.device.collections.values()
    assert known.row.seq == x.collections["notes"].row.seq == 1


# --- off, on, and wiped ---


def test_a_wipe_by_another_device_keeps_local_data_and_turns_sync_off():
    world, x, y = synced(names="xy")
    x.put("a", 1)
    world.quiesce()
    y.carry_out(y.engine.start_wipe(world.now))
    world.quiesce()
    assert y.engine.wiping_done
    assert x.effects == [Wiped()]
    assert (x.line, x.status().phase) == (None, "off")
    assert not x.hangups[-1].retry
    assert x.items() == y.items() == {"a": 1}
    assert [parse_header(sealed).kind for sealed in log_of(x).kept.values()] == [Kind.WIPE]
    x.crash()
    assert x.status().phase == "off"
    x.carry_out(x.engine.turn_on(world.now))
    x.connect()
    world.quiesce()
    assert where(x) == ("synced", 0, 0)
    assert len(log_of(x).live) == 1


def wiped_by(peer):
    """The device drops the remote copies; every frame of that has arrived, at it and at the hub."""
    wipe_of(peer)
    while peer.step_out() or peer.step_in():
        pass
    assert peer.engine.wiping_done
    peer.carry_out(peer.engine.turn_off())


def several_edits(peer):
    notes, wall = peer.collections["notes"], peer.world.now.wall

    def work():
        notes.put("old", {"n": 2}, wall)
        notes.put("new", {"n": 4}, wall)
        notes.delete("gone", wall)
        notes.append_delta("doc", "added", wall)

    peer.edit("notes", work)


@pytest.mark.parametrize("first", ["answer", "wipe"])
def test_a_draft_whose_answer_was_lost_before_a_wipe_stays_on_its_device_and_the_person_is_asked(first):
    for strategy in (last_writer_wins, per_field, manual, theirs):
        for end in ("cut", "crash"):
            world, x, y = synced(strategy, "xy")
            x.put("old", {"n": 1})
            x.put("gone", {"n": 1})
            x.delta("doc", "seen")
            world.quiesce()
            x.put("new", {"n": 3})
            several_edits(x)  # one on top of the first, which is sealed already
            push(x)
            getattr(x, end)()
            wiped_by(y)
            x.connect()
            local = {"old": {"n": 2}, "new": {"n": 4}, "doc": MISSING}
            while x.step_out() or x.step_in():
                if first == "answer":
                    x.overtake()
                assert x.items() == local
                assert set(x.collections["notes"].deltas("doc")) == {"seen", "added"}
            assert x.effects == [Wiped()]
            assert x.status().phase == "off"
            assert x.status().unsynced > 0
            assert [parse_header(sealed).kind for sealed in log_of(x).kept.values()] == [Kind.WIPE]
            x.carry_out(x.engine.turn_on(world.now))
            z = world.peer("z", strategy)
            for peer in (x, z):
                peer.connect()
            world.quiesce()
            assert where(x) == ("synced", 0, 0)
            assert x.items() == z.items() == local
            assert set(z.collections["notes"].deltas("doc")) == {"seen", "added"}


def test_a_draft_that_was_wiped_is_appended_anew_when_the_wipe_was_read_before_its_answer():
    for strategy in (last_writer_wins, per_field, manual, theirs):
        world, x, y = synced(strategy, "xy")
        x.put("a", {"n": 1})
        x.delta("doc", "added")
        push(x)
        x.cut()
        while y.step_in():
            pass
        wiped_by(y)
        world.hub.refuse_next = ["unavailable"]  # so that the drafts have no answer when the wipe is read
        x.connect()
        while x.step_out() or x.step_in():
            pass
        assert x.status().phase == "off"
        assert x.get("a") == {"n": 1}
        x.carry_out(x.engine.turn_on(world.now))
        x.connect()
        world.quiesce()
        assert where(x) == ("synced", 0, 0)
        assert x.get("a") == {"n": 1}
        assert x.collections["notes"].deltas("doc") == ["added"]
        assert len(log_of(x).live) == 2


@pytest.mark.parametrize("strategy", [last_writer_wins, per_field, manual, theirs])
@pytest.mark.parametrize("first", ["answer", "wipe"])
def test_an_edit_that_was_wiped_does_not_come_after_the_next_of_its_record(first, strategy):
    world, x, y = synced(strategy, "xy")
    x.put("a", {"n": 1})
    push(x)
    x.cut()
    while y.step_in():
        pass
    wiped_by(y)
    x.put("a", {"n": 2})
    x.connect()
    while x.step_out() or x.step_in():
        if first == "answer":
            x.overtake()
        assert x.get("a") == {"n": 2}
    assert x.status().phase == "off"
    go_on(x)
    z = world.peer("z", strategy)
    z.connect()
    world.quiesce()
    assert where(x) == ("synced", 0, 0)
    assert x.get("a") == z.get("a") == {"n": 2}


def test_an_edit_whose_base_is_wiped_waits_until_the_wipe_is_read():
    """Refused because the log has not got its base: asked again before that is read, it would be refused again."""
    asked = []

    def strategy(conflict):
        asked.append(conflict)
        return theirs(conflict)

    world, x, y = synced(strategy, "xy")
    x.put("a", {"n": 1})
    push(x)
    x.overtake()
    x.step_in()  # acknowledged, and not read yet
    assert [row.state for row in rows(x, "a")] == [State.ACKED]
    while y.step_in():
        pass
    wipe_of(y)
    push(y)
    x.put("a", {"n": 2})
    push(x)
    x.overtake()
    x.step_in()
    assert not x.to_hub
    assert asked == []
    world.quiesce()
    assert x.get("a") == {"n": 2}
    x.carry_out(x.engine.turn_on(world.now))
    x.connect()
    world.quiesce()
    assert where(x) == ("synced", 0, 0)
    assert x.get("a") == {"n": 2}


def go_on(peer):
    """The person switches sync on again; the device and the hub say all they have to say."""
    peer.carry_out(peer.engine.turn_on(peer.world.now))
    for _ in range(3):  # a line that ends in between is followed by another
        peer.connect()
        while peer.step_out() or peer.step_in():
            pass
    assert peer.status().phase == "synced"


def with_a_used_counter(lost):
    """Two devices; of one the log has change 1 and lacks the ``lost`` behind it, and it holds none of those any more.

    They were deltas that both devices appended again after a wipe, and it met the other's.
    """
    world, x, y = synced(per_field, "xy")
    world.hub.limits["drafts_per_append_max"] = 1
    for n in range(1 + lost):
        y.delta("doc", n)
        world.quiesce()
    wiped_by(y)
    world.quiesce()
    x.carry_out(x.engine.turn_on(world.now))
    x.connect()
    while not under_way(x):
        assert x.step_out() or x.step_in()
    while not any(header.device_id == x.device_id for header in world.hub.appended):
        x.step_out()
    x.cut()
    go_on(y)
    wiped_by(y)
    go_on(y)
    for _ in range(2):
        world.hub.refuse_next = ["unavailable"] * (1 + lost)
        x.carry_out(x.engine.turn_on(world.now))
        x.connect()
        world.quiesce()
    world.hub.refuse_next = []
    assert rows(x, "doc") == []
    assert [header.counter for header in world.hub.appended if header.device_id == x.device_id] == [1]
    assert x.collections["notes"].row.counter == 1 + lost
    return world, x, y


@pytest.mark.parametrize("lost", [0, 1])
def test_counters_that_are_used_are_not_used_again_when_their_rows_are_gone(lost):
    world, x, y = with_a_used_counter(lost)
    y.put("a", {"n": 1})
    push(y)
    x.put("a", {"m": 1})
    world.pass_time(30)
    assert where(x) == ("synced", 0, 0)
    assert x.get("a") == y.get("a") == {"n": 1, "m": 1}
    assert [header.counter for header in world.hub.appended if header.device_id == x.device_id] == [1, 2]


def test_an_edit_of_a_record_that_was_wiped_meanwhile_is_no_edit_of_a_deleted_one():
    asked = []

    def strategy(conflict):
        asked.append(conflict)
        return theirs(conflict)

    for read_first in (False, True):
        world, x, y = synced(strategy, "xy")
        x.put("a", {"n": 1})
        world.quiesce()
        wipe_of(y)
        if read_first:
            x.put("a", {"n": 2})
            x.to_hub.clear()  # sealed, and lost on the way
            push(y)
        else:
            push(y)
            x.put("a", {"n": 2})  # the wipe is in the log, and not read here
        for _ in range(3):
            world.quiesce()
            assert x.get("a") == {"n": 2}
        x.carry_out(x.engine.turn_on(world.now))
        x.connect()
        world.quiesce()
        assert where(x) == ("synced", 0, 0)
        assert x.get("a") == {"n": 2}
        assert len(log_of(x).live) == 1
    assert asked == []


@pytest.mark.parametrize("strategy", [last_writer_wins, per_field, theirs])
def test_a_wipe_that_is_read_after_the_person_went_on_is_settled_with_what_came_after_it(strategy):
    world = World()
    x, y = (world.peer(name, strategy, other=strategy) for name in "xy")
    world.settle()
    for collection in ("notes", "other"):
        x.put("k", {"n": 1}, collection=collection)
    world.quiesce()
    x.cut()
    wiped_by(y)
    y.carry_out(y.engine.turn_on(world.now))
    y.connect()
    for collection in ("notes", "other"):
        y.put("k", {"n": 2}, collection=collection)
    while y.step_out() or y.step_in():
        pass
    x.connect()
    while x.line and (x.step_out() or x.step_in()):
        pass
    assert x.status().phase == "off"  # asked at the first of the two wipes; the other is not read
    go_on(x)
    world.quiesce()
    world.pass_time(30)
    assert where(x) == where(y) == ("synced", 0, 0)
    assert x.items("notes") == y.items("notes")
    assert x.items("other") == y.items("other")


def test_edits_made_while_sync_is_off_go_out_when_it_is_turned_on():
    world, x = synced()
    x.carry_out(x.engine.turn_off())
    assert not x.hangups[-1].retry
    x.put("a", 1)
    x.connect()
    world.quiesce()
    assert where(x) == ("off", 1, 0)
    assert world.hub.appended == []
    x.cut()
    x.carry_out(x.engine.turn_on(world.now))
    assert where(x) == ("offline", 1, 0)
    world.settle()
    assert where(x) == ("synced", 0, 0)
    assert len(world.hub.appended) == 1


# --- time ---


def test_witnesses_are_sent_soon_after_acks():
    world, x, y = synced(names="xy")
    world.pass_time(10)
    log_of(x).witnesses.clear()
    x.put("a", 1)
    world.quiesce()
    assert log_of(x).witnesses == {}
    world.pass_time(2.5)
    assert list(log_of(x).witnesses) == [x.device_id]
    assert y.engine.witnessed_seqs(y.collections["notes"].n) == {x.device_id: log_of(x).head}
    world.pass_time(3)
    assert set(log_of(x).witnesses) == {x.device_id, y.device_id}


def test_a_connection_with_work_on_which_nothing_moves_is_aborted(heard):
    world, x = synced()
    x.put("a", 1)
    x.to_hub.clear()  # the hub never hears of it, and goes on answering pings
    world.pass_time(59)
    assert x.hangups == []
    assert any(isinstance(message, m.Ping) for _, message in heard)
    world.pass_time(2)
    assert [(hangup.reason, hangup.retry) for hangup in x.hangups] == [("there is work and nothing moves", True)]
    world.settle()
    assert where(x) == ("synced", 0, 0)


def test_a_connection_on_which_the_hub_is_silent_is_aborted():
    world, x = synced()
    x.line.take = lambda frame: None
    world.pass_time(34)
    assert x.hangups == []
    world.pass_time(2)
    assert [hangup.reason for hangup in x.hangups] == ["the hub does not answer"]


# --- the status ---


def test_the_status_says_where_an_edit_is_and_how_long_it_has_waited():
    world = World()
    x = world.peer("x", storage=MemoryStorage())
    status = x.status()
    assert (status.phase, status.unsynced, status.oldest_unsynced_age_s) == ("offline", 0, 0.0)
    assert (status.last_appended_at, status.head_seen_at, status.alarms, status.error) == (0.0, 0.0, (), "")
    change_id = x.put("a", 1)
    world.pass_time(30)
    x.put("b", 1)
    world.pass_time(12)
    status = x.status()
    assert (status.unsynced, status.oldest_unsynced_age_s, status.progress.remaining) == (2, 42.0, 2)
    assert not x.engine.is_appended(change_id)
    x.connect()
    assert x.status().phase == "connecting"
    seen = []
    while x.step_out() or x.step_in():
        seen.append(x.status().phase)
    assert list(dict.fromkeys(seen)) == ["connecting", "catching-up", "sending", "synced"]
    status = x.status()
    assert (status.unsynced, status.oldest_unsynced_age_s, status.progress.remaining) == (0, 0.0, 0)
    assert status.last_appended_at == status.head_seen_at == world.now.wall
    assert x.engine.is_appended(change_id)
    x.cut()
    assert where(x) == ("offline", 0, 0)


def test_turning_on_after_a_wipe_of_many_collections_is_said_once():
    world = World(7)
    x = world.peer("x", other=last_writer_wins)
    y = world.peer("y", other=last_writer_wins)
    x.put("k", 1)
    x.put("k", 2, collection="other")
    world.settle()
    assert y.items() == {"k": 1} and y.items("other") == {"k": 2}
    x.carry_out(x.engine.start_wipe(world.now))
    while x.step_out() or x.step_in():
        pass
    assert x.engine.wiping_done
    x.carry_out(x.engine.turn_off())
    while not y.engine.device.storage.setting("wiped"):
        assert y.step_out() or y.step_in()
    y.carry_out(y.engine.turn_on(world.now))  # with the wipe of the second collection still unread
    world.settle()
    world.pass_time(30)
    world.settle()
    assert y.engine.device.mode == "on" and y.status().phase == "synced"
    assert y.items() == {"k": 1} and y.items("other") == {"k": 2}
    fresh = world.peer("z", other=last_writer_wins)
    world.settle()
    assert fresh.items() == {"k": 1} and fresh.items("other") == {"k": 2}
    fresh.carry_out(fresh.engine.start_wipe(world.now))
    world.quiesce()
    assert y.engine.device.mode == "off"  # a later wipe is asked about anew


# --- the account lives elsewhere ---

ELSEWHERE = "wss://new.example.org/v1/ws"


def moved(world, *peers):
    """The account leaves for another hub; its devices come here once more and are told."""
    for peer in peers:
        peer.cut()
    world.hub.moved_to = ELSEWHERE
    world.settle()
    for peer in peers:
        peer.drop_line()
        peer.carry_out(peer.engine.disconnected(str(Closed(CLOSINGS["moved"].code, ""))))
    world.hub.moved_to = ""
    world.hub.url = ELSEWHERE
    world.hub.restore(world.hub.backup(), b"J" * 16)


def test_a_device_that_is_told_of_a_move_says_so_and_goes_nowhere_by_itself():
    world, x = synced()
    moved(world, x)
    status = x.status()
    assert (status.moved_to, status.phase) == (ELSEWHERE, "blocked")
    assert status.error == CLOSINGS["moved"].message
    x.crash()
    assert x.status().moved_to == ELSEWHERE
    assert x.engine.device.identity.hub_url == HUB_URL


def test_a_device_that_follows_goes_on_as_the_same_one_with_all_that_is_unsent():
    world, x, y = synced(names="xy")
    x.put("a", 1)
    world.settle()
    moved(world, x, y)
    x.put("b", 2)
    for peer in (x, y):
        peer.carry_out(peer.engine.follow(ELSEWHERE))
    assert x.status().moved_to == "" and x.engine.device.identity.device_id == x.device_id
    world.settle()
    assert x.items() == y.items() == {"a": 1, "b": 2}
    assert where(x) == where(y) == ("synced", 0, 0)
    assert [header.counter for header in world.hub.appended] == [1, 2]


def test_a_device_that_has_followed_dials_there_also_after_a_crash():
    world, x = synced()
    moved(world, x)
    x.carry_out(x.engine.follow(ELSEWHERE))
    assert x.storage.setting("hub_url") == ELSEWHERE.encode()
    assert x.storage.setting("blocked") is None and x.storage.setting("moved_to") is None


def test_where_the_device_is_known_under_another_account_it_stops_and_sends_nothing():
    world, x = synced()
    moved(world, x)
    x.put("secret", 1)
    world.hub.account_id = b"B" * 16
    appended = len(world.hub.appended)
    x.carry_out(x.engine.follow(ELSEWHERE))
    world.settle()
    assert x.status().phase == "blocked" and "another account" in x.status().error
    assert x.hangups[-1].retry is False
    assert len(world.hub.appended) == appended and x.items() == {"secret": 1}
    assert x.storage.setting("account_id") == ACCOUNT


def test_a_device_that_is_let_in_forgets_that_the_account_had_moved():
    world, x = synced()
    moved(world, x)
    world.hub.url = ""
    x.carry_out(x.engine.turn_on(world.now))
    world.settle()
    assert x.status().moved_to == "" and x.status().phase == "synced"


def test_a_person_may_say_follow_before_the_hub_has_hung_up():
    world, x = synced()
    x.cut()
    world.hub.moved_to = ELSEWHERE
    world.settle()
    assert x.status().moved_to == ELSEWHERE
    effects = x.engine.follow(ELSEWHERE)
    x.drop_line()
    x.carry_out([*effects, *x.engine.disconnected("the account lives at another hub now")])
    assert x.status().phase == "offline" and x.status().error == ""


# --- healing together ---


def emptied(world, *peers):
    """The hub loses everything while nobody is connected."""
    for peer in peers:
        peer.cut()
    world.hub.restore({}, b"J" * 16)


def read_all(*peers):
    """All of them read the log to its head before any of them appends to it."""
    for peer in peers:
        peer.connect()
        while not under_way(peer) and (peer.step_out() or peer.step_in()):
            pass


@pytest.mark.parametrize("first", ["x", "y"])
def test_an_edit_that_waits_is_not_undone_by_a_device_that_brings_back_what_was_before(first):
    world, x, y = synced(names="xy")
    x.put("a", "old")
    x.put("gone", "old")
    world.settle()
    emptied(world, x, y)
    x.put("a", "new")
    x.delete("gone")
    peers = {"x": x, "y": y}
    other = peers["y" if first == "x" else "x"]
    read_all(x, y)
    push(peers[first])
    push(other)
    world.settle()
    assert x.items() == y.items()
    assert x.items()["a"] == "new"
    assert where(x) == where(y) == ("synced", 0, 0)


def test_an_older_copy_that_was_brought_back_first_gives_way_to_the_newer_one():
    world, x, y = synced(names="xy")
    x.put("a", 1)
    world.settle()
    y.cut()
    x.put("a", 2)
    world.quiesce()
    emptied(world, x, y)
    read_all(x, y)
    push(y)
    world.settle()
    assert x.items() == y.items() == {"a": 2}
